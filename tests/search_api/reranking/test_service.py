"""The rerank service: a search gets scores in time or a reason, and never an error."""

import logging
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
from search_api.reranking import service as rerank_module
from search_api.reranking.service import Reranking, RerankService
from tests.search_api.app_harness import LIMIT_SECONDS
from tests.support.product import wait_until
from tests.support.tiny_models import make_tiny_reranker

SHORT_TIMEOUT = 0.25


class StubReranker(Reranker):
    """Scores a document by its length, in batches of one. While blocked, no batch ends."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.scored_documents: list[str] = []
        self.max_concurrent_calls = 0
        self.error: Exception | None = None
        self.is_over: Callable[[], bool] = lambda: False
        self.started = threading.Event()
        self.stopped_early = threading.Event()
        self._unblocked = threading.Event()
        self._unblocked.set()
        self._concurrent_calls = 0

    @contextmanager
    def blocked(self) -> Iterator[None]:
        self._unblocked.clear()
        try:
            yield
        finally:
            self._unblocked.set()

    def scores(
        self, query: str, documents: Sequence[str], is_over: Callable[[], bool] = lambda: False
    ) -> NDArray[np.float32]:
        self.queries.append(query)
        self.is_over = is_over
        self._concurrent_calls += 1
        self.max_concurrent_calls = max(self.max_concurrent_calls, self._concurrent_calls)
        try:
            for document in documents:
                if is_over():
                    self.stopped_early.set()
                    raise TimeoutError
                self.scored_documents.append(document)
                self.started.set()
                assert self._unblocked.wait(LIMIT_SECONDS)
                if self.error:
                    raise self.error
        finally:
            self._concurrent_calls -= 1
        return np.array([len(document) for document in documents], dtype=np.float32)


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
    while service.rerank(query, ["a"]).scores is None:
        pass


def rerank_until_started(service: RerankService, stub: StubReranker, documents: Sequence[str]) -> Reranking:
    """Repeat a call that times out until the blocked model has started one; earlier calls are cancelled."""
    while not stub.started.is_set():
        reranking = service.rerank("first", documents)
    return reranking


def test_rerank_scores_all_documents(setup: ServiceSetup) -> None:
    with setup.service(reranker_top_n=2) as service:
        reranking = service.rerank("query", ["a", "bbb", "cc"])
    assert reranking.scores is not None
    assert (reranking.scores.tolist(), reranking.reason) == ([1.0, 3.0, 2.0], "")
    assert setup.stub.scored_documents == ["a", "bbb", "cc"]


def test_rerank_with_real_model(setup: ServiceSetup, tmp_path: Path) -> None:
    directory = make_tiny_reranker(tmp_path / "model")
    model = Reranker.load(RerankerSettings(reranker_model_path=directory, reranker_device="cpu"))
    setup.model = model
    with setup.service() as service:
        scores = service.rerank("query", ["copper", "plate"]).scores
    assert scores is not None
    assert np.array_equal(scores, model.scores("query", ["copper", "plate"]))


def test_rerank_without_documents_does_not_load_the_model(setup: ServiceSetup) -> None:
    with setup.service() as service:
        scores = service.rerank("query", []).scores
    assert scores is not None
    assert (scores.shape, setup.loads) == ((0,), 0)


# Loading


def test_model_is_loaded_on_first_use_and_kept_after_its_cache_entry_expires(setup: ServiceSetup) -> None:
    with setup.service() as service:
        assert setup.loads == 0
        service.rerank("query", ["a"])
        service.rerank("query", ["a"])
        setup.clock.now += 61
        assert service.rerank("query", ["a"]).scores is not None
    stats = setup.cache.get_cache_stats()
    assert (setup.loads, stats.hits, stats.misses, stats.expirations) == (1, 1, 2, 1)


def test_load_continues_after_the_search_timed_out(setup: ServiceSetup) -> None:
    setup.load_allowed.clear()
    with setup.service(SHORT_TIMEOUT) as service:
        reranking = service.rerank("query", ["a"])
        assert reranking.scores is None
        assert reranking.reason == "the rerank model is still loading after 0.25 s"
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
        assert service.rerank("query", ["a"]).scores is not None


# Time limit and queue


def test_rerank_returns_at_the_time_out_and_the_model_stops_before_its_next_batch(setup: ServiceSetup) -> None:
    with setup.service(SHORT_TIMEOUT) as service:
        with setup.stub.blocked():
            reranking = rerank_until_started(service, setup.stub, ["a", "b", "c"])
            assert (reranking.scores, reranking.reason) == (None, "timeout after 0.25 s")
            setup.clock.now += 1
        assert setup.stub.stopped_early.wait(LIMIT_SECONDS)
    assert setup.stub.scored_documents == ["a"]


def test_model_computes_one_call_at_a_time(setup: ServiceSetup) -> None:
    with setup.service() as service, ThreadPoolExecutor(8) as pool:
        rerankings = list(pool.map(lambda length: service.rerank("query", ["x" * length]), range(1, 9)))
    assert [None if reranking.scores is None else reranking.scores.tolist() for reranking in rerankings] == [
        [float(length)] for length in range(1, 9)
    ]
    assert setup.stub.max_concurrent_calls == 1


def test_call_that_timed_out_in_the_queue_is_not_computed(setup: ServiceSetup) -> None:
    with setup.service(SHORT_TIMEOUT) as service:
        with setup.stub.blocked():
            assert rerank_until_started(service, setup.stub, ["a"]).scores is None
            assert service.rerank("second", ["a"]).reason == "timeout after 0.25 s"
        rerank_until_scored(service, "third")
    assert "second" not in setup.stub.queries


def test_full_queue_refuses_calls_and_recovers(setup: ServiceSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank_module, "QUEUE_LIMIT", 0)
    with setup.service() as service, ThreadPoolExecutor(1) as pool:
        with setup.stub.blocked():
            first = pool.submit(service.rerank, "query", ["a"])
            assert setup.stub.started.wait(LIMIT_SECONDS)
            assert service.rerank("query", ["b"]).reason == "too many calls wait for the rerank model"
        assert first.result().scores is not None
        assert service.rerank("query", ["b"]).scores is not None


def test_close_stops_the_running_call_before_its_next_batch(setup: ServiceSetup) -> None:
    with ThreadPoolExecutor(2) as pool, setup.service() as service:
        with setup.stub.blocked():
            call = pool.submit(service.rerank, "query", ["a", "b"])
            assert setup.stub.started.wait(LIMIT_SECONDS)
            close = pool.submit(service.close)
            wait_until(setup.stub.is_over, LIMIT_SECONDS, lambda: "the call was not stopped", every=0.001)
        close.result()
        assert call.result().scores is None
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
        assert reranking.scores is None
        assert reason in reranking.reason
        (record,) = [record for record in caplog.records if record.name == "search_api.reranking.service"]
        assert record.levelno == level
        setup.stub.error = None
        assert service.rerank("query", ["a"]).scores is not None
