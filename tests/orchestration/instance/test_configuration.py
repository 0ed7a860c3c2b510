"""An instance whose `dagster.yaml` is of an earlier version is named, because dead workers would not be found in it."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from orchestration.instance import prepared
from orchestration.instance.files import instance_file

SHIPPED = Path(prepared.__file__).with_name("dagster.yaml")


def problem_with(directory: Path, configuration: str) -> str:
    (directory / "dagster.yaml").write_text(configuration)
    with dg.DagsterInstance.from_config(str(directory)) as instance:
        return prepared.configuration_problem(instance)


def test_the_shipped_configuration_has_no_problem(tmp_path: Path) -> None:
    assert problem_with(tmp_path, SHIPPED.read_text()) == ""


def test_a_configuration_without_our_run_launcher_or_run_monitoring_is_named(tmp_path: Path) -> None:
    without_launcher = SHIPPED.read_text().partition("run_launcher:")[0]
    assert "run_launcher" in problem_with(tmp_path, without_launcher)
    unmonitored = SHIPPED.read_text().replace("run_monitoring:\n  enabled: true", "run_monitoring:\n  enabled: false")
    assert "run_monitoring" in problem_with(tmp_path, unmonitored)


def test_the_shipped_configurations_differ_only_in_storage() -> None:
    files = [yaml.safe_load(SHIPPED.with_name(name).read_text()) for name in ("dagster.yaml", "dagster-postgres.yaml")]
    storages = [file.pop("storage", None) for file in files]
    assert files[0] == files[1]
    assert storages == [None, {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}]


def test_the_configuration_for_celery_differs_only_in_who_launches_runs_and_how_many() -> None:
    postgres, celery = (
        yaml.safe_load(instance_file(postgres=True, celery=is_celery).read_text()) for is_celery in (False, True)
    )
    assert celery["run_launcher"].pop("class") != postgres["run_launcher"].pop("class")
    assert celery["run_launcher"].pop("module") != postgres["run_launcher"].pop("module")
    pool = celery["concurrency"]["pools"].pop("default_limit")
    assert pool < celery["concurrency"]["runs"].pop("max_concurrent_runs"), "uploaded files are read meanwhile"
    del postgres["concurrency"]["pools"]["default_limit"], postgres["concurrency"]["runs"]["max_concurrent_runs"]
    assert celery == postgres


def test_celery_needs_postgresql() -> None:
    with pytest.raises(ValueError, match="set DAGSTER_POSTGRES_URL, or remove CELERY_BROKER_URL"):
        instance_file(postgres=False, celery=True)
