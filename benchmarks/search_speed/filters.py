"""Benchmark of filtered searches, in process: a search with a filter beside one without."""

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.search_quality.metrics import milliseconds
from benchmarks.search_speed.made_up_course import PAGES, SECTIONS
from benchmarks.search_speed.worker import RESULTS, Question
from search_api.search.schemas import SearchRequest
from search_api.services import Services

ROUNDS, MAX_SECONDS = 3, 20.0
"""How often each question is asked with each filter, and about how long that may take, all questions together."""


def measure_filters(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """Median milliseconds of a hybrid search, by its filter; both filters select the same share of the chunks.

    Each search is done once before it is measured, which analyses the texts for their highlights.

    Returns:
        `calls` and `p50_ms` of `none`, `section` (a value of a field) and `page` (a range of numbers).
    """
    durations: dict[str, list[float]] = {"none": [], "section": [], "page": []}
    started = time.perf_counter()
    for number, question in enumerate(questions):
        pages = PAGES // SECTIONS
        first = number * pages % PAGES + 1
        filters: dict[str, dict[str, Any]] = {
            "none": {},
            "section": {"section_id": question.section},
            "page": {"page": {"gte": first, "lt": first + pages}},
        }
        for round_ in range(ROUNDS + 1):
            for name, filter_ in filters.items():
                body = {"query": question.text, "top_k": RESULTS, "filters": filter_}
                request = SearchRequest.model_validate(body)
                before = time.perf_counter()
                services.search.search(course_id, request)
                if round_:
                    durations[name].append(time.perf_counter() - before)
        if time.perf_counter() - started > MAX_SECONDS:
            break
    return {name: {"calls": len(seconds), "p50_ms": milliseconds(seconds, 50)} for name, seconds in durations.items()}
