"""The cache keeps its promises, also when many threads use it at once; time is a number that the tests set."""

import logging
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import pytest

from retrieval.cache import BACKGROUND_LOADS, CacheStats, InstanceCache, StillLoadingError

SECONDS = 20  # how long a broken test hangs


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Load:
    """A load that the test holds back; counts its calls."""

    def __init__(self, result: object = "value") -> None:
        self.result = result
        self.calls = 0
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> object:
        self.calls += 1
        self.started.set()
        assert self.go.wait(SECONDS)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> InstanceCache[str, object]:
    return InstanceCache("things", max_entries=3, ttl_seconds=60, timer=clock)


@pytest.fixture
def sized(clock: Clock) -> InstanceCache[str, bytes]:
    return InstanceCache("sized", max_entries=2, ttl_seconds=60, max_bytes=10, size_of=len, timer=clock)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@contextmanager
def loading(cache: InstanceCache[str, object], pool: ThreadPoolExecutor, load: Load) -> Iterator[Future[object]]:
    """While the key "k" is being loaded by another thread; its load ends with this."""
    call = pool.submit(cache.get, "k", load)
    try:
        assert load.started.wait(SECONDS)
        yield call
    finally:
        load.go.set()


def kept(cache: InstanceCache[str, object]) -> set[str]:
    return {key for key in "abcdk" if cache.peek(key) is not None}


def never() -> NoReturn:
    raise AssertionError("this key must not be loaded again")


def stats(cache: InstanceCache[str, object] | InstanceCache[str, bytes]) -> CacheStats:
    """Without what time it took."""
    return replace(cache.get_cache_stats(), load_seconds=0.0)


def test_a_value_is_loaded_once_and_then_hit(cache: InstanceCache[str, object]) -> None:
    value = object()
    assert cache.get("k", lambda: value) is value
    assert cache.get("k", never) is value
    assert cache.peek("k") is value
    assert cache.get("k", never, patience_seconds=0) is value
    assert cache.get_cache_stats().hit_rate == 0.75
    assert stats(cache) == CacheStats(
        hits=3,
        misses=1,
        evictions=0,
        expirations=0,
        loads=1,
        load_failures=0,
        too_large=0,
        load_seconds=0.0,
        entries=1,
        bytes=0,
        max_entries=3,
        max_bytes=None,
        ttl_seconds=60,
    )


def test_a_peek_that_finds_nothing_counts_nothing(cache: InstanceCache[str, object]) -> None:
    assert cache.peek("k") is None
    assert (stats(cache).hits, stats(cache).misses) == (0, 0)


def test_none_and_false_are_values(cache: InstanceCache[str, object]) -> None:
    for key, value in (("a", None), ("b", False)):
        assert cache.get(key, lambda value=value: value) is value  # type: ignore[misc]
        assert cache.get(key, never) is value


