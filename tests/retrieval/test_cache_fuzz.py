"""Random operations on the cache: one thread is compared with a model, many threads must keep the counts consistent."""

import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from retrieval.cache import InstanceCache, StillLoadingError

MAX_ENTRIES, TTL = 3, 10
KEYS = "abcde"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Value:
    pass


class LoadError(Exception):
    pass


def fail() -> Value:
    raise LoadError


def new_cache(clock: Callable[[], float]) -> InstanceCache[str, Value]:
    return InstanceCache("fuzz", max_entries=MAX_ENTRIES, ttl_seconds=TTL, timer=clock)


class CacheAgainstModel(RuleBasedStateMachine):
    """Compares a cache that one thread uses with an exact model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = new_cache(self.clock)
        self.model: OrderedDict[str, tuple[Value, float]] = OrderedDict()  # least recently used first
        self.counts = dict.fromkeys(("hits", "misses", "evictions", "expirations", "loads", "load_failures"), 0)

    @rule(key=st.sampled_from(KEYS))
    def get(self, key: str) -> None:
        new = Value()
        value = self.cache.get(key, lambda: new)
        self._expire()
        if key in self.model:
            self.counts["hits"] += 1
            self.model.move_to_end(key)
            assert value is self.model[key][0]
            return
        self.counts["misses"] += 1
        self.counts["loads"] += 1
        assert value is new
        self.model[key] = (new, self.clock.now + TTL)
        if len(self.model) > MAX_ENTRIES:
            self.model.popitem(last=False)
            self.counts["evictions"] += 1

    @rule(key=st.sampled_from(KEYS))
    def fail_to_load(self, key: str) -> None:
        self._expire()
        try:
            self.cache.get(key, fail)
        except LoadError:
            assert key not in self.model
            self.counts["misses"] += 1
            self.counts["load_failures"] += 1
        else:
            self.model.move_to_end(key)
            self.counts["hits"] += 1

    @rule()
    def clear(self) -> None:
        self.cache.clear_cache()
        self._expire()
        self.model.clear()

    @rule()
    def clear_stats(self) -> None:
        self.cache.clear_cache_stats()
        self.counts = dict.fromkeys(self.counts, 0)

    @rule(seconds=st.integers(1, TTL))
    def advance_clock(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def statistics_equal_the_model(self) -> None:
        stats = asdict(self.cache.get_cache_stats())
        self._expire()
        assert {name: stats[name] for name in self.counts} == self.counts
        assert stats["entries"] == len(self.model)

    def _expire(self) -> None:
        for key in [key for key, (_, expires) in self.model.items() if expires <= self.clock.now]:
            del self.model[key]
            self.counts["expirations"] += 1


CacheAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_cache_equals_model = CacheAgainstModel.TestCase


class RandomCacheUser:
    """Performs random operations on one cache from several threads, and records all loads."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cache = new_cache(self.clock)
        self.lock = threading.Lock()
        self.loaded: list[Value] = []
        self.failed = 0
        self.lookups = 0

    def run(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            key = rng.choice(KEYS)
            match rng.randrange(20):
                case 0:
                    self.cache.clear_cache()
                case 1 | 2 | 3:
                    self.clock.now += 3
                case 5:
                    self.cache.get_cache_stats()
                case _:
                    self._use(key, rng)

    def _use(self, key: str, rng: random.Random) -> None:
        fails, timeout = rng.randrange(10) == 0, rng.choice([None, None, 0, 0.001, 10])
        with self.lock:
            self.lookups += 1
        with suppress(LoadError, StillLoadingError):
            self.cache.get(key, lambda: self._load(fails), timeout)

    def _load(self, fails: bool) -> Value:
        with self.lock:
            if fails:
                self.failed += 1
                raise LoadError
            value = Value()
            self.loaded.append(value)
            return value


@pytest.fixture
def short_switch_interval() -> Iterator[None]:
    """Python switches threads every microsecond instead of every 5 milliseconds."""
    default = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(default)


@pytest.mark.usefixtures("short_switch_interval")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.lists(st.integers(0, 2**32), min_size=6, max_size=6))
def test_counts_are_consistent_with_many_threads(seeds: list[int]) -> None:
    user = RandomCacheUser()
    with ThreadPoolExecutor(len(seeds)) as pool:
        for call in [pool.submit(user.run, seed) for seed in seeds]:
            call.result(60)
    for thread in threading.enumerate():  # background loads whose callers have timed out
        if thread.name == "fuzz-load":
            thread.join(60)
    stats = user.cache.get_cache_stats()
    assert stats.hits + stats.misses == user.lookups
    assert (stats.loads, stats.load_failures) == (len(user.loaded), user.failed)
    assert stats.entries <= MAX_ENTRIES
