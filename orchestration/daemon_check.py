"""Checks Dagster's storage and the sensors. If they do not work, nothing is embedded, and nothing fails either."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from maintenance.checks.findings import Finding, Level
from models.text import one_line
from orchestration.instance.prepared import reason_to_skip
from orchestration.instance.storage import damage, open_existing, sqlite_files

LOCATION = "course_search"
"""Name of the code location in `instance/workspace.yaml`."""
OFF_BY_DEFAULT = ("alert_sensor",)
IDLE_SECONDS = 300
"""Sensors are evaluated every few seconds; a large catalogue takes longer."""


def check_daemon(home: Path) -> Iterator[Finding]:
    """Check the Dagster instance in a directory.

    Args:
        home: DAGSTER_HOME, with a `dagster.yaml`.
    """
    try:
        files = sqlite_files(home)
        problems = [f"{file} ({problem})" for file in files if (problem := damage(file))]
        if problems:
            message = f"Dagster's storage is damaged, so nothing is embedded: {', '.join(problems)}"
            yield Finding("dagster", Level.ERROR, message, "Stop everything and start it again: it begins a new file")
        elif missing := [str(file) for file in files if not file.exists()]:  # opening the instance would create them
            message = f"Dagster has no storage yet, or a part of it is missing: {', '.join(missing)}"
            yield Finding("dagster", Level.WARNING, message, "`course-search up`")
        else:
            with open_existing(home) as instance:
                yield from _check_instance(instance)
    except Exception as error:  # noqa: BLE001 - of the file, a driver, or a server
        message = f"The Dagster instance in {home} cannot be read: {one_line(str(error.__cause__ or error))}"
        advice = "Correct that; if the daemon has other settings or another user, run this command with them"
        yield Finding("dagster", Level.ERROR, message, advice)


def _check_instance(instance: dg.DagsterInstance) -> Iterator[Finding]:
    if reason := reason_to_skip(instance):
        yield Finding("dagster", Level.ERROR, reason)
        return
    now, evaluated, works = time.time(), 0.0, True
    for state in instance.all_instigator_state():
        name = state.instigator_name
        if state.instigator_type.name != "SENSOR" or state.selector.location_name != LOCATION:
            continue
        if not state.is_running:
            if name not in OFF_BY_DEFAULT:
                works = False
                message = f"{name} is switched off"
                yield Finding("dagster", Level.WARNING, message, "Switch it on in the UI, under Automation")
            continue
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=2)
        last = next((tick for tick in ticks if tick.is_completed), None)
        if last is None:
            continue
        evaluated = max(evaluated, last.timestamp)
        if last.is_failure and now - last.timestamp <= IDLE_SECONDS:
            works = False
            message = f"{name} fails: {one_line(last.error.message) if last.error else 'the UI shows why'}"
            yield Finding("dagster", Level.ERROR, message, "The UI has the traceback, under Automation")
    if now - evaluated > IDLE_SECONDS:
        message = f"No sensor was evaluated in the last {IDLE_SECONDS // 60} minutes, so nothing is embedded"
        advice = "Start Dagster's daemon (`course-search up`). If it runs, its log says what is wrong"
        yield Finding("dagster", Level.WARNING, message, advice)
    elif works:
        yield Finding("dagster", Level.OK, "The sensors work")