def test_a_key_under_a_stampede_is_loaded_once(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    load = Load()
    with loading(cache, pool, load) as first:
        others = [pool.submit(cache.get, "k", never) for _ in range(15)]
        until(lambda: stats(cache).misses == 16)
    assert {call.result(SECONDS) for call in [first, *others]} == {"value"}
    assert (load.calls, stats(cache).loads, stats(cache).hits) == (1, 1, 0)


def test_different_keys_are_loaded_at_the_same_time(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    both = threading.Barrier(2, timeout=SECONDS)
    calls = [pool.submit(cache.get, key, both.wait) for key in "ab"]
    assert {call.result(SECONDS) for call in calls} == {0, 1}


def test_a_hit_waits_for_no_load(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    cache.get("a", lambda: 1)
    with loading(cache, pool, Load()) as call:
        assert cache.get("a", never) == 1
        assert not call.done()


def test_a_load_may_use_the_cache_for_another_key(cache: InstanceCache[str, object]) -> None:
    assert cache.get("a", lambda: [cache.get("b", lambda: 1)]) == [1]
    assert kept(cache) == {"a", "b"}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_a_failed_load_wakes_all_with_one_error_and_is_not_kept(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor, error: BaseException
) -> None:
    with loading(cache, pool, Load(error)) as first:
        others = [pool.submit(cache.get, "k", never) for _ in range(7)]
        until(lambda: stats(cache).misses == 8)
    assert [call.exception(SECONDS) for call in [first, *others]] == [error] * 8
    assert (stats(cache).load_failures, stats(cache).loads, stats(cache).entries) == (1, 0, 0)
    assert cache.get("k", lambda: "second try") == "second try"


def test_an_error_that_many_raise_keeps_a_short_traceback_that_shows_the_load(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    """Raised again, an exception adds to the traceback it has."""
    error = ValueError("broken")
    turn = threading.Lock()

    def wait_and_measure() -> list[str]:
        try:
            cache.get("k", never)
        except ValueError as raised:
            with turn:
                return [frame.name for frame in traceback.extract_tb(raised.__traceback__)]
        return []

    with loading(cache, pool, Load(error)):
        calls = [pool.submit(wait_and_measure) for _ in range(20)]
        until(lambda: stats(cache).misses == 21)
    for call in calls:
        frames = call.result(SECONDS)
        assert "__call__" in frames  # Load's
        assert len(frames) < 20


def test_what_is_forgotten_during_its_load_is_served_and_not_kept(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    with loading(cache, pool, Load("old")) as old:
        cache.clear_cache()
        assert cache.get("k", lambda: "new") == "new"  # does not wait for the old one
    assert old.result(SECONDS) == "old"
    assert cache.get("k", never) == "new"


def test_age_counts_from_the_load(cache: InstanceCache[str, object], clock: Clock) -> None:
    cache.get("k", lambda: "old")
    clock.now += 59
    assert cache.get("k", never) == "old"
    clock.now += 1
    assert cache.peek("k") is None
    assert cache.get("k", lambda: "new") == "new"
    assert (stats(cache).expirations, stats(cache).evictions, stats(cache).entries) == (1, 0, 1)


def test_expired_values_leave_when_statistics_are_read(sized: InstanceCache[str, bytes], clock: Clock) -> None:
    sized.get("k", lambda: b"value")
    clock.now += 60
    assert (stats(sized).entries, stats(sized).bytes, stats(sized).expirations) == (0, 0, 1)


def test_without_a_limit_values_never_expire(clock: Clock) -> None:
    cache: InstanceCache[str, int] = InstanceCache("eternal", ttl_seconds=math.inf, timer=clock)
    cache.get("k", lambda: 1)
    clock.now += 1e12
    assert cache.peek("k") == 1


def test_the_least_recently_used_leaves_first(cache: InstanceCache[str, object]) -> None:
    for key in "abc":
        cache.get(key, str)
    cache.get("a", never)
    cache.peek("b")
    cache.get("d", str)
    assert kept(cache) == {"a", "b", "d"}
    assert stats(cache).evictions == 1


def test_the_least_recently_used_make_way_until_the_bytes_fit(clock: Clock) -> None:
    cache: InstanceCache[str, bytes] = InstanceCache("bytes", max_bytes=10, size_of=len, timer=clock)
    for key, size in (("a", 3), ("b", 3), ("c", 3)):
        cache.get(key, lambda size=size: bytes(size))  # type: ignore[misc]
    cache.get("d", lambda: bytes(7))
    assert [key for key in "abcd" if cache.peek(key)] == ["c", "d"]
    figures = cache.get_cache_stats()
    assert (figures.bytes, figures.entries, figures.evictions, figures.max_bytes) == (10, 2, 2, 10)


def test_what_is_larger_than_the_budget_is_served_and_drives_nothing_out(sized: InstanceCache[str, bytes]) -> None:
    sized.get("small", lambda: bytes(1))
    assert len(sized.get("large", lambda: bytes(11))) == 11
    figures = stats(sized)
    assert (figures.too_large, figures.evictions, figures.entries, figures.bytes) == (1, 0, 1, 1)


def test_a_load_outlives_the_patience_of_who_asked_and_is_kept(cache: InstanceCache[str, object]) -> None:
    load = Load()
    for _ in range(2):  # the second joins the load of the first
        with pytest.raises(StillLoadingError, match=r"things: 'k' is still loading after 0.001 s"):
            cache.get("k", load, patience_seconds=0.001)
    load.go.set()
    assert cache.get("k", never) == "value"  # waits without patience for the same load
    until(lambda: stats(cache).entries == 1)
    assert cache.get("k", never, patience_seconds=0) == "value"
    assert (load.calls, stats(cache).loads) == (1, 1)


def test_patience_is_not_used_up_when_the_load_is_quick(cache: InstanceCache[str, object]) -> None:
    loader: list[threading.Thread] = []
    cache.get("k", lambda: loader.append(threading.current_thread()), patience_seconds=SECONDS)
    assert loader[0].daemon
    assert loader[0] is not threading.current_thread()


def test_patience_holds_for_loads_of_others(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    with loading(cache, pool, Load()) as call, pytest.raises(StillLoadingError):
        cache.get("k", never, patience_seconds=0)
    assert call.result(SECONDS) == "value"


def test_a_load_in_the_background_that_fails_is_tried_again(
    cache: InstanceCache[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    unnoticed, noticed = Load(OSError("away")), Load(OSError("still away"))
    with pytest.raises(StillLoadingError):
        cache.get("k", unnoticed, patience_seconds=0)
    unnoticed.go.set()
    until(lambda: "failed after" in caplog.text)  # nobody waits for it, so the log alone tells
    noticed.go.set()
    with pytest.raises(OSError, match="still away"):
        cache.get("k", noticed, patience_seconds=SECONDS)
    assert cache.get("k", lambda: "back", patience_seconds=SECONDS) == "back"


def test_only_so_many_loads_run_in_the_background(clock: Clock) -> None:
    cache: InstanceCache[int, object] = InstanceCache("many", timer=clock)
    loads = [Load() for _ in range(BACKGROUND_LOADS + 1)]
    for key, load in enumerate(loads):
        with pytest.raises(StillLoadingError):
            cache.get(key, load, patience_seconds=0)
        if key < BACKGROUND_LOADS:
            assert load.started.wait(SECONDS)
    assert not loads[-1].started.wait(0.05)
    loads[0].go.set()
    assert loads[-1].started.wait(SECONDS)
    for load in loads:
        load.go.set()
    until(lambda: cache.get_cache_stats().entries == len(loads))


def test_where_no_thread_can_be_started_the_caller_loads(
    cache: InstanceCache[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert cache.get("k", lambda: "value", patience_seconds=0) == "value"
    assert cache.get("k", never) == "value"


def test_statistics_start_anew_and_values_stay(cache: InstanceCache[str, object]) -> None:
    assert cache.get_cache_stats().hit_rate == 0.0
    cache.get("k", lambda: 1)
    cache.get("k", never)
    assert cache.get_cache_stats().load_seconds > 0
    cache.clear_cache_stats()
    figures = cache.get_cache_stats()
    assert (figures.hits, figures.misses, figures.loads, figures.load_seconds, figures.entries) == (0, 0, 0, 0.0, 1)


def test_what_happens_is_logged_with_cache_and_key(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "retrieval.cache")
    cache: InstanceCache[str, str] = InstanceCache("log", max_entries=1, ttl_seconds=60, timer=clock)
    cache.get("a", str)
    cache.get("a", str)
    cache.get("b", str)
    clock.now += 60
    cache.get("c", str)
    cache.clear_cache()
    lines = [(record.levelname, record.getMessage().split(", loaded in")[0]) for record in caplog.records]
    assert lines == [
        ("INFO", "Cache log: miss 'a'"),
        ("DEBUG", "Cache log: hit 'a'"),
        ("INFO", "Cache log: miss 'b'"),
        ("INFO", "Cache log: evicted 'a'"),
        ("INFO", "Cache log: expired 'b'"),
        ("INFO", "Cache log: miss 'c'"),
        ("INFO", "Cache log: cleared"),
        ("INFO", "Cache log: cleared 'c'"),
    ]


def test_a_long_key_does_not_fill_the_log(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A key may be what a caller sent."""
    caplog.set_level(logging.DEBUG, "retrieval.cache")
    cache: InstanceCache[str, str] = InstanceCache("log", timer=clock)
    for _ in range(2):
        cache.get("long\n" * 1000, str)
    cache.clear_cache()
    assert max(len(record.getMessage()) for record in caplog.records) < 200
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "limits", [{"max_entries": 0}, {"ttl_seconds": 0}, {"ttl_seconds": math.nan}, {"max_bytes": 10}], ids=repr
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Cache odd: "):
        InstanceCache("odd", **limits)  # type: ignore[arg-type]
