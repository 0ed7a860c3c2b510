"""Compares the embedding engine with sentence-transformers, on a random model of the shape of Qwen3-Embedding-0.6B.

Both use the same model files and texts and alternate in one process, in half precision and in float32. On the CPU, bulk
work uses only a few layers, and the engine's seconds are corrected to full depth (`random_qwen3.full_depth_factor`).
Queries, and everything on a GPU, use all layers. Ratios carry over to other machines, seconds do not. On a busy machine
the baseline slows down more, because it splits each matrix product across all cores and waits for the slowest one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.embedding_speed.random_qwen3 import (
    LAYERS,
    full_depth_factor,
    matrix_flops,
    passages,
    queries,
    write_random_qwen3,
)
from embedding.embedder import LocalEmbedder
from embedding.engine.compute_threads import multithreaded_worker
from embedding.engine.precision import Precision
from embedding.model_settings import EmbeddingSettings
from embedding.vectors import Vectors
from search_api.embeddings.model_queue import ModelQueue

ENGINE, BASELINE = "engine", "sentence-transformers"
PEAKS = ("peak before", "peak after")
"""The peak of a matrix product, measured right before and right after the engine in every round."""
BATCH_SIZES = (8, 16, 32, 64)
"""Batch sizes of the baseline."""
CLIENTS = 8
MEMORY_CASES = ((200, 1024), (1_000, 1024), (5_000, 1024), (1_000, 512), (1_000, 4096))
"""Number of texts, and EMBEDDING_BATCH_TOKENS."""
QUERIES_PER_CLIENT = 4
PACKAGES = ("torch", "transformers", "sentence-transformers")

Result = TypeVar("Result")

progress = Console(stderr=True, highlight=False)


def main() -> None:
    """Measure, print the tables, and write the figures to `--out`."""
    import torch

    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--layers",
        type=int,
        default=LAYERS if on_gpu else 3,
        help="layers of the model (28) for bulk work; default: %(default)s",
    )
    parser.add_argument(
        "--query-layers", type=int, default=LAYERS, help="layers of the model for queries; default: %(default)s"
    )
    parser.add_argument("--texts", type=int, default=4000 if on_gpu else 64, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    formats: list[Precision] = ["float16" if on_gpu else "bfloat16", "float32"]
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        texts = passages(arguments.texts)
        bulk_model = _write_model(Path(name), arguments.layers)
        stock = _Comparison(bulk_model, "float32", arguments.layers).baseline
        exact = stock.encode(texts, batch_size=1, normalize_embeddings=True)
        del stock
        memory = [] if on_gpu else _attempt(lambda: _measure_memory(_write_model(Path(name), 1)), failures) or []
        for precision in formats:
            compare = partial(_Comparison, bulk_model, precision, arguments.layers)
            measured = _attempt(lambda: compare().measure_bulk(texts, exact, arguments.rounds), failures)  # noqa: B023
            results.append({"format": precision} | (measured or {}))
        query_model = _write_model(Path(name), arguments.query_layers)
        for result in results:
            compare = partial(_Comparison, query_model, result["format"], arguments.query_layers)
            result.update(_attempt(lambda: compare().measure_queries(arguments.rounds), failures) or {})  # noqa: B023
    figures = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
            "versions": {package: version(package) for package in PACKAGES},
        },
        "layers": arguments.layers,
        "query_layers": arguments.query_layers,
        "texts": arguments.texts,
        "rounds": arguments.rounds,
        "memory": memory,
        "formats": results,
        "failures": failures,
    }
    _print(figures)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if failures:
        raise SystemExit(1)


def _attempt(measure: Callable[[], Result], failures: list[str]) -> Result | None:
    """Return the figures of a part; if it fails, print why and return None, so that the others are shown."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001 - whatever fails, the table is printed
        progress.print_exception()
        failures.append(f"{type(error).__name__}: {error}")
        return None


