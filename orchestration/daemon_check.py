"""Checks Dagster: whether its storage can be read, its daemon runs, and the sensors are on and succeed.

Without them nothing is embedded, and nothing fails either: courses wait.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg

from maintenance.checks.findings import Finding, Level
from models.text import one_line

SENSOR_DAEMON = "SENSOR"
"""The heartbeat of the thread that evaluates sensors."""
LOCATION = "course_search"
"""Name of the code location in `instance/workspace.yaml`."""
OFF_BY_DEFAULT = ("alert_sensor",)
HEARTBEAT_SECONDS = 120
"""Older heartbeats mean that the daemon does not run. Dagster writes one every 30 s."""
SQLITE_FILES = ("schedules/schedules.db", "history/runs.db", "history/runs/index.db")
"""What Dagster stores below DAGSTER_HOME, unless in PostgreSQL: ticks of sensors; runs and their queue; events."""
STORAGE_ADVICE = (
    "Stop everything, move the file away together with those beside it that end in -wal and -shm, and start again. "
    "Dagster forgets its history of ticks, runs or events; courses are not affected"
)


def check_daemon(home: Path) -> Iterator[Finding]:
    """Check the Dagster instance in a directory.

    Args:
        home: DAGSTER_HOME, with a `dagster.yaml`.
    """
    if damage := storage_damage(home):
        yield Finding("dagster", Level.ERROR, damage, STORAGE_ADVICE)
        return
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield from _check_instance(instance)
    except Exception as error:  # noqa: BLE001 - of the file, a driver, or a server
        message = f"The Dagster instance in {home} cannot be read: {one_line(str(error.__cause__ or error))}"
        yield Finding("dagster", Level.ERROR, message, "Correct it; until then nothing is embedded")


def storage_damage(home: Path) -> str:
    """Which of Dagster's SQLite files are damaged; empty if none is. A file that is locked counts as undamaged."""
    damaged = [f"{home / name} ({damage})" for name in SQLITE_FILES if (damage := _damage(home / name))]
    return f"Dagster's storage is damaged, so nothing is embedded: {', '.join(damaged)}" if damaged else ""


def _damage(file: Path) -> str:
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(file)) as connection:
            [first, *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError:  # locked, or of another user: no evidence
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if first == ("ok",) else one_line(str(first[0]))


def _check_instance(instance: dg.DagsterInstance) -> Iterator[Finding]:
    heartbeat = instance.get_daemon_heartbeats().get(SENSOR_DAEMON)
    if heartbeat is None or time.time() - heartbeat.timestamp > HEARTBEAT_SECONDS:
        message = "Dagster's daemon does not run, so nothing is embedded"
        yield Finding("dagster", Level.WARNING, message, "`course-search up`, or start the daemon of this instance")
        return
    problems = [*_errors_of_the_daemon(heartbeat.errors or ()), *_problems_of_sensors(instance)]
    yield from problems or [Finding("dagster", Level.OK, "Its daemon runs, and the sensors work")]


def _errors_of_the_daemon(errors: Iterable[Any]) -> Iterator[Finding]:
    for error in islice(errors, 1):
        message = f"Dagster's daemon has failed to evaluate sensors within five minutes: {one_line(error.message)}"
        yield Finding("dagster", Level.WARNING, message, "If it recurs, its log has the traceback")


def _problems_of_sensors(instance: dg.DagsterInstance) -> Iterator[Finding]:
    for state in instance.all_instigator_state():
        name = state.instigator_name
        if state.instigator_type.name != "SENSOR" or state.selector.location_name != LOCATION or name in OFF_BY_DEFAULT:
            continue
        if not state.is_running:
            yield Finding(
                "dagster", Level.WARNING, f"{name} is switched off", "Switch it on in the UI, under Automation"
            )
            continue
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
        last = next((tick for tick in ticks if tick.is_completed), None)
        if last and last.is_failure:
            reason = one_line(last.error.message) if last.error else "the UI shows why"
            yield Finding(
                "dagster", Level.ERROR, f"{name} fails: {reason}", "The UI has the traceback, under Automation"
            )
