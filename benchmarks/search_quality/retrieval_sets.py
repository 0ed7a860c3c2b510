"""Reads retrieval sets: a corpus, queries, and relevance judgements.

A set is a directory with three files:

corpus.jsonl     Ready-to-Embed rows, as for `course-search load`
queries.jsonl    {"id": "q1", "text": "…", "language": "en"}; further keys are ignored
qrels.tsv        a header line, then query_id, chunk_id and score, separated by tabs
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
    """A set is unusable; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class Query:
    """A query and its relevance judgements."""

    id: str
    text: str
    language: str
    judgements: Judgements
    """Chunk id → relevance score; at least one score is above 0."""


@dataclass(frozen=True)
class RetrievalSet:
    """The queries of a set; the corpus is read on demand."""

    name: str
    directory: Path
    queries: tuple[Query, ...]
    queries_without_relevant_chunk: int
    """Number of queries that were left out because no chunk is relevant to them."""
    chunk_ids: frozenset[str]
    """The chunks that are loaded."""
    lecture_ids: frozenset[str]

    def corpus(self) -> io.BytesIO:
        """The rows of the corpus, with the name of the set as their course id."""
        return io.BytesIO(b"".join(self._rows_of_course(_bytes(self.directory / CORPUS))))

    def sample(self, count: int | None) -> "RetrievalSet":
        """The same set with at most `count` of its queries, evenly spaced."""
        if count is None or count >= len(self.queries):
            return self
        chosen = np.linspace(0, len(self.queries) - 1, count).round().astype(int)
        return replace(self, queries=tuple(self.queries[index] for index in chosen))

    def reduced(self, count: int | None) -> "RetrievalSet":
        """The same set with at most `count` chunks: those with a judgement for its queries, and others, evenly spaced.

        If more chunks have judgements, all of these are kept.
        """
        if count is None or count >= len(self.chunk_ids):
            return self
        judged = {chunk_id for query in self.queries for chunk_id in query.judgements}
        others = sorted(self.chunk_ids - judged)
        chosen = np.linspace(0, len(others) - 1, max(0, count - len(judged))).round().astype(int)
        return replace(self, chunk_ids=frozenset(judged | {others[index] for index in chosen}))

    def _rows_of_course(self, content: bytes) -> Iterator[bytes]:
        for line in content.split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:  # kept as it is: loading the corpus reports the invalid line
                row = None
            if not isinstance(row, dict):
                yield line + b"\n"
            elif row.get("id") in self.chunk_ids:
                yield json.dumps(row | {"course_id": self.name}).encode() + b"\n"


def find_sets(directory: Path) -> tuple[list[Path], list[Path]]:
    """Find the sets in a directory, which may be a set itself.

    Returns:
        The directories of the sets, and those that have a corpus but no queries or judgements.

    Raises:
        SetError: there is no set.
    """
    if (directory / CORPUS).is_file():
        return [directory], []
    corpora = sorted(path.parent for path in directory.glob(f"*/{CORPUS}"))
    complete = [path for path in corpora if (path / QUERIES).is_file() and (path / QRELS).is_file()]
    if not complete:
        raise SetError(
            f"{directory} holds no retrieval set: {CORPUS}, {QUERIES} and {QRELS}, in it or in a subdirectory"
        )
    return complete, [path for path in corpora if path not in complete]


def read_set(directory: Path) -> RetrievalSet:
    """Read the set in a directory.

    Raises:
        SetError: a file is missing, or a line of it is malformed.
    """
    lectures = {_value(row, "id", location): row.get("lecture_id") for location, row in _rows(directory / CORPUS)}
    judgements: dict[str, dict[str, float]] = {}
    queries = []
    for location, row in _rows(directory / QUERIES):
        query_id = _value(row, "id", location)
        if query_id in judgements:
            raise SetError(f"{location}: query {query_id!r} appears twice")
        own_judgements = judgements.setdefault(query_id, {})
        queries.append(
            Query(query_id, _value(row, "text", location), str(row.get("language") or "unknown"), own_judgements)
        )
    for location, query_id, chunk_id, score in _judgements(directory / QRELS):
        if query_id not in judgements or chunk_id not in lectures:
            missing = f"query {query_id!r}" if query_id not in judgements else f"chunk {chunk_id!r}"
            raise SetError(f"{location}: there is no {missing}")
        judgements[query_id][chunk_id] = score
    answerable = tuple(query for query in queries if any(score > 0 for score in query.judgements.values()))
    if not answerable:
        raise SetError(f"{directory / QRELS}: no query has a relevant chunk")
    return RetrievalSet(
        directory.resolve().name,
        directory,
        answerable,
        len(queries) - len(answerable),
        frozenset(lectures),
        frozenset(map(str, lectures.values())),
    )


def _judgements(file: Path) -> Iterator[tuple[str, str, str, float]]:
    lines = _lines(file)
    if next(lines, ("", ""))[1].split("\t") != HEADER:
        raise SetError(f"{file}:1: the first line must be {', '.join(HEADER)}, separated by tabs")
    for location, line in lines:
        try:
            query_id, chunk_id, score = line.split("\t")
            if not 0 <= float(score) < inf:
                raise ValueError
            yield location, query_id, chunk_id, float(score)
        except ValueError:
            raise SetError(f"{location}: not a query's id, a chunk's id and a score, separated by tabs") from None


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for location, line in _lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SetError(f"{location}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SetError(f"{location}: not a JSON object")
        yield location, row


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yields `file:line number` and the text of each line that is not blank."""
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


def _value(row: dict[str, Any], name: str, location: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SetError(f"{location}: {name} must be a string that is not blank")
    return value
