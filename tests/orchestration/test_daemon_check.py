"""`doctor` says why nothing is embedded: a damaged storage, no daemon, or a sensor that is off or fails."""

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
from dagster._daemon.types import DaemonHeartbeat
from dagster_shared.error import SerializableErrorInfo

from maintenance.checks.findings import Level
from orchestration import definitions
from orchestration.daemon_check import LOCATION, OFF_BY_DEFAULT, SENSOR_DAEMON, SQLITE_FILES, check_daemon
from orchestration.instance.files import instance_file
from orchestration.prepare import main

ERROR = SerializableErrorInfo("ValueError: no\nplace", [], "ValueError")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copy(instance_file(postgres=False, celery=False), tmp_path / "dagster.yaml")
    return tmp_path


@pytest.fixture
def running(home: Path) -> Iterator[dg.DagsterInstance]:
    """An instance whose daemon has just written its heartbeat."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        write_heartbeat(instance)
        yield instance


def write_heartbeat(
    instance: dg.DagsterInstance, *, age: float = 0, error: SerializableErrorInfo | None = None
) -> None:
    heartbeat = DaemonHeartbeat(time.time() - age, SENSOR_DAEMON, "1", [error] if error else [])
    instance.add_daemon_heartbeat(heartbeat)


def write_sensor(
    instance: dg.DagsterInstance,
    name: str,
    status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
    ticks: tuple[TickStatus, ...] = (),
    location: str = LOCATION,
) -> None:
    target = LoadableTargetOrigin(python_file="nowhere.py")
    code = InProcessCodeLocationOrigin(target, location_name=location)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), name)
    state = InstigatorState(origin, InstigatorType.SENSOR, status)
    instance.add_instigator_state(state)
    for number, tick in enumerate(ticks):
        error = ERROR if tick is TickStatus.FAILURE else None
        moment = time.time() - len(ticks) + number
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


def test_a_daemon_without_a_fresh_heartbeat_does_not_run(home: Path) -> None:
    expected = [(Level.WARNING, "Dagster's daemon does not run, so nothing is embedded")]
    assert findings(home) == expected
    with dg.DagsterInstance.from_config(str(home)) as instance:
        write_heartbeat(instance, age=200)
    assert findings(home) == expected


def test_a_running_daemon_with_working_sensors_is_fine(home: Path, running: dg.DagsterInstance) -> None:
    """A tick that has begun, an earlier failure, sensors that are off by default and those of other projects too."""
    write_sensor(running, "a_sensor", ticks=(TickStatus.FAILURE, TickStatus.SKIPPED, TickStatus.STARTED))
    write_sensor(running, OFF_BY_DEFAULT[0], InstigatorStatus.STOPPED)
    write_sensor(running, "foreign", InstigatorStatus.STOPPED, location="another")
    assert findings(home) == [(Level.OK, "Its daemon runs, and the sensors work")]


def test_sensors_that_are_off_or_fail_and_errors_of_the_daemon_are_named(
    home: Path, running: dg.DagsterInstance
) -> None:
    write_heartbeat(running, error=ERROR)
    write_sensor(running, "stopped_sensor", InstigatorStatus.STOPPED, (TickStatus.FAILURE,))
    write_sensor(running, "failing_sensor", ticks=(TickStatus.SKIPPED, TickStatus.FAILURE, TickStatus.STARTED))
    assert sorted(findings(home)) == [
        (Level.ERROR, "failing_sensor fails: ValueError: no place"),
        (Level.WARNING, "Dagster's daemon has failed to evaluate sensors within five minutes: ValueError: no place"),
        (Level.WARNING, "stopped_sensor is switched off"),
    ]


def test_the_sensors_that_are_off_by_default_are_known() -> None:
    sensors = definitions.defs.sensors or ()
    off = [each.name for each in sensors if each.default_status is dg.DefaultSensorStatus.STOPPED]
    assert off == list(OFF_BY_DEFAULT)


@pytest.mark.parametrize("name", SQLITE_FILES)
def test_a_damaged_file_is_named_and_prepare_does_not_touch_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert main() == ""
    path = home / name
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)
    [(level, message)] = findings(home)
    assert level is Level.ERROR
    assert message.startswith(f"Dagster's storage is damaged, so nothing is embedded: {path} (")
    assert main().startswith(f"{message}. Stop everything, move the file away")
    assert path.read_bytes() == content


def test_a_locked_file_and_an_unreadable_instance_are_no_damage(home: Path, running: dg.DagsterInstance) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert findings(home) == [(Level.OK, "Its daemon runs, and the sensors work")]
    (home / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: NO_SUCH_VARIABLE}}}\n")
    [(level, message)] = findings(home)
    assert level is Level.ERROR
    assert "cannot be read" in message
    assert "NO_SUCH_VARIABLE" in message
