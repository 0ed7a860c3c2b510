"""The instance cache, also under concurrent use. A fake clock replaces the time."""

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

LIMIT_SECONDS = 60  # after this time, a wait counts as failed


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Load:
    """A load function that blocks until `release` is set, and counts its calls."""

    def __init__(self, result: object = "value") -> None:
        self.result = result
        self.calls = 0
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> object:
        self.calls += 1
        self.started.set()
        assert self.release.wait(LIMIT_SECONDS)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
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
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@contextmanager
def loading(cache: InstanceCache[str, object], pool: ThreadPoolExecutor, load: Load) -> Iterator[Future[object]]:
    """Another thread loads the key "k" during the body of the `with` statement."""
    call = pool.submit(cache.get, "k", load)
    try:
        assert load.started.wait(LIMIT_SECONDS)
        yield call
    finally:
        load.release.set()


def cached_keys(cache: InstanceCache[str, object]) -> set[str]:
    return {key for key in "abcdk" if cache.peek(key) is not None}


def unexpected_load() -> NoReturn:
    raise AssertionError("the key must not be loaded again")


def stats(cache: InstanceCache[str, object]) -> CacheStats:
    """The statistics with `load_seconds` set to 0."""
    return replace(cache.get_cache_stats(), load_seconds=0.0)


def test_get_loads_a_value_once(cache: InstanceCache[str, object]) -> None:
    value = object()
    assert cache.get("k", lambda: value) is value
    assert cache.get("k", unexpected_load) is value
    assert cache.peek("k") is value
    assert cache.get("k", unexpected_load, timeout_seconds=0) is value
    assert cache.get_cache_stats().hit_rate == 0.75
    assert stats(cache) == CacheStats(
        hits=3,
        misses=1,
        evictions=0,
        expirations=0,
        loads=1,
        load_failures=0,
        load_seconds=0.0,
        entries=1,
        max_entries=3,
        ttl_seconds=60,
    )


def test_peek_does_not_count_a_miss(cache: InstanceCache[str, object]) -> None:
    assert cache.peek("k") is None
    assert (stats(cache).hits, stats(cache).misses) == (0, 0)


def test_values_that_are_false_are_cached(cache: InstanceCache[str, object]) -> None:
    for key, value in (("a", 0), ("b", "")):
        assert cache.get(key, lambda value=value: value) is value  # type: ignore[misc]
        assert cache.get(key, unexpected_load) is value


