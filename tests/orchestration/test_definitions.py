"""Nothing in the Dagster UI is without a word on what it is and whose it is."""

from orchestration.definitions import defs

REPOSITORY = defs.get_repository_def()


def test_every_asset_is_described() -> None:
    for asset in REPOSITORY.asset_graph.asset_nodes:
        assert asset.description, asset.key
        assert asset.kinds, asset.key
        assert asset.owners, asset.key
        assert asset.group_name != "default", asset.key


def test_every_check_is_described() -> None:
    checks = [REPOSITORY.asset_graph.get_check_spec(key) for key in REPOSITORY.asset_graph.asset_check_keys]
    assert [check.name for check in checks if not check.description] == []


def test_every_job_and_sensor_is_described() -> None:
    job = defs.resolve_job_def("embed_course")
    assert job.description
    assert job.owners
    for sensor in REPOSITORY.sensor_defs:
        assert sensor.description, sensor.name
        assert sensor.owners, sensor.name


def test_every_resource_is_described() -> None:
    for name, resource in REPOSITORY.get_top_level_resources().items():
        assert resource.description, name
