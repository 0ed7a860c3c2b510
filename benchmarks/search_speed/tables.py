"""Prints the figures of `benchmarks.search_speed.main` as tables."""

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.search_speed.our_systems import IN_PROCESS, MANY_COURSES, OUR_SYSTEMS, OVER_HTTP, PRODUCT

MIN_RATIO = 3.0
"""Target: queries per second over HTTP, divided by those of the best peer, in hybrid searches."""
MAX_ADDED_MS, LARGE_PRODUCT_MS = 0.3, 1.0
"""Target: what a hybrid search in process adds to the bare product. Where that takes longer than the second figure, the
search takes less time than the product."""
MAX_TIMES = 10.0
"""Target: the time of a search of many courses, divided by that of one of them."""
SOURCE_CLAIMS = {"hit": "2,000–3,000 ms → < 1 ms", "simple": "85 % saved", "complex": "95 % saved"}
"""What the source document of the caches states for a cache hit and for 100 requests."""
REASON_WIDTH = 50
NUMBERS = {
    *("p50, ms", "p99, ms", "per second", "recall@10", "ours", "difference", "without, ms", "with, ms", "saved"),
    *("open, ms", "on disk, not open, ms", "only in Chroma, ms"),
    *("one course, ms", "all, ms", "ratio"),
    *("no filter, ms", "section, ms", "range of pages, ms"),
}
"""Columns of numbers."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def print_tables(figures: Mapping[str, Any]) -> None:
    """Print all figures of a benchmark; what is missing is a row with the reason."""
    for size in figures["phases"]:
        _print_cells(size, [cell for cell in figures["cells"] if cell["chunks"] == size])
    _print_targets(figures["summary"])
    _print_many_courses(figures["many_courses"])
    _print_filters(figures["filters"])
    _print_opening(figures["opening"])
    _print_caches(figures["opening"], figures["requests"])


def summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The hybrid cells, compared with their targets.

    Returns:
        For each cell `chunks`, `filtered`, `clients`, `target` in words and whether it is `met`; and what is compared:
        over HTTP `per_second`, `peer`, `peer_per_second` and `ratio`, or in process `p50_ms`, `product_ms` and
        `added_ms`. What cannot be compared has `failed`, a reason, instead.
    """
    return [row for cell in cells if cell["method"] == "hybrid" for row in _compare(cell)]


