"""The embedding engine beside sentence-transformers, on random weights of the shape of Qwen3-Embedding-0.6B.

Both have the same files and texts and take turns in one process, in half precision and in float32. On the CPU the model
is cut to a few layers; what we leave out of its last one is put back as far as it would weigh less in all of them
(`random_qwen3.lengthening`). A GPU gets all layers. Ratios carry over to other machines, seconds do not. A busy machine
slows the peer more than us, since it lets the processors wait for each other.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.random_qwen3 import LAYERS, lengthening, passages, questions, work, write_random_qwen3
from embedding.local import LocalEmbedder
from embedding.precision import Precision
from embedding.settings import EmbeddingSettings

BATCH_SIZES = (8, 16, 32, 64)
CLIENTS = 8
PACKAGES = ("torch", "transformers", "sentence-transformers")

progress = Console(stderr=True, highlight=False)


def main() -> None:
    """Measure, print a table for each number format, and write the same figures to `--out`."""
    import torch

    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS if on_gpu else 3, help="of 28; default: %(default)s")
    parser.add_argument("--texts", type=int, default=4000 if on_gpu else 64, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    half: Precision = "float16" if on_gpu else "bfloat16"
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        progress.print(f"Writing a model of {arguments.layers} layers")
        write_random_qwen3(Path(name), arguments.layers)
        benches = [_Bench(Path(name), precision, arguments.layers) for precision in ("float32", half)]
        texts = passages(arguments.texts)
        exact = benches[0].theirs.encode(texts, batch_size=1, normalize_embeddings=True)  # the stock model in float32
        results = [bench.measure(texts, exact, arguments.rounds) for bench in reversed(benches)]
    figures = {
        "machine": {
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
            "versions": {package: version(package) for package in PACKAGES},
        },
        "layers": arguments.layers,
        "texts": arguments.texts,
        "rounds": arguments.rounds,
        "formats": results,
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

    def measure(self, texts: list[str], exact: np.ndarray[Any, np.dtype[np.float32]], rounds: int) -> dict[str, Any]:
        """All figures; `exact` are the vectors in float32."""
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
            **self._measure_queries(rounds * 10),
            "load_seconds": round(self.ours_load, 2),
            "load_seconds_of_theirs": round(self.theirs_load, 2),
        }

    def _measure_queries(self, rounds: int) -> dict[str, float]:
        queries = questions(CLIENTS)
        stock: Callable[[list[str]], Any] = lambda queries: self.theirs.encode(queries, prompt_name="query")  # noqa: E731
        seconds = _take_turns(
            {
                "ours": lambda: self.ours.embed_queries(queries[:1]),
                "theirs": lambda: stock(queries[:1]),
                "ours together": lambda: self.ours.embed_queries(queries),
            },
            rounds,
            f"queries, {self.precision}",
        )
        ours, theirs, together = (statistics.median(seconds[way]) for way in ("ours", "theirs", "ours together"))
        return {
            "query_ms": round(ours * 1000, 2),
            "query_ms_of_theirs": round(theirs * 1000, 2),
            "query_share": round(ours / theirs, 3),
            "query_ms_of_eight_together": round(together / CLIENTS * 1000, 2),
            "eight_together_ratio": round(theirs / (together / CLIENTS), 2),
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
    table = Table(title=f"Embedding engine, {figures['layers']} layers, {figures['texts']} texts, {machine['device']}")
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
        ("  eight together, ms each", lambda result: f"{result['query_ms_of_eight_together']:.1f}"),
        ("  ratio to theirs one by one", lambda result: f"{result['eight_together_ratio']:.2f}"),
        ("load: seconds", lambda result: f"{result['load_seconds']:.2f}"),
        ("  sentence-transformers", lambda result: f"{result['load_seconds_of_theirs']:.2f}"),
    ]
    for label, cell in rows:
        table.add_row(label, *(cell(result) for result in figures["formats"]))
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(", ".join(f"{package} {number}" for package, number in machine["versions"].items()))


if __name__ == "__main__":
    main()
