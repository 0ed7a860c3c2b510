"""The rerank service: a search gets scores in time or a reason, and never an error."""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.cache import InstanceCache
from retrieval.reranker import Reranker, RerankerError, RerankerSettings, RerankModelUnavailableError
from search_api.http.errors import OverloadedError
from search_api.reranking import service as rerank_module
from search_api.reranking.service import Reranking, RerankService
from tests.search_api.app_harness import LIMIT_SECONDS
from tests.support.product import wait_until
from tests.support.tiny_models import make_tiny_reranker

SHORT_TIMEOUT = 0.25


class StubReranker(Reranker):
    """Scores a document by its length, in batches of one. While blocked, no batch ends. A character is a token."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.scored_documents: list[str] = []
        self.max_concurrent_calls = 0
        self.error: Exception | None = None
        self.room: Callable[[int], float] = lambda _: math.inf
        self.after_batch: Callable[[], None] = lambda: None
        self.started = threading.Event()
        self.stopped_early = threading.Event()
        self._unblocked = threading.Event()
        self._unblocked.set()
        self._concurrent_calls = 0

    def block(self) -> None:
        self._unblocked.clear()

    def unblock(self) -> None:
        self._unblocked.set()

    @contextmanager
    def blocked(self) -> Iterator[None]:
        self.block()
        try:
            yield
        finally:
            self.unblock()

    def scores_by_batch(
        self, query: str, documents: Sequence[str], room: Callable[[int], float] = lambda _: math.inf
    ) -> Iterator[NDArray[np.float32]]:
        self.queries.append(query)
        self.room = room
        computed = 0
        self._concurrent_calls += 1
        self.max_concurrent_calls = max(self.max_concurrent_calls, self._concurrent_calls)
        try:
            for document in documents:
                tokens_left = room(computed)
                if tokens_left <= 0 or (computed and tokens_left < len(document)):
                    self.stopped_early.set()
                    return
                self.scored_documents.append(document)
                self.started.set()
                assert self._unblocked.wait(LIMIT_SECONDS)
                if self.error:
                    raise self.error
                yield np.array([len(document)], dtype=np.float32)
                computed += len(document)
                self.after_batch()
        finally:
            self._concurrent_calls -= 1


class Clock:
    """A clock that advances only when a test changes `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ServiceSetup:
    """Creates rerank services with a stub model, a stopped clock and a controlled load."""

    def __init__(self) -> None:
        self.model: Reranker = StubReranker()
        self.load_error: Exception | None = None
        self.loads = 0
        self.load_allowed = threading.Event()
        self.load_allowed.set()
        self.clock = Clock()
        self.cache: InstanceCache[Path, Reranker] = InstanceCache(
            "rerank model", max_entries=1, ttl_seconds=60, timer=self.clock
        )

    @property
    def stub(self) -> StubReranker:
        assert isinstance(self.model, StubReranker)
        return self.model

    def load(self) -> Reranker:
        self.loads += 1
        assert self.load_allowed.wait(LIMIT_SECONDS)
        if self.load_error:
            raise self.load_error
        return self.model

    @contextmanager
    def service(self, timeout_seconds: float = LIMIT_SECONDS, **settings: Any) -> Iterator[RerankService]:
        service = RerankService(
            self.load, self.cache, RerankerSettings(reranker_timeout_seconds=timeout_seconds, **settings), self.clock
        )
        yield service
        service.close()


@pytest.fixture
def setup() -> ServiceSetup:
    return ServiceSetup()


def rerank_until_scored(service: RerankService, query: str = "query") -> None:
    """Repeat a call until it ends in time; on a busy machine the first calls may time out."""
    while not service.rerank(query, ["a"]).scores:
        pass


def rerank_until_started(service: RerankService, stub: StubReranker, documents: Sequence[str]) -> Reranking:
    """Repeat a call that times out until the blocked model has started one; earlier calls are cancelled."""
    while not stub.started.is_set():
        reranking = service.rerank("first", documents)
    return reranking


def test_rerank_scores_all_documents(setup: ServiceSetup) -> None:
    with setup.service(reranker_top_n=2) as service:
        reranking = service.rerank("query", ["a", "bbb", "cc"])
    assert reranking == Reranking((1.0, 3.0, 2.0))
    assert setup.stub.scored_documents == ["a", "bbb", "cc"]


def test_rerank_with_real_model(setup: ServiceSetup, tmp_path: Path) -> None:
    directory = make_tiny_reranker(tmp_path / "model")
    model = Reranker.load(RerankerSettings(reranker_model_path=directory, reranker_device="cpu"))
    setup.model = model
    with setup.service() as service:
        scores = service.rerank("query", ["copper", "plate"]).scores
    assert scores == pytest.approx(model.scores("query", ["copper", "plate"]).tolist(), rel=1e-5)


def test_rerank_without_documents_does_not_load_the_model(setup: ServiceSetup) -> None:
    with setup.service() as service:
        assert service.rerank("query", []) == Reranking(())
    assert setup.loads == 0


# Loading


def test_model_is_loaded_on_first_use_and_kept_after_its_cache_entry_expires(setup: ServiceSetup) -> None:
    with setup.service() as service:
        assert setup.loads == 0
        service.rerank("query", ["a"])
        service.rerank("query", ["a"])
        setup.clock.now += 61
        assert service.rerank("query", ["a"]).scores
    stats = setup.cache.get_cache_stats()
    assert (setup.loads, stats.hits, stats.misses, stats.expirations) == (1, 1, 2, 1)


def test_load_continues_after_the_search_timed_out(setup: ServiceSetup) -> None:
    setup.load_allowed.clear()
    with setup.service(SHORT_TIMEOUT) as service:
        assert service.rerank("query", ["a"]) == Reranking((), "the rerank model is still loading after 0.25 s")
        setup.load_allowed.set()
        setup.cache.get(RerankerSettings().reranker_model_path, setup.load)  # waits for the same load
        rerank_until_scored(service)
    assert setup.loads == 1


def test_missing_model_is_logged_once_and_loaded_again_later(
    setup: ServiceSetup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.load_error = RerankModelUnavailableError(Path("models/none"), "the directory does not exist")
    with setup.service() as service:
        reasons = {service.rerank("query", ["a"]).reason for _ in range(3)}
        (reason,) = reasons
        assert reason.startswith("the rerank model is not available: no usable rerank model in models/none")
        assert setup.loads == 1
        assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
        setup.load_error = None
        setup.clock.now += rerank_module.RETRY_SECONDS
        assert service.rerank("query", ["a"]).scores


# Time limit and queue


def test_rerank_returns_at_the_time_out_and_the_model_stops_before_its_next_batch(setup: ServiceSetup) -> None:
    with setup.service(SHORT_TIMEOUT) as service:
        with setup.stub.blocked():
            reranking = rerank_until_started(service, setup.stub, ["a", "b", "c"])
            assert reranking == Reranking((), "timeout after 0.25 s")
            setup.clock.now += 1
        assert setup.stub.stopped_early.wait(LIMIT_SECONDS)
    assert setup.stub.scored_documents == ["a"]


def test_documents_that_were_scored_in_time_count(setup: ServiceSetup) -> None:
    """The scores of the batch that is computed at the timeout come too late."""
    scored: threading.Event = threading.Event()

    def block_third_batch() -> None:
        if len(setup.stub.scored_documents) == 2:
            setup.stub.block()
            scored.set()

    setup.stub.after_batch = block_third_batch
    with setup.service(SHORT_TIMEOUT) as service:
        reranking = service.rerank("query", ["a", "bb", "ccc", "dddd"])
        while not scored.is_set():  # on a busy machine the first call may time out earlier
            reranking = service.rerank("query", ["a", "bb", "ccc", "dddd"])
        setup.clock.now += 1
        setup.stub.unblock()
        assert setup.stub.stopped_early.wait(LIMIT_SECONDS)
    assert reranking == Reranking((1.0, 2.0), "timeout after 0.25 s")


@pytest.mark.parametrize(
    ("seconds_per_batch", "documents", "scored"),
    [
        (1.0, ["a", "b", "c", "d"], 4),
        (2.6, ["a", "b", "c", "d"], 3),  # the fourth would end at 10.4 s
        (2.5, ["a", "b", "ccccc", "d"], 2),  # a batch that is five times as long would end at 17.5 s
        (9.0, ["a", "b"], 1),
        (11.0, ["a", "b"], 1),
    ],
)
def test_batch_that_cannot_end_in_time_is_not_started(
    setup: ServiceSetup, seconds_per_batch: float, documents: list[str], scored: int
) -> None:
    def advance() -> None:
        setup.clock.now += seconds_per_batch

    setup.stub.after_batch = advance
    with setup.service(10.0) as service:
        reranking = service.rerank("query", documents)
    assert setup.stub.scored_documents == documents[:scored]
    assert len(reranking.scores) == scored
    assert reranking.reason == ("" if scored == len(documents) else "timeout after 10.0 s")


def test_failure_of_a_later_batch_keeps_the_earlier_scores(setup: ServiceSetup) -> None:
    def fail_next_batch() -> None:
        setup.stub.error = RerankerError("out of memory")

    setup.stub.after_batch = fail_next_batch
    with setup.service() as service:
        assert service.rerank("query", ["a", "b"]) == Reranking((1.0,), "out of memory")


def test_model_computes_one_call_at_a_time(setup: ServiceSetup) -> None:
    with setup.service() as service, ThreadPoolExecutor(8) as pool:
        rerankings = list(pool.map(lambda length: service.rerank("query", ["x" * length]), range(1, 9)))
    assert [reranking.scores for reranking in rerankings] == [(float(length),) for length in range(1, 9)]
    assert setup.stub.max_concurrent_calls == 1


def test_call_that_timed_out_in_the_queue_is_not_computed(setup: ServiceSetup) -> None:
    with setup.service(SHORT_TIMEOUT) as service:
        with setup.stub.blocked():
            assert not rerank_until_started(service, setup.stub, ["a"]).scores
            assert service.rerank("second", ["a"]) == Reranking((), "timeout after 0.25 s", OverloadedError)
        rerank_until_scored(service, "third")
    assert "second" not in setup.stub.queries


def test_full_queue_refuses_calls_and_recovers(setup: ServiceSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank_module, "QUEUE_LIMIT", 0)
    with setup.service() as service, ThreadPoolExecutor(1) as pool:
        with setup.stub.blocked():
            first = pool.submit(service.rerank, "query", ["a"])
            assert setup.stub.started.wait(LIMIT_SECONDS)
            refused = service.rerank("query", ["b"])
            assert refused == Reranking((), "too many calls wait for the rerank model", OverloadedError)
        assert first.result().scores
        assert service.rerank("query", ["b"]).scores


def test_close_stops_the_running_call_before_its_next_batch(setup: ServiceSetup) -> None:
    with ThreadPoolExecutor(2) as pool, setup.service() as service:
        with setup.stub.blocked():
            call = pool.submit(service.rerank, "query", ["a", "b"])
            assert setup.stub.started.wait(LIMIT_SECONDS)
            close = pool.submit(service.close)
            wait_until(lambda: not setup.stub.room(0), LIMIT_SECONDS, lambda: "the call was not stopped", every=0.001)
        close.result()
        assert len(call.result().scores) <= 1
    assert setup.stub.scored_documents == ["a"]


# Failures


@pytest.mark.parametrize(
    ("error", "reason", "level"),
    [
        (RerankerError("the rerank model failed on cuda: out of memory"), "out of memory", logging.WARNING),
        (ZeroDivisionError("a defect"), "the rerank model failed: ZeroDivisionError", logging.ERROR),
    ],
)
def test_failure_gives_a_reason_and_a_log_message(
    setup: ServiceSetup, caplog: pytest.LogCaptureFixture, error: Exception, reason: str, level: int
) -> None:
    setup.stub.error = error
    with setup.service() as service:
        reranking = service.rerank("query", ["a"])
        assert reranking.scores == ()
        assert reason in reranking.reason
        (record,) = [record for record in caplog.records if record.name == "search_api.reranking.service"]
        assert record.levelno == level
        setup.stub.error = None
        assert service.rerank("query", ["a"]).scores
