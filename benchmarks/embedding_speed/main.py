"""The embedding engine beside sentence-transformers, on random weights of the shape of Qwen3-Embedding-0.6B.

Both have the same files and texts and take turns in one process, in half precision and in float32. For bulk work on the
CPU the model is cut to a few layers; what we leave out of its last one is put back as far as it would weigh less in all
of them (`random_qwen3.lengthening`). A GPU gets all layers, and so do queries everywhere. Ratios carry over to other
machines, seconds do not. A busy machine slows the peer more than us, since it lets the processors wait for each other.
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
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.embedding_speed.random_qwen3 import LAYERS, lengthening, passages, questions, work, write_random_qwen3
from embedding.embedder import LocalEmbedder
from embedding.engine.compute_threads import spreading_worker
from embedding.engine.precision import Precision
from embedding.model_settings import EmbeddingSettings
from embedding.vectors import Vectors
from search_api.embeddings.model_queue import ModelQueue

BATCH_SIZES = (8, 16, 32, 64)
CLIENTS = 8
MEMORY = ((200, 1024), (1_000, 1024), (5_000, 1024), (1_000, 512), (1_000, 4096))
"""Texts, and EMBEDDING_BATCH_TOKENS."""
QUESTIONS = 4
"""That each client asks, one after the other."""
PACKAGES = ("torch", "transformers", "sentence-transformers")

progress = Console(stderr=True, highlight=False)


def main() -> None:
    """Measure, print a table for each number format, and write the same figures to `--out`."""
    import torch

    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--layers", type=int, default=LAYERS if on_gpu else 3, help="of 28, for bulk work; default: %(default)s"
    )
    parser.add_argument("--query-layers", type=int, default=LAYERS, help="the same for queries; default: %(default)s")
    parser.add_argument("--texts", type=int, default=4000 if on_gpu else 64, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    formats: list[Precision] = ["float16" if on_gpu else "bfloat16", "float32"]
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        texts = passages(arguments.texts)
        cut = _write(Path(name), arguments.layers)
        stock = _Bench(cut, "float32", arguments.layers).theirs
        exact = stock.encode(texts, batch_size=1, normalize_embeddings=True)
        del stock
        bulk = [_Bench(cut, each, arguments.layers).measure_bulk(texts, exact, arguments.rounds) for each in formats]
        whole = _write(Path(name), arguments.query_layers)
        memory = [] if on_gpu else _measure_memory(_write(Path(name), 1))
        queries = [_Bench(whole, each, arguments.query_layers).measure_queries(arguments.rounds) for each in formats]
    figures = {
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
        "formats": [one | other for one, other in zip(bulk, queries, strict=True)],
    }
    _print(figures)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class _Bench:
    """Both engines in one number format."""

    def __init__(self, directory: Path, precision: Precision, layers: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]

        device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = EmbeddingSettings(embedding_model_path=directory, embedding_device=device, embedding_dtype=precision)
        self.precision, self.layers = precision, layers
        self.theirs_load, self.theirs = _timed(
            lambda: SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": precision})
        )
        self.theirs.max_seq_length = settings.embedding_max_tokens
        self.ours_load, self.ours = _timed(lambda: LocalEmbedder.load(settings))

    def measure_bulk(self, texts: list[str], exact: Vectors, rounds: int) -> dict[str, Any]:
        """How fast many texts become vectors, and how near those are to `exact`."""
        ours = self.ours.embed_documents(texts)
        lengths = np.array(ours.token_counts)
        ways: dict[str, Callable[[], Any]] = {"ours": lambda: self.ours.embed_documents(texts)}
        for size in BATCH_SIZES:
            ways[f"theirs {size}"] = partial(self.theirs.encode, texts, batch_size=size)
        ways["peak"] = self._peak
        seconds = _take_turns(ways, rounds, f"bulk, {self.precision}")
        peak = max(seconds.pop("peak"))
        if self.ours.device == "cpu":  # where the lean way leaves something out
            seconds["ours"] = [each * lengthening(self.layers) for each in seconds["ours"]]
        ratio = {way: statistics.median(np.divide(each, seconds["ours"])) for way, each in seconds.items()}
        theirs = self.theirs.encode(texts, batch_size=32)
        rate = work(lengths, self.layers) / min(seconds["ours"])
        return {
            "format": self.precision,
            "tokens": int(lengths.sum()),
            "tokens_per_second": {way: round(lengths.sum() / min(each), 1) for way, each in seconds.items()},
            "ratio_to_batches_of_32": round(ratio["theirs 32"], 2),
            "ratio_to_their_best": round(min(ratio[f"theirs {size}"] for size in BATCH_SIZES), 2),
            "peak_gflops": round(peak / 1e9, 1),
            "share_of_peak": round(rate / peak, 3),
            "least_cosine_to_float32": round(float((ours.vectors * exact).sum(axis=1).min()), 6),
            "least_cosine_of_theirs": round(float((theirs * exact).sum(axis=1).min()), 6),
        }

    def measure_queries(self, rounds: int) -> dict[str, Any]:
        """How long one query takes, and what each of eight clients' costs who ask one after the other."""
        queries = questions(CLIENTS)
        # The peer computes on the same thread as we do, or else the helpers of both threads would hinder each other.
        encode = partial(self.theirs.encode, queries[:1], prompt_name="query")
        theirs = {"theirs": lambda: spreading_worker().run(encode)}
        alone = _take_turns(
            {"ours": lambda: self.ours.embed_queries(queries[:1]), **theirs}, rounds * 10, f"queries, {self.precision}"
        )
        with closing(ModelQueue(lambda: self.ours, CLIENTS)) as shared, ThreadPoolExecutor(CLIENTS) as clients:

            def ask(query: str) -> None:
                for _ in range(QUESTIONS):
                    shared.embed_queries([query])

            together = _take_turns(
                {"ours": lambda: [*clients.map(ask, queries)], **theirs}, rounds * 3, f"clients, {self.precision}"
            )
        each = statistics.median(together["ours"]) / CLIENTS / QUESTIONS
        return {
            "query_tokens": self.ours.embed_queries(queries[:1]).token_counts[0],
            "query_ms": round(statistics.median(alone["ours"]) * 1000, 2),
            "query_ms_of_theirs": round(statistics.median(alone["theirs"]) * 1000, 2),
            "query_share": round(statistics.median(alone["ours"]) / statistics.median(alone["theirs"]), 3),
            "query_ms_with_eight_clients": round(each * 1000, 2),
            "eight_clients_ratio": round(statistics.median(together["theirs"]) / each, 2),
            "load_seconds": round(self.ours_load, 2),
            "load_seconds_of_theirs": round(self.theirs_load, 2),
        }

    def _peak(self) -> float:
        """Operations a second of the largest product there is in the model, laid out as best the machine can."""
        import torch

        dtype = getattr(torch, self.precision)
        device = self.ours.device
        rows, inner, outer = (16384, 8192, 8192) if device == "cuda" else (2048, 1024, 3072)
        x, weight = torch.randn(rows, inner).to(device, dtype), torch.randn(outer, inner).to(device, dtype)
        products: list[Callable[[], Any]] = [lambda: torch.nn.functional.linear(x, weight)]
        if device == "cpu":
            mkldnn: Any = torch.ops.mkldnn
            laid_out = mkldnn._reorder_linear_weight(weight, rows)
            products.append(lambda: mkldnn._linear_pointwise(x, laid_out, None, "none", [], ""))

        def once(product: Callable[[], Any]) -> None:
            product()
            if device == "cuda":
                torch.cuda.synchronize()

        with torch.inference_mode():
            fastest = min(_timed(partial(once, product))[0] for product in products for _ in range(10))
        return 2 * rows * inner * outer / fastest


