"""Benchmark of many courses: a search of all of them together beside a search of one, over HTTP.

All courses are about the same topics. So each has passages near every question, and several are searched for an answer.
"""

import time
from typing import Any

import httpx

from benchmarks.search_quality.metrics import milliseconds
from benchmarks.search_speed.made_up_course import MadeUpCourse, make_course
from benchmarks.search_speed.our_systems import (
    APP,
    MANY_COURSES,
    OVER_HTTP,
    REQUEST_SECONDS,
    request_body,
    search_path,
)
from benchmarks.search_speed.processes import Deadline
from benchmarks.search_speed.worker import Call, Question
from benchmarks.serving import Serving, search_app

COURSES, CHUNKS = 100, 300
STARTS = 3
"""How often the app is started for the first search of one course, and of all."""


def make_courses() -> list[MadeUpCourse]:
    """Generate the courses. The questions are about the first one, because it has all of their words."""
    return make_course(COURSES * CHUNKS, asked=CHUNKS).split(COURSES)


def measure_first_searches(started: Serving, course: MadeUpCourse, deadline: Deadline) -> dict[str, dict[str, Any]]:
    """Median milliseconds of the first request after a start of the app.

    Returns:
        `calls` and `p50_ms` of a search of the course and of a search of all, by the name of the system.
    """
    question = Question(course.questions[0], course.question_vectors[0], course.question_sections[0])
    body = request_body(Call(question, "hybrid", filtered=False))
    seconds: dict[str, list[float]] = {OVER_HTTP: [], MANY_COURSES: []}
    for _ in range(STARTS):
        for name, searched in ((OVER_HTTP, course.id), (MANY_COURSES, None)):
            deadline.check()
            with (
                search_app(started.settings, APP) as url,
                httpx.Client(base_url=url, trust_env=False, timeout=REQUEST_SECONDS) as client,
            ):
                before = time.perf_counter()
                client.post(search_path(searched), json=body).raise_for_status()
                seconds[name].append(time.perf_counter() - before)
    return {name: {"calls": len(each), "p50_ms": milliseconds(each, 50)} for name, each in seconds.items()}
