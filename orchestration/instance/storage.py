"""Dagster's storage: finds damaged SQLite files and moves them away, and opens an instance without creating anything.

Courses, collections and snapshots are elsewhere, and the catalogue decides what is due, so the product goes on with new
files. With a damaged one, sensors fail at every tick.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import yaml
from dagster._core.instance.ref import InstanceRef  # noqa: TID251 - the storage, without opening it

from models.text import one_line

FORGOTTEN: Mapping[str, str] = {
    "schedules/schedules.db": "ticks, and which sensors and scheduled jobs were switched on or off",
    "history/runs.db": "runs",
    "history/runs/index.db": "materializations, partitions, and limits of pools",
}
"""What Dagster forgets without a file. The files of single runs are not looked at."""
LOCK_SECONDS = 1.0


def sqlite_files(home: Path) -> dict[Path, str]:
    """The files of the instance, and what Dagster forgets without each; empty if its storage is another.

    Args:
        home: DAGSTER_HOME.

    Raises:
        Exception: `dagster.yaml` is invalid.
    """
    storage = InstanceRef.from_dir(str(home)).storage_data
    if storage is None or storage.class_name != "DagsterSqliteStorage":
        return {}
    directory = storage.config_dict["base_dir"]
    if isinstance(directory, dict):  # the name of a variable
        directory = os.environ[directory["env"]]
    return {Path(directory) / name: forgotten for name, forgotten in FORGOTTEN.items()}


def open_existing(home: Path) -> dg.DagsterInstance:
    """Open the instance in a directory. If its PostgreSQL database has no tables, none are created.

    Raises:
        Exception: `dagster.yaml` is invalid, or a driver or server fails.
    """
    ref = InstanceRef.from_dir(str(home))
    if ref.storage_data and ref.storage_data.class_name == "DagsterPostgresStorage":
        config = yaml.safe_dump({**ref.storage_data.config_dict, "should_autocreate_tables": False})
        ref = ref._replace(storage_data=ref.storage_data._replace(config_yaml=config))
    return dg.DagsterInstance.from_ref(ref)


def damage(file: Path) -> str:
    """What is wrong with a file; empty if nothing is, or if it is not known because it is missing or locked."""
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as connection:
            [first, *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError:
        return ""
    except sqlite3.DatabaseError as error:
        return one_line(str(error))
    return "" if first == ("ok",) else one_line(str(first[0]))


def move_damaged_files(home: Path) -> list[str]:
    """Move damaged files away, with what belongs to them; returns a line for each. Nothing may use the instance.

    Raises:
        Exception: `dagster.yaml` is invalid, or a file cannot be moved.
    """
    lines = []
    for file, forgotten in sqlite_files(home).items():
        if problem := damage(file):
            moved = file.with_name(f"{file.name}.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}")
            file.rename(moved)
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):
                    file.with_name(file.name + suffix).rename(f"{moved}{suffix}")
            lines.append(f"{file} was damaged ({problem}), and is {moved.name} now: Dagster forgets its {forgotten}")
    return lines
