"""The one cache of the product: values that take seconds to load, kept while they are used.

    courses: InstanceCache[str, Course] = InstanceCache("courses", max_entries=50, ttl_seconds=1800)
    course = courses.get(course_id, load)            # a value that needs no closing
    with models.lease(path, load) as model: ...      # one that must not be closed while it is in use

Least recently used and too old values leave (`cachetools.TTLCache`). A key is loaded once, however many ask for it, and
never under the lock: a hit costs microseconds whatever else is being loaded. Every value counts who holds it: the cache
itself, each user, and the thread that loads it. The last one to let go closes it.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from cachetools import TTLCache

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

BACKGROUND_LOADS = 16
"""How many loads with patience run at once in a cache; further ones wait for a place, their callers only so long."""


class StillLoadingError(Exception):
    """The value was not there when the caller's patience ended; its load goes on, for those who ask later."""


class CacheClosedError(RuntimeError):
    """The cache was closed: what held it has ended."""


@dataclass(frozen=True)
class CacheStats:
    """What a cache did since it was made or `clear_cache_stats` was called, and what it holds now."""

    hits: int
    misses: int
    evictions: int
    expirations: int
    loads: int
    load_failures: int
    too_large: int
    load_seconds: float
    entries: int
    bytes: int
    max_entries: int
    max_bytes: int | None
    ttl_seconds: float

    @property
    def hit_rate(self) -> float:
        """Hits over look-ups, 0.0 to 1.0; 0.0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class InstanceCache(Generic[K, V]):
    """Safe to share between threads. A loader may use the cache for other keys, but not for its own.

    Args:
        name: What log lines and statistics call it.
        max_entries: How many values it keeps at most.
        ttl_seconds: How long after its load a value is kept, however often it is used; `math.inf`: for ever. An expired
            value leaves at the next call of any method.
        max_bytes: How much the values it keeps may add up to. A larger one is served, and not kept.
        size_of: Bytes of a value.
        close: Called once with each value that nobody uses any more. What it raises is logged.
        timer: A clock in seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        max_entries: int = 50,
        ttl_seconds: float = 1800.0,
        max_bytes: int | None = None,
        size_of: Callable[[V], int] | None = None,
        close: Callable[[V], object] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_entries < 1 or not ttl_seconds > 0:
            raise ValueError(f"Cache {name}: max_entries and ttl_seconds must be above 0")
        if max_bytes is not None and size_of is None:
            raise ValueError(f"Cache {name}: max_bytes needs size_of")
        self.name = name
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._close = close
        self._closed = False
        # Re-entrant, since the garbage collector may let go of a forgotten lease amid anything.
        self._lock = threading.RLock()
        self._kept: _Store[K, V] = _Store(max_entries, ttl_seconds, timer, self._drop)
        self._loading: dict[K, _Entry[K, V]] = {}
        self._dropped: list[tuple[_Entry[K, V], str]] = []
        self._bytes = 0
        self._counts = _Counts()
        self._places = threading.Semaphore(BACKGROUND_LOADS)

    @contextmanager
    def lease(self, key: K, load: Callable[[], V], patience_seconds: float | None = None) -> Iterator[V]:
        """The value of the key, which is not closed before the `with` ends, whatever happens to the cache.

        Without patience, the first to ask loads on its own thread and the others wait for it. With patience, the load
        runs on a thread of the cache, which keeps its value even when nobody waits any more.

        Args:
            key: What to look up.
            load: Makes the value; called at most once at a time for a key. What it raises reaches everybody who waits,
                as one error, and is not kept: the next call loads again.
            patience_seconds: How long to wait for a value that is not there yet.

        Raises:
            StillLoadingError: patience ended.
            CacheClosedError: the cache was closed.
        """
        entry = self._acquire(key, load, patience_seconds)
        try:
            yield entry.value
        finally:
            self._release(entry)

    def get(self, key: K, load: Callable[[], V], patience_seconds: float | None = None) -> V:
        """As `lease`, for values that need no closing.

        Raises:
            TypeError: this cache closes its values.
        """
        self._require_no_closing()
        with self.lease(key, load, patience_seconds) as value:
            return value

    def peek(self, key: K) -> V | None:
        """The value if it is there, without loading it; only for values that need no closing.

        Counts as a hit when it is there and not at all when it is not: whoever then loads it counts the miss.

        Raises:
            TypeError: this cache closes its values.
            CacheClosedError: the cache was closed.
        """
        self._require_no_closing()
        with self._lock:
            entry = self._find(key)
        self._let_go_of_dropped()
        return entry.value if entry else None

    def clear_cache(self) -> None:
        """Forget every key; loads that are going on are served to those who wait, and not kept."""
        with self._lock:
            self._loading.clear()
            with self._kept.timer:
                self._kept.expire()
                for entry in self._kept.values():
                    self._drop(entry, "cleared")
                self._kept.clear()
        logger.info("Cache %s: cleared", self.name)
        self._let_go_of_dropped()

    def get_cache_stats(self) -> CacheStats:
        """The statistics at one moment."""
        with self._lock:
            stats = CacheStats(
                entries=len(self._kept),  # first of all: this is what lets expired values go
                **vars(self._counts),
                bytes=self._bytes,
                max_entries=self._max_entries,
                max_bytes=self._max_bytes,
                ttl_seconds=self._ttl_seconds,
            )
        self._let_go_of_dropped()
        return stats

    def clear_cache_stats(self) -> None:
        """Count from zero; values stay."""
        with self._lock:
            self._counts = _Counts()

    def close(self) -> None:
        """Forget every key and refuse further look-ups; waits neither for users nor for loads."""
        with self._lock:
            self._closed = True
        self.clear_cache()

    def _acquire(self, key: K, load: Callable[[], V], patience_seconds: float | None) -> "_Entry[K, V]":
        """The loaded entry of the key, held for the caller."""
        with self._lock:
            entry = self._find(key)
            is_hit, is_first = entry is not None, False
            if entry is None:
                self._counts.misses += 1
                is_first = key not in self._loading
                entry = self._loading.setdefault(key, _Entry(key))
            entry.holders += 1
        if is_hit:
            self._let_go_of_dropped()
            logger.debug("Cache %s: hit %.100r", self.name, key)
            return entry
        try:
            if is_first:
                self._start_loading(entry, load, in_background=patience_seconds is not None)
            self._let_go_of_dropped()
            if not entry.loaded.wait(patience_seconds):
                raise StillLoadingError(f"Cache {self.name}: {key!r:.100} is still loading after {patience_seconds} s")
            if entry.error is not None:
                # One error for many threads: each starts from the load's traceback instead of adding to the others'.
                raise entry.error.with_traceback(entry.traceback)
        except BaseException:
            self._release(entry)
            raise
        return entry

    def _find(self, key: K) -> "_Entry[K, V] | None":
        self._require_open()
        self._kept.expire()
        try:
            entry = self._kept[key]
        except KeyError:
            return None
        self._counts.hits += 1
        return entry

    def _start_loading(self, entry: "_Entry[K, V]", load: Callable[[], V], in_background: bool) -> None:
        if not in_background:
            self._load(entry, load)
            return

        def load_and_let_go() -> None:
            with self._places:
                self._load(entry, load)
            self._release(entry)

        with self._lock:
            entry.holders += 1
        try:
            # A daemon: a load that hangs must not keep the process from ending.
            threading.Thread(target=load_and_let_go, name=f"{self.name}-load", daemon=True).start()
        except RuntimeError:  # the system has no thread to give: load here, whatever the patience
            load_and_let_go()

    def _load(self, entry: "_Entry[K, V]", load: Callable[[], V]) -> None:
        """Load, keep and announce; an error is put down for those who wait and never raised here."""
        started = time.perf_counter()
        try:
            self._require_open()  # it may have waited for a place
            self._let_go_of_dropped()  # first, since old and new together may be too much for the memory
            entry.value = load()
            entry.bytes = self._size_of(entry.value) if self._size_of else 0
        except BaseException as error:  # noqa: BLE001 - each of those who wait raises it
            entry.error, entry.traceback = error, error.__traceback__
        seconds = time.perf_counter() - started
        with self._lock:
            is_wanted = self._loading.get(entry.key) is entry
            if is_wanted:
                del self._loading[entry.key]
            if entry.error is not None:
                self._counts.load_failures += 1
            else:
                self._counts.loads += 1
                self._counts.load_seconds += seconds
                if is_wanted:
                    self._keep(entry)
        entry.loaded.set()
        if entry.error is None:
            logger.info("Cache %s: miss %.100r, loaded in %.3f s", self.name, entry.key, seconds)
        else:
            logger.warning("Cache %s: miss %.100r, failed after %.3f s: %r", self.name, entry.key, seconds, entry.error)
        self._let_go_of_dropped()

    def _keep(self, entry: "_Entry[K, V]") -> None:
        limit = math.inf if self._max_bytes is None else self._max_bytes
        entry.holders += 1
        self._bytes += entry.bytes
        if entry.bytes > limit:
            self._drop(entry, "too large to keep")
            return
        with self._kept.timer:  # time stands still, so that the new entry cannot expire while others make way for it
            self._kept[entry.key] = entry
            while self._bytes > limit:
                self._kept.popitem()

    def _drop(self, entry: "_Entry[K, V]", why: str) -> None:
        """Called under the lock for whatever leaves; the rest is for `_let_go_of_dropped`."""
        self._bytes -= entry.bytes
        self._counts.evictions += why == "evicted"
        self._counts.expirations += why == "expired"
        self._counts.too_large += why == "too large to keep"
        self._dropped.append((entry, why))

    def _let_go_of_dropped(self) -> None:
        """Outside the lock, since logging and closing may be slow."""
        if not self._dropped:
            return
        with self._lock:
            dropped, self._dropped = self._dropped, []
        for entry, why in dropped:
            logger.info("Cache %s: %s %.100r", self.name, why, entry.key)
            self._release(entry)

    def _release(self, entry: "_Entry[K, V]") -> None:
        with self._lock:
            entry.holders -= 1
            is_last = entry.holders == 0
        if is_last and entry.error is None and self._close is not None:
            try:
                self._close(entry.value)
            except Exception:
                logger.exception("Cache %s: closing the value of %.100r failed", self.name, entry.key)

    def _require_open(self) -> None:
        if self._closed:
            raise CacheClosedError(f"Cache {self.name} is closed")

    def _require_no_closing(self) -> None:
        if self._close is not None:
            raise TypeError(f"Cache {self.name} closes its values: use `with cache.lease(…)`")


@dataclass
class _Counts:
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    loads: int = 0
    load_failures: int = 0
    too_large: int = 0
    load_seconds: float = 0.0


class _Entry(Generic[K, V]):
    """A value from the moment its load starts until nobody holds it; `holders` changes only under the cache's lock."""

    value: V

    def __init__(self, key: K) -> None:
        self.key = key
        self.bytes = 0
        self.holders = 0
        self.loaded = threading.Event()
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None


class _Store(TTLCache[K, _Entry[K, V]]):
    """Tells of every entry that leaves by itself, and why."""

    def __init__(
        self, max_entries: int, ttl: float, timer: Callable[[], float], dropped: Callable[[_Entry[K, V], str], None]
    ) -> None:
        super().__init__(max_entries, ttl, timer)
        self._dropped = dropped

    def expire(self, time: float | None = None) -> list[tuple[K, _Entry[K, V]]]:
        expired = super().expire(time)
        for _, entry in expired:
            self._dropped(entry, "expired")
        return expired

    def popitem(self) -> tuple[K, _Entry[K, V]]:
        key, entry = super().popitem()
        self._dropped(entry, "evicted")
        return key, entry
