"""A thread-safe LRU cache with a TTL, for values that are shared: models, open courses and embedded queries.

    courses: InstanceCache[str, Course] = InstanceCache("courses", max_entries=50, ttl_seconds=1800)
    course = courses.get(course_id, load)

Eviction and expiry are those of `cachetools.TTLCache`. Concurrent calls for one key share a single load. Loads run
outside the lock, so a hit takes microseconds even while other keys load.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from cachetools import TTLCache

logger = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

BACKGROUND_LOADS = 16
"""Maximum number of concurrent background loads per cache. Time in the queue counts towards a caller's timeout."""


class StillLoadingError(Exception):
    """The value was not loaded within `timeout_seconds`. The load continues, for later callers."""


@dataclass(frozen=True)
class CacheStats:
    """Counts since the start or the last `clear_cache_stats`, and the current contents."""

    hits: int
    misses: int
    evictions: int
    expirations: int
    loads: int
    load_failures: int
    load_seconds: float
    entries: int
    max_entries: int
    ttl_seconds: float

    @property
    def hit_rate(self) -> float:
        """Hits divided by lookups, 0.0 to 1.0; 0.0 before the first lookup."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class InstanceCache(Generic[K, V]):
    """Safe to share between threads. A load function may call the cache for other keys, but not for the key it loads.

    Args:
        name: Name in log messages and statistics.
        max_entries: Maximum number of values.
        ttl_seconds: Lifetime of a value from its load on; hits do not extend it. The next call of any method but
            `clear_cache_stats` removes expired values.
        timer: A monotonic clock, in seconds.
        key_text: How log messages show a key.
    """

    def __init__(
        self,
        name: str,
        *,
        max_entries: int,
        ttl_seconds: float,
        timer: Callable[[], float] = time.monotonic,
        key_text: Callable[[K], str] = repr,
    ) -> None:
        if max_entries < 1 or not ttl_seconds > 0:
            raise ValueError(f"Cache {name}: max_entries and ttl_seconds must be above 0")
        self.name = name
        self._max_entries = max_entries
        self._ttl_seconds = ttl_seconds
        self._key_text = key_text
        self._lock = threading.Lock()
        self._store: _Store[K, V] = _Store(max_entries, ttl_seconds, timer, self._count_removal)
        self._loading: dict[K, _Load[V]] = {}
        self._removals: list[tuple[K, str]] = []
        self._counts = _Counts()
        self._background_slots = threading.Semaphore(BACKGROUND_LOADS)

    def get(self, key: K, load: Callable[[], V], timeout_seconds: float | None = None) -> V:
        """The value of the key, loaded if it is not cached.

        Without a timeout, the first caller loads on its thread and the others wait. With a timeout, the load runs on
        a background thread, and its value is cached even if all callers have timed out.

        Args:
            key: The key.
            load: Loads the value, which is not None; not called concurrently for one key, unless the cache is cleared.
                All waiting callers raise its error. Errors are not cached: the next call loads again.
            timeout_seconds: Maximum wait for a value that is not cached; None means no limit.

        Raises:
            StillLoadingError: The value was not loaded within the timeout.
        """
        with self._lock:
            value = self._find(key)
            is_first = False
            if value is None:
                self._counts.misses += 1
                is_first = key not in self._loading
                loading = self._loading.setdefault(key, _Load())
        self._log_removals()
        if value is not None:
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("Cache %s: hit %.100s", self.name, self._key_text(key))
            return value
        if is_first and timeout_seconds is None:
            self._load(key, loading, load)
        elif is_first:
            self._load_in_background(key, loading, load)
        if not loading.done.wait(timeout_seconds):
            raise StillLoadingError(f"Cache {self.name}: {key!r:.100} is still loading after {timeout_seconds} s")
        if loading.error is not None:
            # Many threads raise the same exception object: reset its traceback, or it would grow with each of them.
            raise loading.error.with_traceback(loading.traceback)
        return loading.value

    def peek(self, key: K) -> V | None:
        """The value if it is cached, otherwise None. Counts as a hit, but never as a miss."""
        with self._lock:
            value = self._find(key)
        self._log_removals()
        return value

    def put(self, key: K, value: V, seconds: float) -> None:
        """Cache a value that was loaded elsewhere, in so many seconds. It counts as a miss and a load."""
        with self._lock:
            self._counts.misses += 1
            self._counts.loads += 1
            self._counts.load_seconds += seconds
            self._store[key] = value
        self._log_load(key, seconds)
        self._log_removals()

    def discard(self, key: K) -> None:
        """Remove the value of the key, if it is cached."""
        with self._lock:
            if self._store.pop(key, None) is not None:
                self._removals.append((key, "discarded"))
        self._log_removals()

    def clear_cache(self) -> None:
        """Remove all values. Callers still get the results of running loads, which are then not cached."""
        with self._lock:
            self._loading.clear()
            with self._store.timer:
                self._store.expire()
                for key in self._store:
                    self._count_removal(key, "cleared")
                self._store.clear()
        logger.info("Cache %s: cleared", self.name)
        self._log_removals()

    def get_cache_stats(self) -> CacheStats:
        """A consistent snapshot of the statistics."""
        with self._lock:
            stats = CacheStats(
                entries=len(self._store),  # first, because it removes expired values
                **vars(self._counts),
                max_entries=self._max_entries,
                ttl_seconds=self._ttl_seconds,
            )
        self._log_removals()
        return stats

    def clear_cache_stats(self) -> None:
        """Set all counts to zero. Cached values stay."""
        with self._lock:
            self._counts = _Counts()

    def _find(self, key: K) -> V | None:
        self._store.expire()
        try:
            value = self._store[key]
        except KeyError:
            return None
        self._counts.hits += 1
        return value

    def _load_in_background(self, key: K, loading: "_Load[V]", load: Callable[[], V]) -> None:
        def run() -> None:
            with self._background_slots:
                self._load(key, loading, load)

        try:
            # A daemon thread, so that a hanging load cannot keep the process alive. In the caller's context, which has
            # the id of its request.
            threading.Thread(target=copy_context().run, args=(run,), name=f"{self.name}-load", daemon=True).start()
        except RuntimeError:  # the system cannot start a thread: load in the caller, ignoring the timeout
            run()

    def _load(self, key: K, loading: "_Load[V]", load: Callable[[], V]) -> None:
        """Load and cache the value. An error is stored for the waiting callers, not raised."""
        started = time.perf_counter()
        try:
            loading.value = load()
        except BaseException as error:  # noqa: BLE001 - every waiting caller raises it
            loading.error, loading.traceback = error, error.__traceback__
        seconds = time.perf_counter() - started
        with self._lock:
            is_current = self._loading.get(key) is loading  # false after `clear_cache`
            if is_current:
                del self._loading[key]
            if loading.error is not None:
                self._counts.load_failures += 1
            else:
                self._counts.loads += 1
                self._counts.load_seconds += seconds
                if is_current:
                    self._store[key] = loading.value
        loading.done.set()
        if loading.error is None:
            self._log_load(key, seconds)
        else:
            logger.warning(
                "Cache %s: miss %.100s, failed after %.3f s: %r", self.name, self._key_text(key), seconds, loading.error
            )
        self._log_removals()

    def _log_load(self, key: K, seconds: float) -> None:
        logger.info("Cache %s: miss %.100s, loaded in %.3f s", self.name, self._key_text(key), seconds)

    def _count_removal(self, key: K, reason: str) -> None:
        """Called with the lock held. The log line is written later, outside the lock."""
        self._counts.evictions += reason == "evicted"
        self._counts.expirations += reason == "expired"
        self._removals.append((key, reason))

    def _log_removals(self) -> None:
        if not self._removals:
            return
        with self._lock:
            removals, self._removals = self._removals, []
        for key, reason in removals:
            logger.info("Cache %s: %s %.100s", self.name, reason, self._key_text(key))


@dataclass
class _Counts:
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    loads: int = 0
    load_failures: int = 0
    load_seconds: float = 0.0


class _Load(Generic[V]):
    """A load that is running, or that ended with a value or an error."""

    value: V

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None


class _Store(TTLCache[K, V]):
    """A `TTLCache` that reports each entry that it evicts or expires."""

    def __init__(
        self,
        max_entries: int,
        ttl: float,
        timer: Callable[[], float],
        on_removal: Callable[[K, str], None],
    ) -> None:
        super().__init__(max_entries, ttl, timer)
        self._on_removal = on_removal

    def expire(self, time: float | None = None) -> list[tuple[K, V]]:
        expired = super().expire(time)
        for key, _ in expired:
            self._on_removal(key, "expired")
        return expired

    def popitem(self) -> tuple[K, V]:
        key, value = super().popitem()
        self._on_removal(key, "evicted")
        return key, value
