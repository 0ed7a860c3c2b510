"""The phases of the load, each of which returns its figures."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from benchmarks.load.answers import Answers
from benchmarks.load.client import Client
from benchmarks.load.mix import Mix
from benchmarks.load.processes import ProcessSampler
from benchmarks.load.product import LoadedProduct

progress = Console(stderr=True, highlight=False)

WARM_UP_CLIENTS = 8
CLIENTS = (1, 2, 4, 8, 16, 32)
"""Busy connections of the closed loops that find the capacity."""
ENOUGH_MORE = 1.05
"""The next closed loop has more connections as long as this factor more was answered."""
SHARE_OF_CAPACITY = 0.8
OVERLOAD = 2.5
"""Rate above capacity, as a multiple of it."""
WINDOWS = 6
"""Closed loops with the best number of connections. The slowest counts: a machine that is shared is not always as fast,
and the capacity is what it can do at any time."""
RECOVERY_SECONDS = 20.0
"""Time after the overload in which the recovery is measured, at half of the capacity."""
MOST_CLIENT_SHARE = 0.7
"""Of a core, that the client may use before it counts as the bottleneck. How late it sends is part of each time."""


@dataclass
class Load:
    """The product, what is asked of it, and what is known of its courses."""

    product: LoadedProduct
    mix: Mix
    editions: dict[tuple[str, int], int] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)
    """By phase."""

    def new_answers(self, phase: str) -> Answers:
        """The answers of a new phase."""
        return self.answers.setdefault(phase, Answers(self.editions))


async def warm_up(load: Load, phase: str, host: str, port: int) -> None:
    """Ask everything that is asked again and again, so that its vectors are known."""
    client = Client(host, port, load.new_answers(phase).add)
    calls = load.mix.all_known()

    async def ask_next() -> None:
        for call in calls:
            await client.ask(call)

    try:
        await asyncio.gather(*(ask_next() for _ in range(WARM_UP_CLIENTS)))
    finally:
        client.close()


async def find_capacity(load: Load, seconds: float) -> dict[str, Any]:
    """Closed loops with more and more connections, until more of them are not answered faster; then WINDOWS more.

    Args:
        load: The load.
        seconds: Time of each loop.
    """
    await warm_up(load, "warm-up", load.product.host, load.product.port)
    answers = load.new_answers("capacity")

    async def answered_per_second(clients: int) -> float:
        before, started = answers.answered, time.monotonic()
        client = load.product.client(answers.add)
        try:
            await client.closed_loop(load.mix.next, clients, seconds)
        finally:
            client.close()
        rate = (answers.answered - before) / (time.monotonic() - started)
        progress.print(f"capacity: {clients} connections, {rate:.0f} answers per second")
        return round(rate, 1)

    steps: list[dict[str, Any]] = []
    for clients in CLIENTS:
        best = max([step["per_second"] for step in steps], default=0.0)
        steps.append({"clients": clients, "per_second": await answered_per_second(clients)})
        if steps[-1]["per_second"] < ENOUGH_MORE * best and clients >= 8:
            break
    best_clients = max(steps, key=lambda step: step["per_second"])["clients"]
    windows = [await answered_per_second(best_clients) for _ in range(WINDOWS)]
    return {"steps": steps, "windows": windows, "per_second": min(windows), **summary(answers)}


async def steady(load: Load, rate: float, seconds: float, figures: dict[str, Any]) -> None:
    """An open loop, while processes are sampled; the figures are complete however it ends."""
    answers = load.new_answers("steady")
    client = load.product.client(answers.add)
    sampler = ProcessSampler(load.product.processes(), min(5.0, max(0.25, seconds / 60)))
    own = psutil.Process()
    cpu, started = sum(own.cpu_times()[:2]), time.monotonic()
    try:
        with sampler:
            await client.open_loop(load.mix.next, rate, seconds)
    finally:
        client.close()
        taken = time.monotonic() - started
        figures |= {
            "rate": round(rate, 1),
            "seconds": round(taken, 1),
            "answered_per_second": round(answers.answered / taken, 1),
            "client_cpu_share": round((sum(own.cpu_times()[:2]) - cpu) / taken, 3),
            "client_late_p99_s": _percentile(client.late_seconds, 99),
            **summary(answers),
            "processes": {
                name: {measure: asdict(growth) for measure, growth in measures.items()}
                for name, measures in sampler.growth().items()
            },
            "samples": sampler.samples,
        }


async def overload(load: Load, capacity: float, seconds: float) -> dict[str, Any]:
    """An open loop above capacity, and then at half of it: what is refused, and how soon nothing is any more."""
    answers, after = load.new_answers("overload"), load.new_answers("after the overload")
    client, later = load.product.client(answers.add), load.product.client(after.add)
    try:
        above = asyncio.create_task(client.open_loop(load.mix.next, OVERLOAD * capacity, seconds))
        await asyncio.sleep(seconds)
        ended = time.monotonic()
        await later.open_loop(load.mix.next, 0.5 * capacity, min(RECOVERY_SECONDS, seconds))
        await above
    finally:
        client.close()
        later.close()
    return {
        "rate": round(OVERLOAD * capacity, 1),
        "asked": answers.asked,
        "refused": len(answers.refused),
        "refused_p99_s": _percentile(answers.refused, 99),
        "answered_per_second": round(answers.answered / seconds, 1),
        "recovery_seconds": round(max([*after.unlike_usual, ended]) - ended, 2),
        **summary(answers),
        "after": summary(after),
    }


def summary(answers: Answers) -> dict[str, Any]:
    """Errors, and times by kind."""
    every = [seconds for kind in answers.seconds.values() for seconds in kind]
    return {
        "answers": answers.answered,
        "errors": dict(answers.errors),
        "refusals": dict(answers.refusals),
        "refused_in": {str(second): count for second, count in sorted(answers.refused_in.items())},
        "degraded": dict(answers.degraded),
        "all": _times(every),
        "kinds": {kind: _times(seconds) for kind, seconds in sorted(answers.seconds.items())},
    }


def _times(seconds: list[float]) -> Mapping[str, float]:
    if not seconds:
        return {"answers": 0}
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
    times = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": max(seconds)}
    return {"answers": len(seconds)} | {name: round(1000 * float(value), 2) for name, value in times.items()}


def _percentile(values: list[float], share: float) -> float | None:
    return round(float(np.percentile(values, share)), 4) if values else None


def run(coroutine: Any) -> Any:
    """Run a phase."""
    return asyncio.run(coroutine)
