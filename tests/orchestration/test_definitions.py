"""The Dagster UI describes everything, shows the settings, and never shows a secret."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import dagster as dg
import pytest
from pydantic import SecretStr

from orchestration.definitions import defs
from orchestration.partitions import FILES_JOB, JOB, course_partitions
from orchestration.resources import (
    CatalogueResource,
    DocumentResource,
    ExaminationResource,
    GpuResource,
    SearchAppResource,
    SettingsResource,
    SnapshotResource,
    VectorStoreResource,
)
from orchestration.run_config import OP
from orchestration.uploaded_files.run_config import FILES_OP

REPOSITORY = defs.get_repository_def()
RESOURCES: dict[str, type[SettingsResource]] = {
    "catalogue": CatalogueResource,
    "vector_store": VectorStoreResource,
    "snapshots": SnapshotResource,
    "documents": DocumentResource,
    "examination": ExaminationResource,
    "gpu": GpuResource,
    "search_app": SearchAppResource,
}
every_resource = pytest.mark.parametrize("name", RESOURCES)

PASSWORD = "hunter2"
SECRETS = {
    "DATABASE_URL": f"postgresql://user:{PASSWORD}@db.example/catalogue",
    "EMBEDDING_SERVICE_TOKEN": PASSWORD,
    "EMBEDDING_SERVICE_URL": f"https://user:{PASSWORD}@embedding.example",
    "CHROMA_URL": f"https://user:{PASSWORD}@chroma.example",
}


def resources_of(definitions: dg.Definitions) -> Mapping[str, dg.ResourceDefinition]:
    return definitions.get_repository_def().get_top_level_resources()


def shown_values(resource: dg.ResourceDefinition) -> dict[str, Any]:
    """The values that the Dagster UI shows for the fields of a resource."""
    values: dict[str, Any] = json.loads(resource.config_schema.default_value_as_json_str)
    return values


def test_definitions_are_loadable() -> None:
    dg.Definitions.validate_loadable(defs)
    assert defs.resolve_job_def(JOB).partitions_def == course_partitions


def test_the_launchpad_describes_how_to_rebuild() -> None:
    schema: Any = defs.resolve_job_def(JOB).run_config_schema.run_config_schema_type
    config = schema.fields["ops"].config_type.fields[OP].config_type.fields["config"].config_type
    assert "embed every chunk again" in config.fields["rebuild"].description
    assert not config.fields["rebuild"].default_value
    assert "the run embeds the courses of its partitions" in config.fields["courses"].description


def test_the_launchpad_describes_how_to_read_files_again() -> None:
    schema: Any = defs.resolve_job_def(FILES_JOB).run_config_schema.run_config_schema_type
    config = schema.fields["ops"].config_type.fields[FILES_OP].config_type.fields["config"].config_type
    assert "If empty: all that wait" in config.fields["resource_ids"].description


def test_every_asset_has_description_kinds_owners_and_group() -> None:
    for asset in REPOSITORY.asset_graph.asset_nodes:
        assert asset.description, asset.key
        assert asset.kinds, asset.key
        assert asset.owners, asset.key
        assert asset.group_name != "default", asset.key


def test_every_check_has_a_description() -> None:
    checks = [REPOSITORY.asset_graph.get_check_spec(key) for key in REPOSITORY.asset_graph.asset_check_keys]
    assert [check.name for check in checks if not check.description] == []


def test_the_jobs_and_every_sensor_have_description_and_owners() -> None:
    for job in map(defs.resolve_job_def, (JOB, FILES_JOB)):
        assert job.description
        assert job.owners
    for sensor in REPOSITORY.sensor_defs:
        assert sensor.description, sensor.name
        assert sensor.owners, sensor.name


def test_the_definitions_contain_every_resource() -> None:
    assert set(resources_of(defs)) == set(RESOURCES)


@every_resource
def test_every_resource_has_a_description_of_one_line(name: str) -> None:
    """The UI renders Markdown, so the indented lines of a longer docstring would become a code block."""
    description = resources_of(defs)[name].description
    assert description
    assert "\n" not in description


@every_resource
def test_every_field_of_a_resource_is_shown_with_a_description(name: str) -> None:
    resource = resources_of(defs)[name]
    schema: Any = resource.config_schema.as_field().config_type
    field_names = set(RESOURCES[name].model_fields)
    assert set(schema.fields) == field_names
    assert set(shown_values(resource)) == field_names
    for field_name, field in schema.fields.items():
        setting, _, description = field.description.partition(": ")
        assert setting == field_name.upper()
        assert description


@pytest.mark.parametrize("source", ["environment", ".env"])
def test_a_secret_is_shown_as_the_name_of_its_environment_variable(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting, value in SECRETS.items():
        monkeypatch.setenv(setting, value if source == "environment" else "")  # an empty value counts as missing
    if source == ".env":
        (tmp_path / ".env").write_text("".join(f"{setting}={value}\n" for setting, value in SECRETS.items()))
    configured = {name: resource.from_environment() for name, resource in RESOURCES.items()}
    resources = resources_of(dg.Definitions(resources=configured))
    shown = {name: shown_values(resource) for name, resource in resources.items()}
    assert PASSWORD not in json.dumps(shown)
    assert shown["catalogue"]["database_url"] == {"env": "DATABASE_URL"}
    assert shown["vector_store"]["chroma_url"] == {"env": "CHROMA_URL"}
    assert shown["gpu"]["embedding_service_url"] == {"env": "EMBEDDING_SERVICE_URL"}
    assert shown["gpu"]["embedding_service_token"] == {"env": "EMBEDDING_SERVICE_TOKEN"}
    with dg.build_resources(configured) as used:
        assert used.catalogue.settings().database_url == SECRETS["DATABASE_URL"]
        assert used.gpu.settings().embedding_service_token.get_secret_value() == PASSWORD


@every_resource
def test_every_field_with_a_secret_type_is_declared_as_secret(name: str) -> None:
    resource = RESOURCES[name]
    secret_fields = {
        field_name
        for field_name in resource.model_fields
        if SecretStr in get_args(resource.SETTINGS.model_fields[field_name].annotation)
    }
    assert secret_fields <= set(resource.SECRETS)


def test_sensors_see_a_changed_model_at_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code server lives for long, and every run reads the settings anew."""
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    gpu = GpuResource.from_environment()
    before = gpu.signature()
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "100")
    assert gpu.signature() != before