def _measure_memory(model: Path) -> list[dict[str, Any]]:
    """How far a fresh process grows beyond the weights while it embeds; layers are computed one by one."""
    figures = []
    for texts, batch_tokens in MEMORY:
        command = [sys.executable, "-m", "benchmarks.embedding_speed.memory", str(model), str(texts), str(batch_tokens)]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures.append({"texts": texts, "batch_tokens": batch_tokens, **json.loads(answer.stdout)})
        progress.print(f"Measured the memory of {texts} texts in batches of {batch_tokens} tokens")
    return figures


def _write(directory: Path, layers: int) -> Path:
    path = directory / f"{layers}-layers"
    if not path.exists():
        progress.print(f"Writing a model of {layers} layers")
        path.mkdir()
        write_random_qwen3(path, layers)
    return path


def _take_turns(ways: dict[str, Callable[[], Any]], rounds: int, what: str) -> dict[str, list[float]]:
    """Seconds of each way, round by round; `peak` tells its figure itself. The first round only warms up."""
    results: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, do in ways.items():
            seconds, result = _timed(do)
            if number:
                results[way].append(result if way == "peak" else seconds)
    progress.print(f"Measured {what}")
    return results


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = do()
    return time.perf_counter() - began, result


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
        ("bulk: tokens/s", lambda result: f"{result['tokens_per_second']['ours']:,.0f}"),
        *(
            (
                f"  sentence-transformers, batches of {size}",
                lambda result, size=size: f"{result['tokens_per_second'][f'theirs {size}']:,.0f}",
            )
            for size in BATCH_SIZES
        ),
        ("  ratio to batches of 32", lambda result: f"{result['ratio_to_batches_of_32']:.2f}"),
        ("  ratio to their best", lambda result: f"{result['ratio_to_their_best']:.2f}"),
        ("  share of the matrix peak", lambda result: f"{result['share_of_peak']:.2f}"),
        ("  least cosine to float32", lambda result: f"{result['least_cosine_to_float32']:.6f}"),
        ("  theirs", lambda result: f"{result['least_cosine_of_theirs']:.6f}"),
        ("query: ms, median", lambda result: f"{result['query_ms']:.1f}"),
        ("  sentence-transformers", lambda result: f"{result['query_ms_of_theirs']:.1f}"),
        ("  share of theirs", lambda result: f"{result['query_share']:.2f}"),
        ("  eight clients, ms each", lambda result: f"{result['query_ms_with_eight_clients']:.1f}"),
        ("  ratio to theirs one by one", lambda result: f"{result['eight_clients_ratio']:.2f}"),
        ("load: seconds", lambda result: f"{result['load_seconds']:.2f}"),
        ("  sentence-transformers", lambda result: f"{result['load_seconds_of_theirs']:.2f}"),
    ]
    for label, cell in rows:
        table.add_row(label, *(cell(result) for result in figures["formats"]))
    console = Console(file=sys.stdout)
    console.print(table)
    if figures["memory"]:
        console.print(_memory_table(figures["memory"]))
    console.print(", ".join(f"{package} {number}" for package, number in machine["versions"].items()))


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Memory of bulk embedding beyond the weights")
    for column in ("texts", "EMBEDDING_BATCH_TOKENS", "growth, MB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(f"{row['texts']:,}", f"{row['batch_tokens']:,}", f"{row['growth_mb']:,.0f}")
    return table


if __name__ == "__main__":
    main()
