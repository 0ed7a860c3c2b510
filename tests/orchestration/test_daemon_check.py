"""`doctor` says why nothing is embedded: a damaged storage, sensors that are not evaluated, are off or fail."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (  # noqa: TID251 - there is no public way to write what the daemon writes
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (  # noqa: TID251
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin  # noqa: TID251
from dagster_shared.error import SerializableErrorInfo

from maintenance.checks.findings import Level
from orchestration import definitions
from orchestration.daemon_check import LOCATION, OFF_BY_DEFAULT, check_daemon
from orchestration.instance.files import instance_file
from orchestration.instance.storage import FORGOTTEN, damage, move_damaged_files, sqlite_files
from orchestration.prepare import main

ERROR = SerializableErrorInfo("ValueError: no\nplace", [], "ValueError")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(instance_file(postgres=False, celery=False), tmp_path / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def prepared(home: Path) -> Iterator[dg.DagsterInstance]:
    assert main() == []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def write_sensor(
    instance: dg.DagsterInstance,
    name: str,
    status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
    ticks: tuple[TickStatus, ...] = (),
    location: str = LOCATION,
    age: float = 0,
) -> None:
    target = LoadableTargetOrigin(python_file="nowhere.py")
    code = InProcessCodeLocationOrigin(target, location_name=location)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), name)
    state = InstigatorState(origin, InstigatorType.SENSOR, status)
    instance.add_instigator_state(state)
    for number, tick in enumerate(ticks):
        error = ERROR if tick is TickStatus.FAILURE else None
        moment = time.time() - age - len(ticks) + number
        instance.create_tick(
            TickData(
                origin.get_id(),
                name,
                InstigatorType.SENSOR,
                tick,
                moment,
                selector_id=state.selector_id,
                error=error,
            )
        )


def findings(home: Path) -> list[tuple[Level, str]]:
    return [(finding.level, finding.message) for finding in check_daemon(home)]


def test_an_instance_without_storage_is_not_created(home: Path) -> None:
    [(level, message)] = findings(home)
    assert level is Level.WARNING
    assert message.startswith("Dagster has no storage yet, or a part of it is missing: ")
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]


def test_an_instance_that_was_not_prepared_evaluates_nothing(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)):
        pass
    [(level, message)] = findings(home)
    assert level is Level.ERROR
    assert "was not prepared" in message


@pytest.mark.parametrize("ticks", [(), (TickStatus.SKIPPED,), (TickStatus.STARTED,)])
def test_without_recent_ticks_nothing_is_embedded(
    home: Path, prepared: dg.DagsterInstance, ticks: tuple[TickStatus, ...]
) -> None:
    """The daemon does not run, or cannot load the code location, or write ticks; ticks of others do not count."""
    write_sensor(prepared, "a_sensor", ticks=ticks, age=400 if TickStatus.SKIPPED in ticks else 0)
    write_sensor(prepared, "foreign", ticks=(TickStatus.SKIPPED,), location="another")
    assert findings(home) == [
        (Level.WARNING, "No sensor was evaluated in the last 5 minutes, so nothing is embedded"),
    ]


def test_recent_ticks_are_fine(home: Path, prepared: dg.DagsterInstance) -> None:
    """With earlier failures, one that has begun, a sensor that is off by default, and one of another project."""
    write_sensor(prepared, "not_evaluated_now", ticks=(TickStatus.FAILURE,), age=400)
    write_sensor(prepared, "a_sensor", ticks=(TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.STARTED))
    write_sensor(prepared, OFF_BY_DEFAULT[0], InstigatorStatus.STOPPED)
    write_sensor(prepared, "foreign", InstigatorStatus.STOPPED, location="another")
    assert findings(home) == [(Level.OK, "The sensors work")]


def test_sensors_that_are_switched_off_or_fail_are_named(home: Path, prepared: dg.DagsterInstance) -> None:
    write_sensor(prepared, "stopped_sensor", InstigatorStatus.STOPPED, (TickStatus.FAILURE,))
    write_sensor(prepared, "failing_sensor", ticks=(TickStatus.SKIPPED, TickStatus.FAILURE, TickStatus.STARTED))
    write_sensor(prepared, OFF_BY_DEFAULT[0], InstigatorStatus.RUNNING, (TickStatus.FAILURE,))
    assert sorted(findings(home)) == [
        (Level.ERROR, "alert_sensor fails: ValueError: no place"),
        (Level.ERROR, "failing_sensor fails: ValueError: no place"),
        (Level.WARNING, "stopped_sensor is switched off"),
    ]


def test_the_sensors_that_are_off_by_default_are_known() -> None:
    sensors = definitions.defs.sensors or ()
    off = [each.name for each in sensors if each.default_status is dg.DefaultSensorStatus.STOPPED]
    assert off == list(OFF_BY_DEFAULT)


@pytest.mark.parametrize("name", FORGOTTEN)
@pytest.mark.parametrize("damaged", [slice(4096, 8192), slice(0, 4096)], ids=["page", "header"])
def test_a_damaged_file_is_named_and_the_next_start_moves_it_away(home: Path, name: str, damaged: slice) -> None:
    assert main() == []
    path = home / name
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = version_num")
        connection.commit()
        content = bytearray(path.read_bytes())
        content[damaged] = bytes(4096)
        path.write_bytes(content)
        log = path.with_name(f"{path.name}-wal").read_bytes()
        [(level, message)] = findings(home)
        assert level is Level.ERROR
        assert message.startswith(f"Dagster's storage is damaged, so nothing is embedded: {path} (")
        [line] = main()
        [moved_log] = path.parent.glob(f"{path.name}.damaged-*-wal")
        assert moved_log.read_bytes() == log
    assert line.startswith(f"{path} was damaged (")
    assert line.endswith(f"Dagster forgets its {FORGOTTEN[name]}")
    [moved] = path.parent.glob(f"{path.name}.damaged-*[0-9]")
    assert moved.read_bytes() == content
    assert [level for level, _ in findings(home)] == [Level.WARNING], "no tick yet"
    assert main() == []


def test_a_locked_file_is_no_damage(home: Path, prepared: dg.DagsterInstance) -> None:
    path = home / "history" / "runs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("PRAGMA quick_check(1)")
        assert damage(path) == ""


def test_files_of_a_former_storage_are_not_looked_at(home: Path) -> None:
    (home / "history").mkdir()
    (home / "history" / "runs.db").write_text("no database " * 1000)
    url = "postgresql://nobody@127.0.0.1:1/dagster"
    (home / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{url}'}}}}\n")
    assert move_damaged_files(home) == []


@pytest.mark.parametrize("directory", ["{env: STORAGE}", "{directory}"])
def test_a_directory_of_their_own_is_found(home: Path, monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    own = home / "own"
    monkeypatch.setenv("STORAGE", str(own))
    line = f"storage: {{sqlite: {{base_dir: {directory.replace('{directory}', str(own))}}}}}\n"
    (home / "dagster.yaml").write_text(line)
    assert set(sqlite_files(home)) == {own / name for name in FORGOTTEN}


@pytest.mark.postgres
def test_no_tables_are_created_in_postgresql(home: Path, postgres_url: str) -> None:
    (home / "dagster.yaml").write_text(f"storage: {{postgres: {{postgres_url: '{postgres_url}'}}}}\n")
    for _ in range(2):
        [(level, message)] = findings(home)
        assert (level, "cannot be read" in message) == (Level.ERROR, True), message
    main()
    assert [level for level, _ in findings(home)] == [Level.WARNING], "no tick yet"


def test_an_instance_that_cannot_be_opened_is_an_error(home: Path) -> None:
    (home / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: NO_SUCH_VARIABLE}}}\n")
    [(level, message)] = findings(home)
    assert level is Level.ERROR
    assert "cannot be read" in message
    assert "NO_SUCH_VARIABLE" in message