class _Comparison:
    """The engine and the baseline with one model and one number format."""

    def __init__(self, directory: Path, precision: Precision, layers: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]

        device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = EmbeddingSettings(embedding_model_path=directory, embedding_device=device, embedding_dtype=precision)
        self.precision, self.layers = precision, layers
        self.baseline_load_seconds, self.baseline = _timed(
            lambda: SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": precision})
        )
        self.baseline.max_seq_length = settings.embedding_max_tokens
        self.engine_load_seconds, self.engine = _timed(lambda: LocalEmbedder.load(settings))

    def measure_bulk(self, texts: list[str], exact: Vectors, rounds: int) -> dict[str, Any]:
        """Throughput with many texts, and accuracy compared with the vectors `exact`."""
        embeddings = self.engine.embed_documents(texts)
        lengths = np.array(embeddings.token_counts)
        before, after = PEAKS
        calls: dict[str, Callable[[], Any]] = {
            before: self._peak_flops,
            ENGINE: lambda: self.engine.embed_documents(texts),
            after: self._peak_flops,
        }
        for size in BATCH_SIZES:
            calls[_with_batches(size)] = partial(self.baseline.encode, texts, batch_size=size)
        seconds = _alternate(calls, rounds, f"bulk, {self.precision}")
        peaks = np.mean([seconds.pop(name) for name in PEAKS], axis=0)
        if self.engine.device == "cpu":  # only the CPU engine skips work in the last layer
            seconds[ENGINE] = [value * full_depth_factor(self.layers) for value in seconds[ENGINE]]
        ratio = {name: statistics.median(np.divide(values, seconds[ENGINE])) for name, values in seconds.items()}
        baseline_vectors = self.baseline.encode(texts, batch_size=32)
        shares = matrix_flops(lengths, self.layers) / np.array(seconds[ENGINE]) / peaks
        return {
            "format": self.precision,
            "tokens": int(lengths.sum()),
            "tokens_per_second": {name: round(lengths.sum() / min(values), 1) for name, values in seconds.items()},
            "ratio_to_batches_of_32": round(ratio[_with_batches(32)], 2),
            "ratio_to_best_batch_size": round(min(ratio[_with_batches(size)] for size in BATCH_SIZES), 2),
            "peak_gflops": [round(float(peak) / 1e9, 1) for peak in peaks],
            "shares_of_peak": [round(float(share), 3) for share in shares],
            "share_of_peak": round(float(np.median(shares)), 3),
            "min_cosine_to_float32": round(float((embeddings.vectors * exact).sum(axis=1).min()), 6),
            "baseline_min_cosine_to_float32": round(float((baseline_vectors * exact).sum(axis=1).min()), 6),
        }

    def measure_queries(self, rounds: int) -> dict[str, Any]:
        """Latency of a single query, and time per query with eight clients that each send queries in sequence."""
        texts = queries(CLIENTS)
        # The baseline runs on the thread that the engine uses: OpenMP threads of two pools would slow each other down.
        encode = partial(self.baseline.encode, texts[:1], prompt_name="query")
        baseline = {BASELINE: lambda: multithreaded_worker().run(encode)}
        alone = _alternate(
            {ENGINE: lambda: self.engine.embed_queries(texts[:1]), **baseline},
            rounds * 10,
            f"queries, {self.precision}",
        )
        with closing(ModelQueue(lambda: self.engine, CLIENTS)) as queue, ThreadPoolExecutor(CLIENTS) as clients:

            def send_queries(query: str) -> None:
                for _ in range(QUERIES_PER_CLIENT):
                    queue.embed_queries([query])

            together = _alternate(
                {ENGINE: lambda: [*clients.map(send_queries, texts)], **baseline},
                rounds * 3,
                f"clients, {self.precision}",
            )
        per_query = statistics.median(together[ENGINE]) / CLIENTS / QUERIES_PER_CLIENT
        return {
            "query_tokens": self.engine.embed_queries(texts[:1]).token_counts[0],
            "query_ms": round(statistics.median(alone[ENGINE]) * 1000, 2),
            "baseline_query_ms": round(statistics.median(alone[BASELINE]) * 1000, 2),
            "query_share": round(statistics.median(alone[ENGINE]) / statistics.median(alone[BASELINE]), 3),
            "query_ms_with_eight_clients": round(per_query * 1000, 2),
            "eight_clients_ratio": round(statistics.median(together[BASELINE]) / per_query, 2),
            "load_seconds": round(self.engine_load_seconds, 2),
            "baseline_load_seconds": round(self.baseline_load_seconds, 2),
        }

    def _peak_flops(self) -> float:
        """Floating-point operations per second of a large matrix product, the best of several implementations."""
        import torch

        dtype = getattr(torch, self.precision)
        device = self.engine.device
        rows, inner, outer = (16384, 8192, 8192) if device == "cuda" else (2048, 1024, 3072)
        x, weight = torch.randn(rows, inner).to(device, dtype), torch.randn(outer, inner).to(device, dtype)
        products: list[Callable[[], Any]] = [lambda: torch.nn.functional.linear(x, weight)]
        if device == "cpu":
            mkldnn: Any = torch.ops.mkldnn
            packed = mkldnn._reorder_linear_weight(weight, rows)
            products.append(lambda: mkldnn._linear_pointwise(x, packed, None, "none", [], ""))

        def compute(product: Callable[[], Any]) -> None:
            product()
            if device == "cuda":
                torch.cuda.synchronize()

        with torch.inference_mode():
            fastest = min(_timed(partial(compute, product))[0] for product in products for _ in range(10))
        return 2 * rows * inner * outer / fastest


