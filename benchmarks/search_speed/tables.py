"""Prints the figures of `benchmarks.search_speed.main` as tables."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)


def print_cells(chunks: int, cells: Sequence[Mapping[str, Any]]) -> None:
    """Print the figures of one course."""
    table = Table("search", "system", title=f"A course of {chunks:,} chunks", box=SIMPLE_HEAD)
    for column in ("p50, ms", "p99, ms", "per second", "recall@10"):
        table.add_column(column, justify="right")
    for cell in cells:
        filtered = ", filtered" if cell["filtered"] else ""
        search = f"{cell['method']}{filtered}, {cell['clients']} client{'s' if cell['clients'] > 1 else ''}"
        for name, row in cell["systems"].items():
            recall = "" if row["recall"] is None else f"{row['recall']:.3f}"
            table.add_row(
                search, name, f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['per_second']:,.0f}", recall
            )
            search = ""
        table.add_section()
    console.print(table)


def print_caches(
    loading: Mapping[int, Mapping[str, float]], requests: Mapping[int, Mapping[str, Mapping[str, float]]]
) -> None:
    """Print the time that the caches save."""
    table = Table("operation", "chunks", title="Time saved by the caches, in process", box=SIMPLE_HEAD)
    for column in ("without, ms", "with, ms", "saved"):
        table.add_column(column, justify="right")
    for chunks, row in loading.items():
        _add(table, "load a course, or find it in the cache", chunks, row["load_ms"], row["hit_ms"])
    for chunks, kinds in requests.items():
        for kind, row in kinds.items():
            operation = f"{row['requests']} {kind} requests, {row['cold']} of them cold"
            _add(table, operation, chunks, row["without_s"] * 1000, row["with_cache_s"] * 1000)
    console.print(table)


def _add(table: Table, operation: str, chunks: int, without: float, with_cache: float) -> None:
    table.add_row(operation, f"{chunks:,}", f"{without:,.1f}", f"{with_cache:,.4g}", f"{1 - with_cache / without:.2%}")
