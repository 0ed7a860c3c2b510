"""Whatever is done to the cache in whatever order: one thread finds what a model says, many threads lose nothing."""

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

MAX_ENTRIES, TTL, MAX_BYTES = 3, 10, 8
KEYS = "abcde"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Value:
    def __init__(self, size: int) -> None:
        self.size = size


class LoadError(Exception):
    pass


def fail() -> Value:
    raise LoadError


def new_cache(clock: Callable[[], float]) -> InstanceCache[str, Value]:
    return InstanceCache(
        "fuzz",
        max_entries=MAX_ENTRIES,
        ttl_seconds=TTL,
        max_bytes=MAX_BYTES,
        size_of=lambda value: value.size,
        timer=clock,
    )


class CacheAgainstModel(RuleBasedStateMachine):
    """One thread, so that the model can say exactly what is kept and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = new_cache(self.clock)
        self.model: OrderedDict[str, tuple[Value, float]] = OrderedDict()  # least recently used first
        self.counts = dict.fromkeys(
            ("hits", "misses", "evictions", "expirations", "loads", "load_failures", "too_large"), 0
        )

    @rule(key=st.sampled_from(KEYS), size=st.integers(0, MAX_BYTES + 1))
    def get(self, key: str, size: int) -> None:
        new = Value(size)
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
        if size > MAX_BYTES:
            self.counts["too_large"] += 1
            return
        self.model[key] = (new, self.clock.now + TTL)
        while len(self.model) > MAX_ENTRIES or self._bytes() > MAX_BYTES:
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
    def time_passes(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def statistics_are_the_models(self) -> None:
        figures = asdict(self.cache.get_cache_stats())
        self._expire()
        assert {name: figures[name] for name in self.counts} == self.counts
        assert (figures["entries"], figures["bytes"]) == (len(self.model), self._bytes())

    def _expire(self) -> None:
        for key in [key for key, (_, expires) in self.model.items() if expires <= self.clock.now]:
            del self.model[key]
            self.counts["expirations"] += 1

    def _bytes(self) -> int:
        return sum(value.size for value, _ in self.model.values())


CacheAgainstModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_against_a_model = CacheAgainstModel.TestCase


class Hammer:
    """Threads that do to one cache what a seed makes them do; remembers everything that was loaded."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cache = new_cache(self.clock)
        self.lock = threading.Lock()
        self.loaded: list[Value] = []
        self.failed = 0
        self.lookups = 0

    def run(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            key = chance.choice(KEYS)
            match chance.randrange(20):
                case 0:
                    self.cache.clear_cache()
                case 1 | 2 | 3:
                    self.clock.now += 3
                case 5:
                    self.cache.get_cache_stats()
                case _:
                    self._use(key, chance)

    def _use(self, key: str, chance: random.Random) -> None:
        size, patience = chance.randrange(MAX_BYTES + 2), chance.choice([None, None, 0, 0.001, 10])
        with self.lock:
            self.lookups += 1
        with suppress(LoadError, StillLoadingError):
            self.cache.get(key, lambda: self._load(size), patience)

    def _load(self, size: int) -> Value:
        with self.lock:
            if size == MAX_BYTES:
                self.failed += 1
                raise LoadError
            value = Value(size)
            self.loaded.append(value)
            return value


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Python takes turns between threads after a microsecond instead of five thousand."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless_threads")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.lists(st.integers(0, 2**32), min_size=6, max_size=6))
def test_threads_lose_nothing(seeds: list[int]) -> None:
    hammer = Hammer()
    with ThreadPoolExecutor(len(seeds)) as pool:
        for call in [pool.submit(hammer.run, seed) for seed in seeds]:
            call.result(60)
    for thread in threading.enumerate():  # loads that nobody waits for any more
        if thread.name == "fuzz-load":
            thread.join(60)
    figures = hammer.cache.get_cache_stats()
    assert figures.hits + figures.misses == hammer.lookups
    assert (figures.loads, figures.load_failures) == (len(hammer.loaded), hammer.failed)
    assert figures.entries <= MAX_ENTRIES
    assert figures.bytes <= MAX_BYTES
