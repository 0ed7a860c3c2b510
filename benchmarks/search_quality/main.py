"""Evaluates search quality: sends the queries of retrieval sets to the search app, with each search method.

    python -m benchmarks.search_quality.main DATA [--out FILE] [--queries N] [--cache DIR]

DATA is a retrieval set (see `retrieval_sets.py`) or a directory of sets. Each set becomes a course, which is embedded
with the configured model and searched over HTTP. Intervals are 95 % bootstrap intervals over the queries. The first
call of each query, which embeds the query, is measured separately from the others.
"""

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from benchmarks.search_quality.cached_embedder import CachedEmbedder
from benchmarks.search_quality.metrics import (
    Estimate,
    Judgements,
    estimate,
    milliseconds,
    ndcg,
    recall,
    reciprocal_rank,
)
from benchmarks.search_quality.retrieval_sets import CORPUS, Query, RetrievalSet, SetError, find_sets, read_set
from benchmarks.serving import Serving, serving
from embedding.embedder import LocalEmbedder
from embedding.errors import EmbeddingError
from embedding.interface import Embedder
from embedding.model_files.demo_model import DEMO_MODEL_NAME, model_in_use
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.indexing import index_course
from models.chunks import chunk_pages
from models.database import transaction
from models.fingerprint import CourseFingerprint
from models.loading import LoadError

TOP_K = 20
"""The largest depth of the metrics."""
METHODS: Mapping[str, Mapping[str, str]] = {
    "vector": {"method": "vector"},
    "keyword": {"method": "keyword"},
    "hybrid": {"method": "hybrid"},
    "hybrid, rrf": {"method": "hybrid", "fusion": "rrf"},
}
CHANNELS = ("vector", "keyword")
METRICS = {"ndcg@10": ndcg, "recall@20": recall, "mrr@10": reciprocal_rank}
TITLES = {"ndcg@10": "nDCG@10", "recall@20": "Recall@20", "mrr@10": "MRR@10"}

progress = Console(stderr=True, highlight=False)
console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Measurements:
    """Metrics and latencies of the queries of a set."""

    quality: Mapping[str, NDArray[np.float64]]
    """Method → metric values (queries, metrics)."""
    seconds: Mapping[str, NDArray[np.float64]]
    """Method → seconds per query (queries,)."""
    first_seconds: NDArray[np.float64]
    """Seconds of the first call of each query (queries,)."""


