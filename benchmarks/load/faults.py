"""Injected faults: what a search app of its own answers while a thing that it depends on is slow, hung or away.

The app shares catalogue, snapshots and Chroma with the running product, but reaches an embedding service and Chroma
through proxies. A SQLite catalogue is held under an exclusive lock.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Set
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load.client import Client, Exchange
from benchmarks.load.phases import Load, progress, summary, warm_up
from benchmarks.load.proxy import Fault, Proxy
from benchmarks.serving import search_app
from models.database import CatalogueSettings, catalogue_url

RATE = 20.0
"""Requests per second: far below capacity, so that the times are those of the fault."""
MOST_RECOVERY_SECONDS = 5.0
MOST_ANSWER_SECONDS = 12.0
"""Slowest answer while a dependency hangs: a query has 10 s for the embedding service."""
LOCKED_SECONDS, FREE_SECONDS = 0.4, 0.1
"""How long a slow catalogue is locked and free in turn."""
EMBEDDING_APP = "search_api.app:create_embedding_app"

_NEW = frozenset({"hybrid, new"})
_CATALOGUE = frozenset({"list of courses", "status"})


@dataclass(frozen=True)
class _Case:
    """A fault, and what may fail meanwhile."""

    name: str
    fault: AbstractAsyncContextManager[None]
    code: str = ""
    """The code of the errors that are expected."""
    kinds: Set[str] = frozenset()
    """The kinds of requests that may get it."""
    is_of_catalogue: bool = False


async def faults(load: Load, seconds: float, figures: list[dict[str, Any]]) -> None:
    """Inject each fault for some seconds, and go on without it; the figures are complete however it ends."""
    async with Proxy(load.product.chroma_port) as chroma, Proxy(0) as service:
        with ExitStack() as apps:
            settings = {name: os.environ[name] for name in ("SNAPSHOT_DIR", "DATABASE_URL")}
            started = await asyncio.to_thread(_start, apps, settings, EMBEDDING_APP, "healthz")
            service.target = _port(started)
            settings |= {"EMBEDDING_SERVICE_URL": service.url, "CHROMA_URL": chroma.url}
            url = urlsplit(await asyncio.to_thread(_start, apps, settings, "", "healthz"))
            await warm_up(load, "warm-up of the second app", str(url.hostname), url.port or 0)
            for case in _cases(chroma, service):
                progress.print(f"fault: {case.name}")
                figures.append(await _with_fault(load, case, str(url.hostname), url.port or 0, seconds))


def _cases(chroma: Proxy, service: Proxy) -> list[_Case]:
    unavailable, locked = "embedding_service_unavailable", "database_unavailable"
    return [
        _Case("embedding service slow", _through(service, Fault.SLOW)),
        _Case("embedding service hung", _through(service, Fault.HUNG), unavailable, _NEW),
        _Case("embedding service away", _through(service, Fault.AWAY), unavailable, _NEW),
        _Case("Chroma slow", _through(chroma, Fault.SLOW)),
        _Case("Chroma hung", _through(chroma, Fault.HUNG)),
        _Case("Chroma away", _through(chroma, Fault.AWAY)),
        _Case("catalogue slow", _slow_catalogue(), is_of_catalogue=True),
        _Case("catalogue locked", _locked_catalogue(), locked, _CATALOGUE, is_of_catalogue=True),
    ]


async def _with_fault(load: Load, case: _Case, host: str, port: int, seconds: float) -> dict[str, Any]:
    during, after = load.new_answers(case.name), load.new_answers(f"after: {case.name}")
    during.degraded_is_expected = after.degraded_is_expected = True
    during.old_rows_are_expected = after.old_rows_are_expected = case.is_of_catalogue
    ended = 0.0

    def add(exchange: Exchange) -> None:
        (after if ended and exchange.due >= ended else during).add(exchange)

    client = Client(host, port, add)
    try:
        async with case.fault:
            asking = asyncio.create_task(client.open_loop(load.mix.next, RATE, seconds + 2 * MOST_RECOVERY_SECONDS))
            await asyncio.sleep(seconds)
        ended = time.monotonic()
        await asking
    finally:
        client.close()
    expected = {f"{kind}: 503 {case.code}" for kind in case.kinds}
    allowed = {error: count for error, count in during.errors.items() if _without_hint(error) in expected}
    for error in allowed:
        del during.errors[error]
    recovered = max([*after.unlike_usual, ended]) - ended
    if recovered <= MOST_RECOVERY_SECONDS:
        after.errors.clear()
    slowest = max((each for kind in during.seconds.values() for each in kind), default=0.0)
    if slowest > MOST_ANSWER_SECONDS:
        during.problem(f"an answer took {slowest:.1f} s")
    return {
        "fault": case.name,
        "expected_errors": allowed,
        "unexpected_errors": dict(during.errors),
        "refused": len(during.refused),
        "recovery_seconds": round(recovered, 2),
        **summary(during),
        "after": summary(after),
    }


def _without_hint(error: str) -> str:
    return error.removesuffix(", no Retry-After")


def _start(apps: ExitStack, settings: dict[str, str], app: str, ready: str) -> str:
    return apps.enter_context(search_app(settings, app, ready) if app else search_app(settings, ready=ready))


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None  # noqa: S101 - `up` chose it
    return port


@asynccontextmanager
async def _through(proxy: Proxy, fault: Fault) -> AsyncIterator[None]:
    await proxy.set(fault)
    try:
        yield
    finally:
        await proxy.set(Fault.NONE)


@asynccontextmanager
async def _locked_catalogue() -> AsyncIterator[None]:
    """Hold an exclusive lock, so that nobody can even read."""
    with closing(await asyncio.to_thread(_lock)):
        yield


@asynccontextmanager
async def _slow_catalogue() -> AsyncIterator[None]:
    """Lock and release it in turn, so that every read may have to wait."""
    stop = asyncio.Event()

    async def take_turns() -> None:
        while not stop.is_set():
            async with _locked_catalogue():
                await asyncio.sleep(LOCKED_SECONDS)
            await asyncio.sleep(FREE_SECONDS)

    turns = asyncio.create_task(take_turns())
    try:
        yield
    finally:
        stop.set()
        await turns


def _lock() -> sqlite3.Connection:
    path = str(catalogue_url(CatalogueSettings()).database)
    deadline = time.monotonic() + 30
    while True:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        with suppress(sqlite3.OperationalError):  # others have it open
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            return connection
        connection.close()
        if time.monotonic() > deadline:
            raise TimeoutError("the catalogue could not be locked")
        time.sleep(0.002)
