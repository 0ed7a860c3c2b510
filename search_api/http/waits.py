"""What the threads of requests wait for: they say so, and meanwhile others compute (`search_api.http.overload`)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from models import database
from models.database import Engine, Session
from search_api.http.errors import OverloadedError

MOST_IN_CATALOGUE = 32
"""Requests that use the catalogue at once. If it hangs, the others are answered, or refused at once."""

_waits: ContextVar[dict[object, float] | None] = ContextVar("waits", default=None)
_catalogue_slots = threading.Semaphore(MOST_IN_CATALOGUE)


def set_waits(waits: dict[object, float]) -> None:
    """Collect here the waits of the request that the current task answers: when each began, by the monotonic clock."""
    _waits.set(waits)


@contextmanager
def waiting() -> Iterator[None]:
    """Wait in the block for a model or a store: meanwhile another request has the thread and the place of this one.

    Within another such block, or outside of a request, nothing happens.
    """
    waits = _waits.get()
    if waits is None:
        yield
        return
    this, outer = object(), _waits.set(None)
    waits[this] = time.monotonic()
    try:
        yield
    finally:
        del waits[this]
        _waits.reset(outer)


@contextmanager
def take_slot(
    slots: threading.Semaphore, waits_for: str, on_refusal: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold one of the slots during the block, which waits for a model or a store.

    Args:
        slots: The slots.
        waits_for: What it waits for, for the message of the error.
        on_refusal: Called if none is free.

    Raises:
        OverloadedError: No slot is free.
    """
    if not slots.acquire(blocking=False):
        on_refusal()
        raise OverloadedError(f"Too many requests wait for {waits_for}; try again")
    try:
        with waiting():
            yield
    finally:
        slots.release()


@contextmanager
def using_catalogue() -> Iterator[None]:
    """Use the catalogue in the block.

    Raises:
        OverloadedError: It does not answer as fast as it is asked.
    """
    if _waits.get() is None:  # in such a block already, or on a thread of the app's own
        yield
        return
    with take_slot(_catalogue_slots, "the catalogue"):
        yield


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A transaction of the catalogue (`models.database.transaction`); errors also as `using_catalogue`."""
    with using_catalogue(), database.transaction(engine) as session:
        yield session