def main() -> None:
    """Evaluate, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="directory of one set or of several sets")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--queries", type=_positive, metavar="N", help="use only N evenly spaced queries per set")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="directory that caches document vectors for later runs"
    )
    arguments = parser.parse_args()
    out, cache = (path and path.absolute() for path in (arguments.out, arguments.cache))
    try:
        figures = evaluate(arguments.data.absolute(), arguments.queries, cache)
    except (EmbeddingError, LoadError, SetError) as error:
        parser.error(str(error))
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def evaluate(data: Path, queries: int | None = None, cache: Path | None = None) -> dict[str, Any]:
    """Evaluate the sets of a directory, and print the table of each as soon as it is evaluated.

    Raises:
        SetError: there is no set, or a set is malformed.
        LoadError: a row of a corpus is malformed.
        EmbeddingError: the model is missing or failed.
    """
    directories, corpora = find_sets(data)
    sets = [read_set(directory).sample(queries) for directory in directories]
    if corpora:
        progress.print(
            f"Left out, because queries or judgements are missing: {', '.join(path.name for path in corpora)}"
        )
    model = model_in_use(EmbeddingSettings())
    model = model.model_copy(update={"embedding_model_path": model.embedding_model_path.absolute()})
    embedder = LocalEmbedder.load(model)
    note = ", a small demo model for English only" if model.embedding_model_name == DEMO_MODEL_NAME else ""
    progress.print(f"Model: {embedder.name}{note}")
    environment = {
        "EMBEDDING_MODEL_PATH": str(model.embedding_model_path),
        "EMBEDDING_MODEL_NAME": model.embedding_model_name,
        "EMBEDDING_MAX_TOKENS": str(model.embedding_max_tokens),
        "EMBEDDING_QUERY_INSTRUCTION": model.embedding_query_instruction,
        "EMBEDDING_DEVICE": model.embedding_device,
    }
    documents = CachedEmbedder(embedder, cache) if cache else embedder
    results = []
    for retrieval_set in sets:
        with serving(environment) as product:  # restarted per set: sets may share chunk ids
            chunks = _publish(product, retrieval_set, documents)
            results.append(_figures(retrieval_set, chunks, _measure(product, retrieval_set)))
        _print_set(results[-1])
    if len(results) > 1:
        _print_summary(results)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "device": embedder.device},
        "model": embedder.name,
        "sets": results,
    }


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _publish(product: Serving, retrieval_set: RetrievalSet, embedder: Embedder) -> int:
    """Publish the corpus of the set as a course; returns the number of its chunks."""

    def index() -> CourseFingerprint:
        with transaction(product.engine) as session:
            pages = list(chunk_pages(session, retrieval_set.name))
        with Progress(console=progress, transient=True) as bar:
            task = bar.add_task(f"{retrieval_set.name}: embedding", total=sum(map(len, pages)))
            on_progress = partial(_update, bar, task)
            report = index_course(retrieval_set.name, pages, product.store, embedder, on_progress)
        if not (report.complete and report.sound):
            raise EmbeddingError(
                f"{retrieval_set.name}: {report.stored} documents, {report.vectors.unsound} unsound vectors"
            )
        return report.fingerprint

    return product.publish((str(retrieval_set.directory / CORPUS), retrieval_set.corpus()), retrieval_set.name, index)


def _measure(product: Serving, retrieval_set: RetrievalSet) -> Measurements:
    quality: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    first_seconds = []
    with httpx.Client(base_url=product.url, timeout=120, trust_env=False) as client:
        # a keyword search waits until the course is loaded
        _search(client, retrieval_set.name, retrieval_set.queries[0], METHODS["keyword"])
        for query in track(
            retrieval_set.queries, description=f"{retrieval_set.name}: searching", console=progress, transient=True
        ):
            first_seconds.append(_search(client, retrieval_set.name, query, METHODS["hybrid"])[1])
            for method, options in METHODS.items():
                ranking, took = _search(client, retrieval_set.name, query, options)
                quality[method].append([metric(ranking, query.judgements) for metric in METRICS.values()])
                seconds[method].append(took)
    return Measurements(
        {method: np.asarray(rows) for method, rows in quality.items()},
        {method: np.asarray(times) for method, times in seconds.items()},
        np.asarray(first_seconds),
    )


def _search(client: httpx.Client, course_id: str, query: Query, options: Mapping[str, str]) -> tuple[list[str], float]:
    """Search once.

    Returns:
        The ids of the found chunks, best first, and the seconds of the call.
    """
    body = {"query": query.text, "top_k": TOP_K, **options}
    started = time.perf_counter()
    response = client.post(f"/courses/{course_id}/search", json=body)
    took = time.perf_counter() - started
    if response.is_error:
        raise RuntimeError(f"{response.request.url} answered {response.status_code}: {response.text}")
    answer = response.json()
    if answer["degraded"]:
        raise RuntimeError(f"{query.id}: {answer['degraded']}")
    return [_most_relevant_id(result, query.judgements) for result in answer["results"]], took


def _most_relevant_id(result: Mapping[str, Any], judgements: Judgements) -> str:
    """The id, among those of the result and its copies, with the highest relevance score."""
    ids: list[str] = [chunk["chunk_id"] for chunk in (result["metadata"], *result["copies"])]
    return max(ids, key=lambda chunk_id: judgements.get(chunk_id, 0.0))


def _figures(retrieval_set: RetrievalSet, chunks: int, measurements: Measurements) -> dict[str, Any]:
    languages = np.array([query.language for query in retrieval_set.queries])
    groups = {"all": _group(measurements, np.ones(len(languages), dtype=bool))}
    if len(set(languages)) > 1:
        groups |= {language: _group(measurements, languages == language) for language in sorted(set(languages))}
    return {
        "name": retrieval_set.name,
        "chunks": chunks,
        "queries_without_relevant_chunk": retrieval_set.queries_without_relevant_chunk,
        "first_call_ms": _latency(measurements.first_seconds),
        "groups": groups,
    }


def _group(measurements: Measurements, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of the queries that the mask selects."""
    methods: dict[str, dict[str, Any]] = {
        method: {**_estimates(quality[mask]), **_latency(measurements.seconds[method][mask])}
        for method, quality in measurements.quality.items()
    }
    better = max(CHANNELS, key=lambda channel: methods[channel]["ndcg@10"]["mean"])
    gain = _estimates(measurements.quality["hybrid"][mask] - measurements.quality[better][mask])
    return {"queries": int(mask.sum()), "methods": methods, "better_channel": better, "gain": gain}


