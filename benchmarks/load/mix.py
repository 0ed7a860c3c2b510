"""What callers ask: the kinds of requests, their shares, and their bodies."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json

from benchmarks.load.client import Call, request
from benchmarks.load.courses import chunk_id, course_id, question_of

SHARES: Mapping[str, float] = {
    "hybrid, known": 30,
    "hybrid, new": 10,
    "vector": 6,
    "keyword": 10,
    "filter": 10,
    "page 2": 5,
    "groups and facets": 4,
    "context": 5,
    "several courses": 4,
    "all courses": 2,
    "chunk": 8,
    "list of courses": 3,
    "status": 3,
}
"""In per cent. The queries of the kinds without `new` are repeated, so their vectors are cached."""
KNOWN_QUERIES = 5
"""Known queries of a course."""


class Mix:
    """Makes requests; the same seed makes the same ones.

    Args:
        courses: Number of courses.
        passages: Passages of each.
        seed: Seed of the random choices.
    """

    def __init__(self, courses: int, passages: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._courses, self._passages = courses, passages
        names = list(SHARES)
        shares = np.array(list(SHARES.values()))
        self._kinds = [names[index] for index in self._random.choice(len(names), 10_000, p=shares / shares.sum())]
        self._at = 0
        self._known = [
            [question_of(np.random.default_rng((number, index)), number) for index in range(KNOWN_QUERIES)]
            for number in range(courses)
        ]
        self._makers: Mapping[str, Callable[[int], Call]] = {
            "hybrid, known": lambda number: self._search("hybrid, known", number),
            "hybrid, new": self._new,
            "vector": lambda number: self._search("vector", number, method="vector"),
            "keyword": lambda number: self._search("keyword", number, method="keyword"),
            "filter": self._filtered,
            "page 2": lambda number: self._search("page 2", number, offset=5),
            "groups and facets": self._grouped,
            "context": lambda number: self._search("context", number, context=2, explain=True),
            "several courses": self._several,
            "all courses": lambda number: self._of_all("all courses", number),
            "chunk": self._chunk,
            "list of courses": lambda _: request("list of courses", "GET", "/courses?limit=20"),
            "status": lambda number: request("status", "GET", f"/courses/{course_id(number)}/embedding_status"),
        }

    def next(self) -> Call:
        """The next request."""
        kind = self._kinds[self._at % len(self._kinds)]
        self._at += 1
        return self.of_kind(kind)

    def all_known(self) -> Iterator[Call]:
        """Each query that is asked again and again, of one course and of all."""
        for number, queries in enumerate(self._known):
            for query in queries:
                yield self._search("hybrid, known", number, query=query)
                yield self._of_all("all courses", number, query=query)

    def of_kind(self, kind: str) -> Call:
        """A request of this kind."""
        return self._makers[kind](int(self._random.integers(self._courses)))

    def _query(self, number: int) -> str:
        return self._known[number][int(self._random.integers(KNOWN_QUERIES))]

    def _search(self, kind: str, number: int, **options: Any) -> Call:
        body = {"query": self._query(number), **options}
        return request(kind, "POST", f"/courses/{course_id(number)}/search", to_json(body))

    def _new(self, number: int) -> Call:
        question = f"{question_of(self._random, number)} {int(self._random.integers(10**9))}"
        return self._search("hybrid, new", number, query=question)

    def _filtered(self, number: int) -> Call:
        filters: list[dict[str, Any]] = [
            {"lecture_id": "l1"},
            {"section_id": "s2", "source_type": ["pdf", "video"]},
            {"page": {"gte": 3, "lt": 12}},
            {"or": [{"tags": "t1"}, {"not": {"source_type": "pdf"}}]},
        ]
        return self._search("filter", number, filters=filters[int(self._random.integers(len(filters)))])

    def _grouped(self, number: int) -> Call:
        return self._search(
            "groups and facets", number, group_by="section", group_size=2, facets=["lecture_id", "tags"]
        )

    def _several(self, number: int) -> Call:
        chosen = self._random.choice(self._courses, min(8, self._courses), replace=False).tolist()
        return self._of_all("several courses", number, courses=[course_id(each) for each in {number, *chosen}])

    def _of_all(self, kind: str, number: int, **options: Any) -> Call:
        return request(kind, "POST", "/search", to_json({"query": self._query(number), **options}))

    def _chunk(self, number: int) -> Call:
        passage = int(self._random.integers(self._passages))
        return request("chunk", "GET", f"/courses/{course_id(number)}/chunks/{chunk_id(number, passage)}?context=1")
