"""`course-search doctor`: find problems of this installation, and repair them on request."""

import json
import os
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.all_settings import ALL_SETTINGS
from cli.courses import Json, print_error
from cli.launcher_settings import LauncherSettings
from maintenance.checks.all_checks import repair, run_checks
from maintenance.checks.findings import Diagnosis, Finding, Level
from maintenance.checks.workers import check_workers
from maintenance.ownership import MAX_DELETIONS
from models.database import postgres_url
from orchestration.worker_settings import CelerySettings

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def doctor(
    with_repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make the repairs that are safe: delete the collections and snapshots of deleted courses, have "
            "damaged courses embedded again, build missing snapshots, delete old uploaded files without a row, and "
            "remove orphaned directories (only while no Chroma server runs). Says what it deletes before it does, and "
            f"deletes at most {MAX_DELETIONS} of each kind.",
        ),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also load the model and check every text and vector of every published course."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check settings, catalogue, Chroma, the model, Dagster and every course; print each problem and what to do.

    Nothing is changed without --repair. Everything may keep running. Exit code 1: an error remains.
    """
    diagnoses: list[Diagnosis] = []
    for finding in chain(run_checks(ALL_SETTINGS, deep=deep), _check_dagster(), _check_workers()):
        if with_repair and finding.deletions:
            print_error(f"Deleting {len(finding.deletions)} ({finding.check}): {', '.join(finding.deletions)}")
        diagnosis = repair(finding) if with_repair else Diagnosis(finding)
        if not as_json:
            _print(diagnosis)
        diagnoses.append(diagnosis)
    errors = sum(diagnosis.is_error for diagnosis in diagnoses)
    if as_json:
        findings = [_as_json(diagnosis) for diagnosis in diagnoses]
        typer.echo(json.dumps({"ok": not errors, "findings": findings}, indent=2, ensure_ascii=False))
    if errors:
        raise typer.Exit(1)


def _check_dagster() -> Iterator[Finding]:
    """Check Dagster where it runs. Elsewhere, Dagster is not even imported."""
    try:
        settings = LauncherSettings()
    except ValueError:  # the check of the settings has said so
        return
    home = settings.dagster_home.absolute()
    try:
        if not (home / "dagster.yaml").exists():
            return
    except OSError as error:
        yield Finding(
            "dagster", Level.ERROR, f"{home} cannot be read: {error.strerror}", "Run this command as its user"
        )
        return
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    try:
        if settings.dagster_postgres_url:
            os.environ["DAGSTER_POSTGRES_URL"] = postgres_url(settings.dagster_postgres_url)
    except ValueError as error:
        message = f"DAGSTER_POSTGRES_URL is {error}"
        yield Finding("dagster", Level.ERROR, message, "Correct it in the environment or .env")
        return
    from orchestration.daemon_check import check_daemon

    yield from check_daemon(home)


def _check_workers() -> Iterator[Finding]:
    try:
        settings = CelerySettings()
        broker = settings.broker_url() if settings.celery_broker_url else ""
    except ValidationError:  # the check of the settings has said so
        return
    except ValueError as error:
        yield Finding("workers", Level.ERROR, str(error), "Correct it in the environment or .env")
    else:
        yield from check_workers(broker)


def _print(diagnosis: Diagnosis) -> None:
    """Print wrapped columns on a terminal, and unwrapped lines otherwise."""
    finding = diagnosis.finding
    lines = [finding.message, *([f"→ {finding.advice}"] if finding.advice else [])]
    lines += [f"✓ {repair}" if diagnosis.is_repaired else f"• {repair}" for repair in diagnosis.repairs]
    console = Console()
    if not console.is_terminal:
        for number, line in enumerate(lines):
            level, check = (finding.level, finding.check) if number == 0 else ("", "")
            typer.echo(f"{level:<8} {check:<10} {line}")
        return
    row = Table.grid(padding=(0, 1))
    row.add_column(width=8)
    row.add_column(width=10)
    row.add_column(overflow="fold")
    row.add_row(Text(finding.level, STYLES[finding.level]), finding.check, Text("\n".join(lines)))
    console.print(row)


def _as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    finding = diagnosis.finding
    return {
        "check": finding.check,
        "level": finding.level,
        "message": finding.message,
        "advice": finding.advice,
        "subjects": list(finding.subjects),
        "repairs": diagnosis.repairs,
        "repaired": diagnosis.is_repaired,
    }
