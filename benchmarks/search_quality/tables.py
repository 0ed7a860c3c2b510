"""Prints the figures of `benchmarks.search_quality.main` as tables."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.search_quality.metrics import Estimate

TITLES = {"ndcg@10": "nDCG@10", "recall@20": "Recall@20", "mrr@10": "MRR@10"}
SHOWN_FAILURES = 20

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def print_set(figures: Mapping[str, Any]) -> None:
    """Print all figures of a set."""
    table = _table(f"{figures['name']}: {figures['chunks']:,} chunks", "method")
    for column in ("queries", *TITLES.values(), "p50, ms", "p99, ms"):
        table.add_column(column, justify="right")
    for name, group in figures["groups"].items():
        for method, row in group["methods"].items():
            metrics = (_interval(row[metric]) for metric in TITLES)
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
    if figures["cut_queries"]:
        console.print(f"{figures['cut_queries']} queries were too long and were searched by their beginning")
    for method, count in figures["degraded"].items():
        if count:
            console.print(f"{method}: {count} answers were degraded, for example reranked only in part")
    _print_perturbations(figures["perturbations"])
    _print_refusals("questions of other courses", figures["refusals"])
    console.print()


def print_summary(figures: Mapping[str, Any]) -> None:
    """Print a row of each set, with nDCG@10, latency, losses and refusals; the averages; and everything that failed."""
    sets = figures["sets"]
    if sets:
        _print_quality(sets)
        _print_losses(figures["summary"]["losses"])
        _print_refusals("Questions of other courses, all sets", figures["summary"]["refusals"])
    failures = figures["failures"]
    for failure in failures[:SHOWN_FAILURES]:
        console.print(f"FAILED {escape(failure)}")
    if len(failures) > SHOWN_FAILURES:
        console.print(f"and {len(failures) - SHOWN_FAILURES} more failures")


def _print_quality(sets: Sequence[Mapping[str, Any]]) -> None:
    groups = [(figures, figures["groups"]["all"]) for figures in sets]
    methods = [*groups[0][1]["methods"]]
    losses = [*dict.fromkeys(name for figures in sets for name in figures["perturbations"])]
    table = _table("Summary: nDCG@10", "set")
    titles = ("queries", *methods, "hybrid - better channel", "p50, ms", *(f"loss: {name}" for name in losses), "AUROC")
    for column in titles:
        table.add_column(column, justify="right")
    for figures, group in groups:
        means = (f"{group['methods'][method]['ndcg@10']['mean']:.3f}" for method in methods)
        loss = (_loss(figures["perturbations"].get(name)) for name in losses)
        refusals = figures["refusals"]
        table.add_row(
            figures["name"],
            f"{group['queries']:,}",
            *means,
            f"{group['gain']['ndcg@10']['mean']:+.3f}",
            f"{group['methods']['hybrid']['p50_ms']:.1f}",
            *loss,
            f"{refusals['hybrid']['auroc']:.3f}" if refusals else "",
        )
    table.add_section()
    averages = (np.mean([group["methods"][method]["ndcg@10"]["mean"] for _, group in groups]) for method in methods)
    gains = [group["gain"]["ndcg@10"]["mean"] for _, group in groups]
    table.add_row("average", "", *(f"{value:.3f}" for value in averages), f"{np.mean(gains):+.3f}")
    table.add_row("worst", "", *("" for _ in methods), f"{min(gains):+.3f}")
    console.print(table)


def _print_perturbations(perturbations: Mapping[str, Any]) -> None:
    if not perturbations:
        return
    table = _table("Perturbed queries: nDCG@10 of hybrid, and what each method loses", "perturbation")
    for column in ("changed queries", "clean", "perturbed", "loss of hybrid", "of vector", "of keyword"):
        table.add_column(column, justify="right")
    for name, row in perturbations.items():
        if row["skipped"] or not row["queries"]:
            table.add_row(name, "0", escape(row["skipped"] or "it changes no query"))
            continue
        methods = row["methods"]
        table.add_row(
            name,
            f"{row['queries']:,}",
            *(f"{methods['hybrid'][key]:.3f}" for key in ("clean", "perturbed")),
            *(_gain(methods[method]["loss"]) for method in ("hybrid", "vector", "keyword")),
        )
    console.print(table)


def _print_losses(losses: Mapping[str, Any]) -> None:
    if not losses:
        return
    table = _table("Loss of nDCG@10 by perturbation, average of the sets where it changes queries", "perturbation")
    for column in ("sets", "hybrid", "worst", "vector", "keyword"):
        table.add_column(column, justify="right")
    for name, row in losses.items():
        values = (f"{row[key]:+.3f}" for key in ("hybrid", "worst", "vector", "keyword"))
        table.add_row(name, str(row["sets"]), *values)
    console.print(table)


def _print_refusals(title: str, refusals: Mapping[str, Any]) -> None:
    if not refusals:
        return
    table = _table(title, "method")
    for column in ("own", "foreign", "judged by", "AUROC", "false refusals at 80 % true ones"):
        table.add_column(column, justify="right")
    table.add_column("answerable: own", justify="right")
    table.add_column("foreign", justify="right")
    for method, row in refusals.items():
        table.add_row(
            method,
            f"{row['own']:,}",
            f"{row['foreign']:,}",
            row["judged_by"],
            f"{row['auroc']:.3f}",
            f"{100 * row['false_refusals']:.1f} %",
            *(
                "" if row[key] is None else f"{100 * row[key]:.1f} %"
                for key in ("own_answerable", "foreign_answerable")
            ),
        )
    console.print(table)


def _table(title: str, first_column: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column(first_column)
    return table


def _loss(perturbation: Mapping[str, Any] | None) -> str:
    if not perturbation or not perturbation["queries"]:
        return ""
    return f"{perturbation['methods']['hybrid']['loss']['mean']:+.3f}"


def _interval(value: Mapping[str, float]) -> str:
    interval = Estimate(**value)
    return f"{interval.mean:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _gain(value: Mapping[str, float]) -> str:
    interval = Estimate(**value)
    return f"{interval.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
