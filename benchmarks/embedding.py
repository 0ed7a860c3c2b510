"""Bulk embedding: ours against a plain loop over the same model, interleaved in one run.

The plain loop is what one writes first: batches of 32 texts in the order they come, padded to the longest. Both use
the configured model, or the demo's stand-in where there are no weights. Ratios carry over to other machines, seconds do
not.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedding.demo_model import demo_model_path, demo_model_settings
from embedding.loader import load_embedding_model
from embedding.local import LocalEmbedder
from embedding.settings import EmbeddingSettings

SAMPLES = Path(__file__).parents[1] / "samples"
ROUNDS = 3
PLAIN_BATCH = 32


def main() -> None:
    """Measure, print a table, and write the same figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    _use_stand_in_without_weights()
    settings = EmbeddingSettings()
    texts = _texts()
    embedder = LocalEmbedder.load(settings)
    plain = _PlainLoop(settings, embedder.max_tokens)
    tokens = sum(embedder.embed_documents(texts).token_counts)
    ours, theirs, ratios = [], [], []
    for _ in track(range(ROUNDS), description="Measuring", console=Console(stderr=True), transient=True):
        seconds = _seconds(lambda: embedder.embed_documents(texts))
        plain_seconds = _seconds(lambda: plain.embed(texts))
        ours.append(tokens / seconds)
        theirs.append(tokens / plain_seconds)
        ratios.append(plain_seconds / seconds)
    figures = {
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "device": embedder.device},
        "model": embedder.name,
        "texts": len(texts),
        "tokens": tokens,
        "rounds": ROUNDS,
        "tokens_per_second": round(statistics.median(ours), 1),
        "plain_tokens_per_second": round(statistics.median(theirs), 1),
        "speedup": round(statistics.median(ratios), 2),
        "speedup_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    _print(figures)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


class _PlainLoop:
    def __init__(self, settings: EmbeddingSettings, max_tokens: int) -> None:
        self._tokenizer, self._model = load_embedding_model(settings)
        self._max_tokens = max_tokens

    def embed(self, texts: list[str]) -> None:
        import torch

        with torch.inference_mode():
            for start in range(0, len(texts), PLAIN_BATCH):
                batch = self._tokenizer(
                    texts[start : start + PLAIN_BATCH],
                    padding=True,
                    truncation=True,
                    max_length=self._max_tokens,
                    return_tensors="pt",
                ).to(self._model.device)
                self._model(**batch).last_hidden_state.cpu()


def _use_stand_in_without_weights() -> None:
    stand_in = demo_model_path()
    if not (EmbeddingSettings().embedding_model_path / "config.json").is_file() and stand_in:
        os.environ.update(demo_model_settings(stand_in))


def _texts() -> list[str]:
    """The sample courses, shuffled: stage one writes chunks in no order of length."""
    lines = [line for file in sorted(SAMPLES.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    # Passages of real courses differ more in length than these: halves and pairs give them the spread.
    texts += [text[: len(text) // 2] for text in texts] + [" ".join(pair) for pair in pairwise(texts)]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _print(figures: dict[str, Any]) -> None:
    low, high = figures["speedup_range"]
    table = Table(title=f"Bulk embedding: {figures['texts']} texts, {figures['tokens']} tokens, {figures['model']}")
    table.add_column("way")
    table.add_column("tokens/s", justify="right")
    table.add_row("ours", f"{figures['tokens_per_second']:,.0f}")
    table.add_row(f"plain loop, batches of {PLAIN_BATCH}", f"{figures['plain_tokens_per_second']:,.0f}")
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(f"ours / plain: {figures['speedup']:.2f} ({low:.2f}-{high:.2f} over {figures['rounds']} rounds)")


if __name__ == "__main__":
    main()