def summary_of_many_courses(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A search of many courses compared with its target, for each number of clients and for the first search.

    Returns:
        For each of them `search` in words, the medians `one_ms` and `all_ms`, their `ratio` and whether the target is
        `met`; or `failed`, a reason.
    """
    compared = {f"hybrid, {_clients(cell)}": cell["systems"] for cell in figures["cells"]}
    return [
        {"search": search} | _compare_with_one(systems[OVER_HTTP], systems[MANY_COURSES])
        for search, systems in (compared | {"the first after a start": figures["first"]}).items()
    ]


def _compare_with_one(one: Mapping[str, Any], all_: Mapping[str, Any]) -> dict[str, Any]:
    if failed := one.get("failed") or all_.get("failed"):
        return {"failed": failed}
    ratio = all_["p50_ms"] / one["p50_ms"]
    return {"one_ms": one["p50_ms"], "all_ms": all_["p50_ms"], "ratio": round(ratio, 2), "met": ratio <= MAX_TIMES}


def _compare(cell: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    systems = cell["systems"]
    where = {name: cell[name] for name in ("chunks", "filtered", "clients")}
    if OVER_HTTP in systems:
        row = where | {"compared": "HTTP, queries/s", "target": f"≥ {MIN_RATIO:g} x the best peer"}
        yield row | _compare_with_peers(systems)
    if IN_PROCESS in systems and PRODUCT in systems:
        yield where | {"compared": "in process, p50"} | _compare_with_product(systems)


def _compare_with_peers(systems: Mapping[str, Any]) -> dict[str, Any]:
    ours = systems[OVER_HTTP]
    peers = {name: row for name, row in systems.items() if name not in OUR_SYSTEMS and "failed" not in row}
    if "failed" in ours:
        return {"failed": ours["failed"]}
    if not peers:
        return {"failed": "no peer was measured"}
    best = max(peers, key=lambda name: peers[name]["per_second"])
    ratio = ours["per_second"] / peers[best]["per_second"]
    return {
        "per_second": ours["per_second"],
        "peer": best,
        "peer_per_second": peers[best]["per_second"],
        "ratio": round(ratio, 2),
        "met": ratio >= MIN_RATIO,
    }


def _compare_with_product(systems: Mapping[str, Any]) -> dict[str, Any]:
    product = systems[PRODUCT]
    if failed := systems[IN_PROCESS].get("failed") or product.get("failed"):
        return {"target": "", "failed": failed}
    added = systems[IN_PROCESS]["p50_ms"] - product["p50_ms"]
    is_large = product["p50_ms"] > LARGE_PRODUCT_MS
    return {
        "p50_ms": systems[IN_PROCESS]["p50_ms"],
        "product_ms": product["p50_ms"],
        "added_ms": round(added, 3),
        "target": "< the product" if is_large else f"≤ the product + {MAX_ADDED_MS} ms",
        "met": added < 0 if is_large else added <= MAX_ADDED_MS,
    }


class _Row(NamedTuple):
    cells: Sequence[str]
    """The first cells of the row; the others are empty."""
    failed: str = ""
    """The reason, in an additional last column; the figures have it in full."""
    ends_section: bool = False


def _print_cells(chunks: int, cells: Sequence[Mapping[str, Any]]) -> None:
    rows: list[_Row] = []
    for cell in cells:
        search = f"{cell['method']}{_filtered(cell)}, {_clients(cell)}"
        for name, row in cell["systems"].items():
            values: list[str] = []
            if "failed" not in row:
                recall = "" if row["recall"] is None else f"{row['recall']:.3f}"
                values = [f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['per_second']:,.0f}", recall]
            rows.append(_Row([search, name, *values], row.get("failed", "")))
            search = ""
        rows[-1] = rows[-1]._replace(ends_section=True)
    columns = ("search", "system", "p50, ms", "p99, ms", "per second", "recall@10")
    _print(f"A course of {chunks:,} chunks", columns, rows)


def _print_targets(targets: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for row in sorted(targets, key=lambda row: str(row["compared"])):
        values: list[str] = []
        if "ratio" in row:
            other = f"{row['peer_per_second']:,.0f} ({row['peer']})"
            values = [f"{row['per_second']:,.0f}", other, f"{row['ratio']:.2f} x"]
        elif "failed" not in row:
            values = [f"{row['p50_ms']:.2f} ms", f"{row['product_ms']:.2f} ms", f"{row['added_ms']:+.2f} ms"]
        if values:
            values += [row["target"], "yes" if row["met"] else "no"]
        search = f"hybrid{_filtered(row)}, {_clients(row)}"
        rows.append(_Row([f"{row['chunks']:,}", search, row["compared"], *values], row.get("failed", "")))
    columns = ("chunks", "search", "compared", "ours", "other", "difference", "target", "met")
    _print("Hybrid search, compared with the best peer and with the bare product", columns, rows)


def _print_many_courses(figures: Mapping[str, Any]) -> None:
    rows = []
    for row in figures["summary"]:
        values = []
        if "failed" not in row:
            values = [f"{row['one_ms']:,.2f}", f"{row['all_ms']:,.2f}", f"{row['ratio']:.1f} x"]
            values += ["yes" if row["met"] else "no"]
        rows.append(_Row([row["search"], *values], row.get("failed", "")))
    title = f"A search of {figures['courses']} courses of {figures['chunks']} chunks, and of one of them, over HTTP"
    columns = ("search", "one course, ms", "all, ms", "ratio", "met")
    _print(f"{title}; target: at most {MAX_TIMES:g} x", columns, rows)


def _print_filters(filters: Mapping[int, Mapping[str, Any]]) -> None:
    rows = []
    for chunks, row in filters.items():
        times = [] if "failed" in row else [f"{row[name]['p50_ms']:,.3f}" for name in ("none", "section", "page")]
        rows.append(_Row([f"{chunks:,}", *times], row.get("failed", "")))
    columns = ("chunks", "no filter, ms", "section, ms", "range of pages, ms")
    _print("Filters of a hybrid search, in process, p50; each passes a twentieth of the chunks", columns, rows)


def _print_opening(opening: Mapping[int, Mapping[str, Any]]) -> None:
    rows = []
    for chunks, row in opening.items():
        times = [] if "failed" in row else [f"{row[name]:,.2f}" for name in ("search_ms", "first_ms", "build_ms")]
        rows.append(_Row([f"{chunks:,}", *times], row.get("failed", "")))
    columns = ("chunks", "open, ms", "on disk, not open, ms", "only in Chroma, ms")
    _print("A search of a course, in process; target on disk: 10 ms at 300 chunks, 100 ms at 50,000", columns, rows)


def _print_caches(opening: Mapping[int, Mapping[str, Any]], requests: Mapping[int, Mapping[str, Any]]) -> None:
    rows = []
    for chunks, row in opening.items():
        values = [] if "failed" in row else [*_saving(row["load_ms"], row["hit_ms"]), SOURCE_CLAIMS["hit"]]
        rows.append(_Row([f"{chunks:,}", "load a course, or find it in the cache", *values], row.get("failed", "")))
    for chunks, kinds in requests.items():
        if "failed" in kinds:
            rows.append(_Row([f"{chunks:,}", "simple and complex requests"], kinds["failed"]))
            continue
        for kind, row in kinds.items():
            operation = f"{row['requests']} {kind} requests, {row['cold']} of them cold"
            saving = _saving(row["without_s"] * 1000, row["with_cache_s"] * 1000)
            rows.append(_Row([f"{chunks:,}", operation, *saving, SOURCE_CLAIMS[kind]]))
    columns = ("chunks", "operation", "without, ms", "with, ms", "saved", "source document")
    _print("Time saved by the caches, in process, beside the claims of their source document", columns, rows)


def _saving(without_ms: float, with_cache_ms: float) -> tuple[str, str, str]:
    saved = f"{1 - with_cache_ms / without_ms:.1%}" if without_ms else ""
    return f"{without_ms:,.4g}", f"{with_cache_ms:,.4g}", saved


def _print(title: str, columns: Sequence[str], rows: Sequence[_Row]) -> None:
    table = Table(title=title, box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    if any(row.failed for row in rows):
        table.add_column("failed", style="red", max_width=REASON_WIDTH)
    for row in rows:
        reason = [escape(textwrap.shorten(row.failed, 2 * REASON_WIDTH, placeholder="…"))] if row.failed else []
        missing = [""] * (len(columns) - len(row.cells))
        table.add_row(*row.cells, *missing, *reason, end_section=row.ends_section)
    console.print(table)


def _filtered(cell: Mapping[str, Any]) -> str:
    return ", filtered" if cell["filtered"] else ""


def _clients(cell: Mapping[str, Any]) -> str:
    return f"{cell['clients']} client{'s' if cell['clients'] > 1 else ''}"
