"""`course-search doctor`: what is wrong with this installation, and what to do about it."""

import json
import sqlite3
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.checks import (
    Finding,
    Level,
    check_catalogue,
    check_files,
    check_model,
    check_server,
    check_settings,
    check_vector_store,
)
from cli.collection_checks import check_courses, check_orphans, check_states
from cli.courses import Json, one_line
from cli.keyword_checks import check_keyword_indexes
from cli.locks import DirectoryInUseError
from cli.rebuild import RebuildLostError
from cli.vector_store import vector_store_settings
from embedding.demo_model import model_in_use
from embedding.errors import EmbeddingError
from embedding.opening import open_embedder, signature_in_use
from embedding.settings import EmbeddingSettings
from embedding.vector_store import VectorStore, VectorStoreError
from models.database import DatabaseUnavailableError, Engine, create_catalogue_engine
from models.settings import CatalogueSettings
from retrieval.keyword_index import KeywordIndexError
from retrieval.keyword_store import KeywordStore, KeywordStoreError
from retrieval.settings import KeywordSettings
from search_api.errors import ApiError

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
PROBLEMS = (
    ApiError,
    DatabaseUnavailableError,
    DirectoryInUseError,
    EmbeddingError,
    KeywordIndexError,
    KeywordStoreError,
    OSError,
    RebuildLostError,
    VectorStoreError,
    sqlite3.Error,
)
"""What a check or a repair may run into; each says what is wrong."""


@dataclass
class Diagnosis:
    """A finding, and what became of it."""

    finding: Finding
    repairs: list[str] = field(default_factory=list)
    is_repaired: bool = False

    @property
    def is_error(self) -> bool:
        """Whether something is left that keeps courses from being embedded or searched."""
        return self.finding.level == Level.ERROR and not self.is_repaired


def doctor(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Do what is safe: delete what is left of courses that are gone, have damaged courses embedded anew, "
            "make missing keyword indexes, remove orphaned directories (only while no Chroma server runs).",
        ),
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Load the model and read every text and vector of every published course, too."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check settings, catalogue, Chroma, model and every course, and say what is wrong and what to do.

    Nothing is changed without --repair, and it may run beside everything. Exit code 1: an error remains.
    """
    diagnoses: list[Diagnosis] = []
    for finding in examine(deep=deep):
        diagnosis = Diagnosis(finding)
        if repair and finding.repair:
            _repair(diagnosis)
        if not as_json:
            _print(diagnosis)
        diagnoses.append(diagnosis)
    errors = sum(diagnosis.is_error for diagnosis in diagnoses)
    if as_json:
        findings = [_as_json(diagnosis) for diagnosis in diagnoses]
        typer.echo(json.dumps({"ok": not errors, "findings": findings}, indent=2, ensure_ascii=False))
    if errors:
        raise typer.Exit(1)


def examine(*, deep: bool) -> Iterator[Finding]:
    """Everything there is to find; what a check rests on comes before it, and without that it is left out."""
    if not (yield from _shielded("settings", check_settings())):
        return
    settings = vector_store_settings()
    engine = create_catalogue_engine(CatalogueSettings())
    store = VectorStore(settings)
    try:
        catalogue_works = yield from _shielded("catalogue", check_catalogue(engine))
        store_works = yield from _shielded("chroma", check_vector_store(store, settings))
        yield from _shielded("server", check_server(store, settings))
        model_works = yield from _shielded("model", check_model())
        yield from _shielded("files", check_files(store, settings))
        if catalogue_works and store_works:
            yield from _shielded("courses", _check_collections(engine, store, deep=deep))
            keywords = KeywordStore(KeywordSettings())
            yield from _shielded("keywords", check_keyword_indexes(engine, store, keywords))
        if catalogue_works:
            signature = signature_in_use(model_in_use(EmbeddingSettings())) if model_works else None
            yield from _shielded("states", check_states(engine, signature))
    finally:
        store.close()
        engine.dispose()


def _check_collections(engine: Engine, store: VectorStore, *, deep: bool) -> Iterator[Finding]:
    collections = list(store.collections())
    yield from check_orphans(engine, store, collections)
    model = None
    if deep:
        try:
            model = open_embedder(model_in_use(EmbeddingSettings()))
        except EmbeddingError as error:
            yield Finding("model", Level.ERROR, str(error))
    yield from check_courses(engine, store, collections, deep=deep, model=model)


def _shielded(check: str, findings: Iterator[Finding]) -> Generator[Finding, None, bool]:
    """What a check finds, or what kept it from finding anything; returns whether it found no error."""
    fine = True
    try:
        for finding in findings:
            fine = fine and finding.level != Level.ERROR
            yield finding
    except PROBLEMS as error:
        yield Finding(check, Level.ERROR, one_line(str(error)))
        return False
    return fine


def _repair(diagnosis: Diagnosis) -> None:
    """Repair one subject after the other; what cannot be done for one does not stop the others."""
    finding = diagnosis.finding
    assert finding.repair  # noqa: S101 - tells mypy
    diagnosis.is_repaired = True
    for subject in finding.subjects:
        try:
            diagnosis.repairs.append(finding.repair(subject))
        except PROBLEMS as error:
            diagnosis.repairs.append(f"{subject} could not be repaired: {one_line(str(error))}")
            diagnosis.is_repaired = False


def _print(diagnosis: Diagnosis) -> None:
    """Columns on a terminal, whole lines in a pipe."""
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
