"""Reranking is done in time or not at all: a search never fails and never waits long for it."""

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
from search_api.reranking.service import RerankService
from tests.support.tiny_models import make_tiny_reranker

SOON, NEVER = 0.25, 30.0


class StubReranker(Reranker):
    """Scores a document by its length; waits in every batch, of one document, while it is held."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.judged: list[str] = []
        self.most_at_once = 0
        self.error: Exception | None = None
        self.entered = threading.Event()
        self.over = threading.Event()
        self._gate = threading.Event()
        self._gate.set()
        self._inside = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def scores(
        self, query: str, documents: Sequence[str], should_stop: Callable[[], bool] = lambda: False
    ) -> NDArray[np.float32]:
        self.queries.append(query)
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        try:
            for document in documents:
                if should_stop():
                    self.over.set()
                    raise TimeoutError
                self.judged.append(document)
                self.entered.set()
                assert self._gate.wait(NEVER)
                if self.error:
                    raise self.error
        finally:
            self._inside -= 1
        return np.array([len(document) for document in documents], dtype=np.float32)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A service around a stub, and how its model is loaded."""

    def __init__(self) -> None:
        self.model: Reranker = StubReranker()
        self.load_error: Exception | None = None
        self.loads = 0
        self.loading = threading.Event()  # cleared: loads wait
        self.loading.set()
        self.clock = Clock()
        self.cache: InstanceCache[Path, Reranker] = InstanceCache("rerank model", ttl_seconds=60, timer=self.clock)

    @property
    def stub(self) -> StubReranker:
        assert isinstance(self.model, StubReranker)
        return self.model

    def load(self) -> Reranker:
        self.loads += 1
        assert self.loading.wait(NEVER)
        if self.load_error:
            raise self.load_error
        return self.model

    @contextmanager
    def service(self, seconds: float = NEVER, **settings: Any) -> Iterator[RerankService]:
        service = RerankService(
            self.load, self.cache, RerankerSettings(reranker_timeout_seconds=seconds, **settings), self.clock
        )
        yield service
        service.close()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def rerank_at_last(service: RerankService, query: str = "query") -> None:
    """However busy this machine is."""
    while service.rerank(query, ["a"]).scores is None:
        pass


def test_all_documents_are_judged(stage: Stage) -> None:
    with stage.service(reranker_top_n=2) as service:
        reranking = service.rerank("query", ["a", "bbb", "cc"])
    assert reranking.scores is not None
    assert (reranking.scores.tolist(), reranking.reason) == ([1.0, 3.0, 2.0], "")
    assert stage.stub.judged == ["a", "bbb", "cc"]


def test_a_real_model(stage: Stage, tmp_path: Path) -> None:
    directory = make_tiny_reranker(tmp_path / "model")
    model = Reranker.load(RerankerSettings(reranker_model_path=directory, reranker_device="cpu"))
    stage.model = model
    with stage.service() as service:
        scores = service.rerank("query", ["copper", "plate"]).scores
    assert scores is not None
    assert np.array_equal(scores, model.scores("query", ["copper", "plate"]))


def test_nothing_to_judge_needs_no_model(stage: Stage) -> None:
    with stage.service() as service:
        scores = service.rerank("query", []).scores
    assert scores is not None
    assert (scores.shape, stage.loads) == ((0,), 0)


# The model


def test_the_model_is_loaded_when_it_is_first_wanted_and_stays(stage: Stage) -> None:
    """The cache forgets it after its time to live; the service does not, and loads nothing again."""
    with stage.service() as service:
        assert stage.loads == 0
        service.rerank("query", ["a"])
        service.rerank("query", ["a"])
        stage.clock.now += 61
        assert service.rerank("query", ["a"]).scores is not None
    stats = stage.cache.get_cache_stats()
    assert (stage.loads, stats.hits, stats.misses, stats.expirations) == (1, 1, 2, 1)