def test_concurrent_calls_for_one_key_load_it_once(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    load = Load()
    with loading(cache, pool, load) as first:
        others = [pool.submit(cache.get, "k", unexpected_load) for _ in range(15)]
        wait_until(lambda: stats(cache).misses == 16)
    assert {call.result(LIMIT_SECONDS) for call in [first, *others]} == {"value"}
    assert (load.calls, stats(cache).loads, stats(cache).hits) == (1, 1, 0)


def test_different_keys_load_concurrently(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    barrier = threading.Barrier(2, timeout=LIMIT_SECONDS)
    calls = [pool.submit(cache.get, key, barrier.wait) for key in "ab"]
    assert {call.result(LIMIT_SECONDS) for call in calls} == {0, 1}


def test_hit_does_not_wait_for_another_load(cache: InstanceCache[str, object], pool: ThreadPoolExecutor) -> None:
    cache.get("a", lambda: 1)
    with loading(cache, pool, Load()) as call:
        assert cache.get("a", unexpected_load) == 1
        assert not call.done()


def test_load_function_may_get_another_key(cache: InstanceCache[str, object]) -> None:
    assert cache.get("a", lambda: [cache.get("b", lambda: 1)]) == [1]
    assert cached_keys(cache) == {"a", "b"}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_failed_load_raises_in_all_callers_and_is_not_cached(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor, error: BaseException
) -> None:
    with loading(cache, pool, Load(error)) as first:
        others = [pool.submit(cache.get, "k", unexpected_load) for _ in range(7)]
        wait_until(lambda: stats(cache).misses == 8)
    assert [call.exception(LIMIT_SECONDS) for call in [first, *others]] == [error] * 8
    assert (stats(cache).load_failures, stats(cache).loads, stats(cache).entries) == (1, 0, 0)
    assert cache.get("k", lambda: "second try") == "second try"


def test_error_raised_in_many_threads_keeps_the_traceback_of_the_load(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    """Python appends to the traceback of an exception each time it is raised."""

    def traceback_functions() -> list[str]:
        try:
            cache.get("k", unexpected_load)
        except ValueError as raised:
            return [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.__traceback__)]
        return []

    with loading(cache, pool, Load(ValueError("broken"))):
        calls = [pool.submit(traceback_functions) for _ in range(20)]
        wait_until(lambda: stats(cache).misses == 21)
    for call in calls:
        frames = call.result(LIMIT_SECONDS)
        assert "__call__" in frames  # the method of Load
        assert len(frames) < 20


def test_value_cleared_during_its_load_is_returned_but_not_cached(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    with loading(cache, pool, Load("old")) as old:
        cache.clear_cache()
        assert cache.get("k", lambda: "new") == "new"  # does not wait for the old load
    assert old.result(LIMIT_SECONDS) == "old"
    assert cache.get("k", unexpected_load) == "new"


def test_ttl_counts_from_the_load(cache: InstanceCache[str, object], clock: Clock) -> None:
    cache.get("k", lambda: "old")
    clock.now += 59
    assert cache.get("k", unexpected_load) == "old"
    clock.now += 1
    assert cache.peek("k") is None
    assert cache.get("k", lambda: "new") == "new"
    assert (stats(cache).expirations, stats(cache).evictions, stats(cache).entries) == (1, 0, 1)


def test_get_cache_stats_removes_expired_values(cache: InstanceCache[str, object], clock: Clock) -> None:
    cache.get("k", lambda: "value")
    clock.now += 60
    assert (stats(cache).entries, stats(cache).expirations) == (0, 1)


def test_values_never_expire_with_infinite_ttl(clock: Clock) -> None:
    cache: InstanceCache[str, int] = InstanceCache("infinite", max_entries=3, ttl_seconds=math.inf, timer=clock)
    cache.get("k", lambda: 1)
    clock.now += 1e12
    assert cache.peek("k") == 1


def test_least_recently_used_value_is_evicted(cache: InstanceCache[str, object]) -> None:
    for key in "abc":
        cache.get(key, str)
    cache.get("a", unexpected_load)
    cache.peek("b")
    cache.get("d", str)
    assert cached_keys(cache) == {"a", "b", "d"}
    assert stats(cache).evictions == 1


def test_load_continues_after_the_time_out_and_is_cached(cache: InstanceCache[str, object]) -> None:
    load = Load()
    for _ in range(2):  # the second call waits for the load of the first
        with pytest.raises(StillLoadingError, match=r"things: 'k' is still loading after 0.001 s"):
            cache.get("k", load, timeout_seconds=0.001)
    load.release.set()
    assert cache.get("k", unexpected_load) == "value"  # waits for the same load, without timeout
    wait_until(lambda: stats(cache).entries == 1)
    assert cache.get("k", unexpected_load, timeout_seconds=0) == "value"
    assert (load.calls, stats(cache).loads) == (1, 1)


def test_load_with_time_out_runs_in_a_daemon_thread(cache: InstanceCache[str, object]) -> None:
    threads: list[threading.Thread] = []
    cache.get("k", lambda: threads.append(threading.current_thread()), timeout_seconds=LIMIT_SECONDS)
    assert threads[0].daemon
    assert threads[0] is not threading.current_thread()


def test_time_out_applies_to_a_load_of_another_thread(
    cache: InstanceCache[str, object], pool: ThreadPoolExecutor
) -> None:
    with loading(cache, pool, Load()) as call, pytest.raises(StillLoadingError):
        cache.get("k", unexpected_load, timeout_seconds=0)
    assert call.result(LIMIT_SECONDS) == "value"


def test_failed_background_load_is_retried_by_the_next_call(
    cache: InstanceCache[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Load(OSError("unreachable")), Load(OSError("still unreachable"))
    with pytest.raises(StillLoadingError):
        cache.get("k", first, timeout_seconds=0)
    first.release.set()
    wait_until(lambda: "failed after" in caplog.text)  # no caller waits, so only the log shows the end
    second.release.set()
    with pytest.raises(OSError, match="still unreachable"):
        cache.get("k", second, timeout_seconds=LIMIT_SECONDS)
    assert cache.get("k", lambda: "value", timeout_seconds=LIMIT_SECONDS) == "value"


def test_background_loads_are_limited(clock: Clock) -> None:
    cache: InstanceCache[int, object] = InstanceCache("many", max_entries=50, ttl_seconds=60, timer=clock)
    loads = [Load() for _ in range(BACKGROUND_LOADS)]
    others_had_ended: list[bool] = []

    def one_more() -> object:
        others_had_ended.append(loads[0].release.is_set())
        return "value"

    for key, load in enumerate(loads):
        with pytest.raises(StillLoadingError):
            cache.get(key, load, timeout_seconds=0)
        assert load.started.wait(LIMIT_SECONDS)
    with pytest.raises(StillLoadingError):
        cache.get(-1, one_more, timeout_seconds=0)
    loads[0].release.set()
    wait_until(lambda: others_had_ended)
    assert others_had_ended == [True]
    for load in loads:
        load.release.set()
    wait_until(lambda: cache.get_cache_stats().entries == len(loads) + 1)


def test_caller_loads_if_no_thread_can_be_started(
    cache: InstanceCache[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert cache.get("k", lambda: "value", timeout_seconds=0) == "value"
    assert cache.get("k", unexpected_load) == "value"


def test_clear_cache_stats_resets_counts_and_keeps_values(cache: InstanceCache[str, object]) -> None:
    assert cache.get_cache_stats().hit_rate == 0.0
    cache.get("k", lambda: 1)
    cache.get("k", unexpected_load)
    assert cache.get_cache_stats().load_seconds > 0
    cache.clear_cache_stats()
    result = cache.get_cache_stats()
    assert (result.hits, result.misses, result.loads, result.load_seconds, result.entries) == (0, 0, 0, 0.0, 1)


def test_log_messages_name_cache_and_key(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
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


def test_long_key_is_truncated_in_log_messages(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A key may contain user input."""
    caplog.set_level(logging.DEBUG, "retrieval.cache")
    cache: InstanceCache[str, str] = InstanceCache("log", max_entries=1, ttl_seconds=60, timer=clock)
    for _ in range(2):
        cache.get("long\n" * 1000, str)
    cache.clear_cache()
    assert max(len(record.getMessage()) for record in caplog.records) < 200
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("limits", [{"max_entries": 0}, {"ttl_seconds": 0}, {"ttl_seconds": math.nan}], ids=repr)
def test_invalid_limits_are_rejected(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Cache odd: "):
        InstanceCache("odd", **{"max_entries": 1, "ttl_seconds": 60, **limits})  # type: ignore[arg-type]


def test_discarded_value_is_loaded_again() -> None:
    cache: InstanceCache[str, int] = InstanceCache("numbers", max_entries=2, ttl_seconds=60)
    assert [cache.get("a", lambda: 1), cache.get("b", lambda: 1)] == [1, 1]
    cache.discard("a")
    cache.discard("unknown")
    assert [cache.get("a", lambda: 2), cache.get("b", lambda: 2)] == [2, 1]