def _estimates(rows: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    return {
        name: {part: round(value, 4) for part, value in estimate(column)._asdict().items()}
        for name, column in zip(METRICS, rows.T, strict=True)
    }


def _latency(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    return {"p50_ms": milliseconds(seconds, 50), "p99_ms": milliseconds(seconds, 99)}


def _update(bar: Progress, task: Any, done: int) -> None:
    bar.update(task, completed=done)


def _print_set(figures: Mapping[str, Any]) -> None:
    table = Table(title=f"{figures['name']}: {figures['chunks']:,} chunks", box=SIMPLE_HEAD)
    table.add_column("method")
    for column in ("queries", *TITLES.values(), "p50, ms", "p99, ms"):
        table.add_column(column, justify="right")
    for name, group in figures["groups"].items():
        for method, row in group["methods"].items():
            metrics = (_interval(row[metric]) for metric in METRICS)
            times = (f"{row[key]:.1f}" for key in ("p50_ms", "p99_ms"))
            table.add_row(method, f"{group['queries']:,} {'' if name == 'all' else name}".strip(), *metrics, *times)
        table.add_section()
    console.print(table)
    for name, group in figures["groups"].items():
        gains = (f"{title} {_gain(group['gain'][key])}" for key, title in TITLES.items())
        prefix = "" if name == "all" else f"{name}: "
        console.print(f"{prefix}hybrid - {group['better_channel']} (the better channel): {', '.join(gains)}")
    first = figures["first_call_ms"]
    console.print(f"first call of a query, which embeds it: p50 {first['p50_ms']:.1f} ms, p99 {first['p99_ms']:.1f} ms")
    if figures["queries_without_relevant_chunk"]:
        console.print(f"{figures['queries_without_relevant_chunk']} queries without a relevant chunk were left out")
    console.print()


def _print_summary(sets: Sequence[Mapping[str, Any]]) -> None:
    """Print the nDCG@10 of each set, and the gain of hybrid search over the better channel."""
    table = Table(title="nDCG@10 of all sets", box=SIMPLE_HEAD)
    table.add_column("set")
    for column in (*METHODS, "hybrid - better channel"):
        table.add_column(column, justify="right")
    groups = [(figures["name"], figures["groups"]["all"]) for figures in sets]
    for name, group in groups:
        means = (f"{group['methods'][method]['ndcg@10']['mean']:.3f}" for method in METHODS)
        table.add_row(name, *means, _gain(group["gain"]["ndcg@10"]))
    table.add_section()
    averages = (np.mean([group["methods"][method]["ndcg@10"]["mean"] for _, group in groups]) for method in METHODS)
    gains = [group["gain"]["ndcg@10"]["mean"] for _, group in groups]
    table.add_row("average", *(f"{value:.3f}" for value in averages), f"{np.mean(gains):+.3f}")
    table.add_row("worst", *("" for _ in METHODS), f"{min(gains):+.3f}")
    console.print(table)


def _interval(value: Mapping[str, float]) -> str:
    interval = Estimate(**value)
    return f"{interval.mean:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _gain(value: Mapping[str, float]) -> str:
    interval = Estimate(**value)
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


if __name__ == "__main__":
    logging.getLogger("embedding").setLevel(logging.ERROR)  # else each batch logs its number of truncated texts
    main()