def _measure_memory(model: Path) -> list[dict[str, Any]]:
    """Growth of a fresh process during bulk embedding. One layer is enough, because layers are computed in sequence."""
    figures = []
    for texts, batch_tokens in MEMORY_CASES:
        command = [sys.executable, "-m", "benchmarks.embedding_speed.memory", str(model), str(texts), str(batch_tokens)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures.append({"texts": texts, "batch_tokens": batch_tokens, **json.loads(answer.stdout)})
        progress.print(f"Measured the memory of {texts} texts in batches of {batch_tokens} tokens")
    return figures


def _write_model(directory: Path, layers: int) -> Path:
    path = directory / f"{layers}-layers"
    if not path.exists():
        progress.print(f"Writing a model of {layers} layers")
        path.mkdir()
        write_random_qwen3(path, layers)
    return path


def _with_batches(size: int) -> str:
    return f"{BASELINE}, batches of {size}"


def _alternate(calls: dict[str, Callable[[], Any]], rounds: int, title: str) -> dict[str, list[float]]:
    """Seconds of each call (for PEAKS: its result), one per round. An additional first round warms up."""
    results: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            seconds, result = _timed(call)
            if number:
                results[name].append(result if name in PEAKS else seconds)
    progress.print(f"Measured {title}")
    return results


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _print(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    table = Table(
        title=f"Embedding engine, {figures['layers']} layers ({figures['query_layers']} for queries), "
        f"{figures['texts']} texts, {machine['device']}"
    )
    table.add_column("")
    for result in figures["formats"]:
        table.add_column(result["format"], justify="right")
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("bulk: tokens/s", lambda result: f"{result['tokens_per_second'][ENGINE]:,.0f}"),
        *(
            (
                f"  {_with_batches(size)}",
                lambda result, size=size: f"{result['tokens_per_second'][_with_batches(size)]:,.0f}",
            )
            for size in BATCH_SIZES
        ),
        ("  ratio to batches of 32", lambda result: f"{result['ratio_to_batches_of_32']:.2f}"),
        ("  ratio to the best batch size", lambda result: f"{result['ratio_to_best_batch_size']:.2f}"),
        ("  share of the matrix peak", lambda result: f"{result['share_of_peak']:.2f}"),
        ("  lowest cosine to float32", lambda result: f"{result['min_cosine_to_float32']:.6f}"),
        ("  sentence-transformers", lambda result: f"{result['baseline_min_cosine_to_float32']:.6f}"),
        ("query: ms, median", lambda result: f"{result['query_ms']:.1f}"),
        ("  sentence-transformers", lambda result: f"{result['baseline_query_ms']:.1f}"),
        ("  ratio to sentence-transformers", lambda result: f"{result['query_share']:.2f}"),
        ("  eight clients, ms per query", lambda result: f"{result['query_ms_with_eight_clients']:.1f}"),
        ("  speed-up over sentence-transformers", lambda result: f"{result['eight_clients_ratio']:.2f}"),
        ("load: seconds", lambda result: f"{result['load_seconds']:.2f}"),
        ("  sentence-transformers", lambda result: f"{result['baseline_load_seconds']:.2f}"),
    ]
    for label, cell in rows:
        table.add_row(label, *(_cell(cell, result) for result in figures["formats"]))
    console = Console(file=sys.stdout)
    console.print(table)
    if figures["memory"]:
        console.print(_memory_table(figures["memory"]))
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    console.print(f"{figures['date']}, Python {machine['python']}, {machine['cpus']} CPUs, {versions}")
    for failure in figures["failures"]:
        console.print(f"failed: {failure}", markup=False)


def _cell(cell: Callable[[dict[str, Any]], str], result: dict[str, Any]) -> str:
    try:
        return cell(result)
    except KeyError:  # that part failed
        return "failed"


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Memory of bulk embedding beyond the weights")
    for column in ("texts", "EMBEDDING_BATCH_TOKENS", "growth, MB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(f"{row['texts']:,}", f"{row['batch_tokens']:,}", f"{row['growth_mb']:,.0f}")
    return table


if __name__ == "__main__":
    main()