def test_a_load_that_outlasts_a_search_goes_on_without_it(stage: Stage) -> None:
    stage.loading.clear()
    with stage.service(SOON) as service:
        reranking = service.rerank("query", ["a"])
        assert reranking.scores is None
        assert reranking.reason == "the rerank model is being loaded, for more than 0.25 s"
        stage.loading.set()
        stage.cache.get(RerankerSettings().reranker_model_path, stage.load)  # waits for the load that goes on
        rerank_at_last(service)
    assert stage.loads == 1


def test_a_model_that_is_not_there_is_told_once_and_looked_for_again_later(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.load_error = RerankModelUnavailableError(Path("models/none"), "the directory does not exist")
    with stage.service() as service:
        reasons = {service.rerank("query", ["a"]).reason for _ in range(3)}
        (reason,) = reasons
        assert reason.startswith("the rerank model is not available: no usable rerank model in models/none")
        assert stage.loads == 1
        assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
        stage.load_error = None
        stage.clock.now += rerank_module.RETRY_SECONDS
        assert service.rerank("query", ["a"]).scores is not None


# Time


def test_a_search_waits_no_longer_than_it_may_and_the_call_it_left_stops_at_its_next_batch(stage: Stage) -> None:
    with stage.service(SOON) as service:
        with stage.stub.held():
            reranking = service.rerank("query", ["a", "b", "c"])
            assert (reranking.scores, reranking.reason) == (None, "time-out after 0.25 s")
            stage.clock.now += 1
        assert stage.stub.over.wait(NEVER)
    assert stage.stub.judged == ["a"]


def test_calls_take_turns(stage: Stage) -> None:
    with stage.service() as service, ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda length: service.rerank("query", ["x" * length]), range(1, 9)))
    assert [None if outcome.scores is None else outcome.scores.tolist() for outcome in outcomes] == [
        [float(length)] for length in range(1, 9)
    ]
    assert stage.stub.most_at_once == 1


def test_a_call_that_gave_up_before_its_turn_is_never_judged(stage: Stage) -> None:
    with stage.service(SOON) as service:
        with stage.stub.held():
            assert service.rerank("first", ["a"]).scores is None
            assert service.rerank("second", ["a"]).reason == "time-out after 0.25 s"
        rerank_at_last(service, "third")
    assert "second" not in stage.stub.queries


def test_the_queue_has_an_end_and_recovers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerank_module, "QUEUE_LIMIT", 0)
    with stage.service() as service, ThreadPoolExecutor(1) as pool:
        with stage.stub.held():
            first = pool.submit(service.rerank, "query", ["a"])
            assert stage.stub.entered.wait(NEVER)
            assert service.rerank("query", ["b"]).reason == "too many calls wait for the rerank model"
        assert first.result().scores is not None
        assert service.rerank("query", ["b"]).scores is not None


def test_closing_stops_a_call_at_its_next_batch(stage: Stage) -> None:
    with ThreadPoolExecutor(1) as pool, stage.service() as service:
        with stage.stub.held():
            call = pool.submit(service.rerank, "query", ["a", "b"])
            assert stage.stub.entered.wait(NEVER)
            closing = threading.Thread(target=service.close)
            closing.start()
            assert service._closed.wait(NEVER)
        closing.join()
        assert call.result().scores is None
    assert stage.stub.judged == ["a"]


# Failures


@pytest.mark.parametrize(
    ("error", "reason", "level"),
    [
        (RerankerError("the rerank model failed on cuda: out of memory"), "out of memory", logging.WARNING),
        (ZeroDivisionError("a defect"), "the rerank model failed: ZeroDivisionError", logging.ERROR),
    ],
)
def test_a_failure_is_a_reason_and_a_line_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: Exception, reason: str, level: int
) -> None:
    stage.stub.error = error
    with stage.service() as service:
        reranking = service.rerank("query", ["a"])
        assert reranking.scores is None
        assert reason in reranking.reason
        (record,) = [record for record in caplog.records if record.name == "search_api.reranking.service"]
        assert record.levelno == level
        stage.stub.error = None
        assert service.rerank("query", ["a"]).scores is not None
