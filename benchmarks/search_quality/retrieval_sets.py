"""Retrieval sets on disk: a corpus, queries, and judgements of which chunks answer which query.

corpus.jsonl     Ready-to-Embed rows, as `course-search load` takes them
queries.jsonl    {"id": "q1", "text": "…", "language": "en"}; further keys are ignored
qrels.tsv        query_id, chunk_id and score, separated by tabs, below a line that says so
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_quality.metrics import Judgements

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels.tsv"
HEADER = ["query_id", "chunk_id", "score"]


class SetError(Exception):
    """A set that cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Query:
    """A question and what answers it."""

    id: str
    text: str
    language: str
    judgements: Judgements
    """Score by chunk id; at least one is above 0."""


@dataclass(frozen=True)
class RetrievalSet:
    """A set that was read, but for its corpus."""

    name: str
    directory: Path
    queries: tuple[Query, ...]
    unjudged: int
    """Queries that were left out because no chunk answers them."""

    def corpus(self) -> io.BytesIO:
        """The rows of the corpus, all in one course that is named like the set."""
        return io.BytesIO(b"".join(self._in_one_course(_bytes(self.directory / CORPUS))))

    def sample(self, count: int | None) -> "RetrievalSet":
        """The same set with at most `count` of its queries, evenly spaced."""
        if count is None or count >= len(self.queries):
            return self
        chosen = np.linspace(0, len(self.queries) - 1, count).round().astype(int)
        return replace(self, queries=tuple(self.queries[index] for index in chosen))

    def _in_one_course(self, content: bytes) -> Iterator[bytes]:
        for line in content.split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:  # whoever loads the corpus says what is wrong with the line
                row = None
            yield (json.dumps(row | {"course_id": self.name}).encode() if isinstance(row, dict) else line) + b"\n"


def find_sets(directory: Path) -> tuple[list[Path], list[Path]]:
    """The directories of the sets in a directory, which may be one itself, and of those that are only a corpus.

    Raises:
        SetError: there is no set.
    """
    if (directory / CORPUS).is_file():
        return [directory], []
    corpora = sorted(path.parent for path in directory.glob(f"*/{CORPUS}"))
    whole = [path for path in corpora if (path / QUERIES).is_file() and (path / QRELS).is_file()]
    if not whole:
        raise SetError(f"{directory} holds no retrieval set: {CORPUS}, {QUERIES} and {QRELS}, there or one level below")
    return whole, [path for path in corpora if path not in whole]


def read_set(directory: Path) -> RetrievalSet:
    """The set in a directory.

    Raises:
        SetError: a file is missing, or a line of it is malformed.
    """
    chunk_ids = {_value(row, "id", place) for place, row in _rows(directory / CORPUS)}
    judgements: dict[str, dict[str, float]] = {}
    queries = []
    for place, row in _rows(directory / QUERIES):
        query_id = _value(row, "id", place)
        if query_id in judgements:
            raise SetError(f"{place}: query {query_id!r} stands on an earlier line")
        mine = judgements.setdefault(query_id, {})
        queries.append(Query(query_id, _value(row, "text", place), str(row.get("language") or "unknown"), mine))
    for place, query_id, chunk_id, score in _judgements(directory / QRELS):
        if query_id not in judgements or chunk_id not in chunk_ids:
            missing = f"query {query_id!r}" if query_id not in judgements else f"chunk {chunk_id!r}"
            raise SetError(f"{place}: there is no {missing}")
        judgements[query_id][chunk_id] = score
    judged = tuple(query for query in queries if any(score > 0 for score in query.judgements.values()))
    if not judged:
        raise SetError(f"{directory / QRELS}: no query has a chunk that answers it")
    return RetrievalSet(directory.resolve().name, directory, judged, len(queries) - len(judged))


def _judgements(file: Path) -> Iterator[tuple[str, str, str, float]]:
    lines = _lines(file)
    if next(lines, ("", ""))[1].split("\t") != HEADER:
        raise SetError(f"{file}:1: the first line must be {', '.join(HEADER)}, separated by tabs")
    for place, line in lines:
        try:
            query_id, chunk_id, score = line.split("\t")
            if not 0 <= float(score) < inf:
                raise ValueError
            yield place, query_id, chunk_id, float(score)
        except ValueError:
            raise SetError(f"{place}: not a query's id, a chunk's id and a score, separated by tabs") from None


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, line in _lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SetError(f"{place}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SetError(f"{place}: not a JSON object")
        yield place, row


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line; blank ones are skipped."""
    try:
        lines = _bytes(file).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SetError(f"{file}: not UTF-8: byte {error.start}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{file}:{number}", line.rstrip("\r")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetError(f"{file}: {error.strerror}") from error


def _value(row: dict[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SetError(f"{place}: {name} must be a text that is not blank")
    return value
