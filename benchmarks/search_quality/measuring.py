"""Asks a search app the questions of retrieval sets, and keeps what is needed of the answers."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.search_quality.metrics import Judgements, ndcg, recall, reciprocal_rank
from benchmarks.search_quality.perturbations import PerturbationError, perturbed
from benchmarks.search_quality.refusals import FOREIGN_QUERIES, Verdict, verdict
from benchmarks.search_quality.retrieval_sets import Query, RetrievalSet

TOP_K = 20
"""The largest depth of the metrics."""
METHODS: Mapping[str, Mapping[str, str]] = {
    "vector": {"method": "vector"},
    "keyword": {"method": "keyword"},
    "hybrid": {"method": "hybrid"},
    "hybrid, rrf": {"method": "hybrid", "fusion": "rrf"},
}
RERANKED: Mapping[str, Mapping[str, str]] = {"hybrid, reranked": {"method": "hybrid", "rerank": "model"}}
BASIC_METHODS = ("vector", "keyword", "hybrid")
"""The methods that perturbations and refusals are measured with."""
METRICS = {"ndcg@10": ndcg, "recall@20": recall, "mrr@10": reciprocal_rank}

T = TypeVar("T")

progress = Console(stderr=True, highlight=False)


class SearchFailedError(Exception):
    """A search failed; the message names the query and the reason."""


class Answered(NamedTuple):
    """What is kept of an answer."""

    metrics: Sequence[float]
    seconds: float
    """NaN if the search failed."""
    verdict: Verdict
    degraded: bool
    cut: bool


@dataclass
class PerturbedQuality:
    """The quality of perturbed queries, or why there is none."""

    queries: NDArray[np.intp]
    """Indices of the queries that the perturbation changes."""
    quality: Mapping[str, NDArray[np.float64]]
    """Method → metric values (changed queries, metrics)."""
    skipped: str = ""


@dataclass
class Measurements:
    """Metrics, latencies and verdicts of the queries of a set."""

    quality: Mapping[str, NDArray[np.float64]]
    """Method → metric values (queries, metrics)."""
    seconds: Mapping[str, NDArray[np.float64]]
    """Method → seconds per query (queries,); NaN where the search failed."""
    first_seconds: NDArray[np.float64]
    """Seconds of the first call of each query (queries,)."""
    degraded: Mapping[str, int]
    """Method → number of degraded answers."""
    cut_queries: int
    """Number of queries that were searched by their beginning."""
    own: Mapping[str, Sequence[Verdict]]
    """Method → verdicts on the questions of the set."""
    perturbations: dict[str, PerturbedQuality] = field(default_factory=dict)
    foreign: dict[str, Mapping[str, Sequence[Verdict]]] = field(default_factory=dict)
    """Another set → method → verdicts on its questions."""


class Asking:
    """Asks the questions of sets about one course.

    Args:
        url: URL of the search app.
        course_id: The course.
        failures: Failed searches are added to it, and their metrics are 0. None: they raise `SearchFailedError`.
    """

    def __init__(self, url: str, course_id: str, failures: list[str] | None) -> None:
        self._client = httpx.Client(base_url=url, timeout=1200, trust_env=False)
        self._course_id = course_id
        self._failures = failures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def measure(self, retrieval_set: RetrievalSet, methods: Mapping[str, Mapping[str, str]]) -> Measurements:
        """The quality and the latency of each method for the questions of the course.

        Raises:
            SearchFailedError: A search failed, and failures are not collected.
        """
        # a keyword search waits until the course is loaded
        self._ask(retrieval_set.queries[0], METHODS["keyword"])
        first = []
        answers: dict[str, list[Answered]] = {method: [] for method in methods}
        for query in self._track(retrieval_set.queries, "searching"):
            first.append(self._ask(query, METHODS["hybrid"]))
            for method, options in methods.items():
                answers[method].append(self._ask(query, options))
        return Measurements(
            quality={method: _metrics(rows) for method, rows in answers.items()},
            seconds={method: np.array([row.seconds for row in rows]) for method, rows in answers.items()},
            first_seconds=np.array([answer.seconds for answer in first]),
            degraded={method: sum(row.degraded for row in rows) for method, rows in answers.items()},
            cut_queries=sum(answer.cut for answer in first),
            own={method: [row.verdict for row in answers[method]] for method in BASIC_METHODS},
        )

    def perturb(self, retrieval_set: RetrievalSet, name: str) -> PerturbedQuality:
        """The quality for the questions with a perturbation; only those that it changes are asked.

        Raises:
            SearchFailedError: A search failed, and failures are not collected.
        """
        try:
            texts = [perturbed(name, query.text, query.id) for query in retrieval_set.queries]
        except PerturbationError as error:
            return PerturbedQuality(np.empty(0, dtype=np.intp), {}, str(error))
        changed = [
            (index, replace(query, text=text))
            for index, (query, text) in enumerate(zip(retrieval_set.queries, texts, strict=True))
            if text != query.text
        ]
        answers: dict[str, list[Answered]] = {method: [] for method in BASIC_METHODS}
        for _, query in self._track(changed, name):
            for method, rows in answers.items():
                rows.append(self._ask(query, METHODS[method]))
        indices = np.array([index for index, _ in changed], dtype=np.intp)
        return PerturbedQuality(indices, {method: _metrics(rows) for method, rows in answers.items()})

    def ask_foreign(self, other: RetrievalSet) -> Mapping[str, Sequence[Verdict]]:
        """The verdicts of each basic method on questions of another course.

        Raises:
            SearchFailedError: A search failed, and failures are not collected.
        """
        verdicts: dict[str, list[Verdict]] = {method: [] for method in BASIC_METHODS}
        for query in self._track(other.sample(FOREIGN_QUERIES).queries, f"questions of {other.name}"):
            for method, rows in verdicts.items():
                answer = self._ask(query, METHODS[method])
                if not np.isnan(answer.seconds):
                    rows.append(answer.verdict)
        return verdicts

    def _ask(self, query: Query, options: Mapping[str, str]) -> Answered:
        try:
            return self._search(query, options)
        except (httpx.HTTPError, SearchFailedError) as error:
            failure = SearchFailedError(f"{self._course_id}, query {query.id}, {options}: {error}")
            if self._failures is None:
                raise failure from error
            self._failures.append(str(failure))
            return Answered([0.0] * len(METRICS), np.nan, Verdict(-np.inf, None, "relevance"), degraded=True, cut=False)

    def _search(self, query: Query, options: Mapping[str, str]) -> Answered:
        body = {"query": query.text, "top_k": TOP_K, **options}
        started = time.perf_counter()
        response = self._client.post(f"/courses/{self._course_id}/search", json=body)
        took = time.perf_counter() - started
        if response.is_error:
            raise SearchFailedError(f"HTTP {response.status_code}: {response.text}")
        answer = response.json()
        if answer["degraded"] and options.get("rerank") != "model":  # those may be reranked in part
            raise SearchFailedError(answer["degraded"])
        ranking = [_most_relevant_id(result, query.judgements) for result in answer["results"]]
        return Answered(
            [metric(ranking, query.judgements) for metric in METRICS.values()],
            took,
            verdict(answer),
            bool(answer["degraded"]),
            bool(answer.get("query_cut")),
        )

    def _track(self, items: Sequence[T], what: str) -> Iterable[T]:
        """The items; their progress is shown on stderr."""
        return track(items, description=f"{self._course_id}: {what}", console=progress, transient=True)


def _metrics(answers: Sequence[Answered]) -> NDArray[np.float64]:
    return np.array([answer.metrics for answer in answers], dtype=np.float64).reshape(-1, len(METRICS))


def _most_relevant_id(result: Mapping[str, Any], judgements: Judgements) -> str:
    """The id, among those of the result and its copies, with the highest relevance score."""
    ids: list[str] = [chunk["chunk_id"] for chunk in (result["metadata"], *result["copies"], *result["near_copies"])]
    return max(ids, key=lambda chunk_id: judgements.get(chunk_id, 0.0))
