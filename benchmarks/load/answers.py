"""Checks answers by their content: of which course and edition each text is, and whether that fits the answer.

Every answer is checked when it arrives, for what it says itself: each text is of the course that was asked, all texts
of a course are of one edition, and a generation always has the same edition. At the end the answers are compared with
what the catalogue showed meanwhile (`benchmarks.load.changes`): the generation is the published one, and `stale` is
true if, and only if, the course was not `done`.
"""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from benchmarks.load.client import Exchange
from benchmarks.load.courses import EDITION

MAX_PROBLEMS = 20
SLOW_SECONDS = 1.0
"""A slower answer shows that an overload, or a fault, is not over."""
OVERLOADED = "overloaded"


class Answer(NamedTuple):
    """What an answer says of a course, and when."""

    course_id: str
    generation: int
    stale: bool
    sent: float
    ended: float


class Answers:
    """All answers of a phase.

    Args:
        editions: The edition of each generation of a course, which is shared by the phases.
    """

    def __init__(self, editions: dict[tuple[str, int], int]) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        """Of the answers with status 200, by kind."""
        self.refused: list[float] = []
        """Seconds until an answer `503 overloaded` with `Retry-After`."""
        self.refusals: Counter[str] = Counter()
        """Their messages, which say what too many waited for."""
        self.refused_in: Counter[int] = Counter()
        """In which seconds of the monotonic clock they were due."""
        self.unlike_usual: list[float] = []
        """When the exchanges were due that were not answered with 200 within SLOW_SECONDS."""
        self.asked = 0
        self.errors: Counter[str] = Counter()
        self.problems: list[str] = []
        self.inconsistent = 0
        self.degraded: Counter[str] = Counter()
        self.degraded_is_expected = False
        self.old_rows_are_expected = False
        """Whether answers may be `stale` although the course is `done`, because the catalogue is away."""
        self.of_courses: list[Answer] = []
        self._editions = editions

    def add(self, exchange: Exchange) -> None:
        """Check an exchange that has ended."""
        self.asked += 1
        if exchange.status != 200 or exchange.seconds > SLOW_SECONDS:
            self.unlike_usual.append(exchange.due)
        if exchange.status != 200:
            self._add_error(exchange)
            return
        kind = exchange.call.kind
        self.seconds[kind].append(exchange.seconds)
        try:
            answer = from_json(exchange.body)
            if kind in ("several courses", "all courses"):
                self._check_several(exchange, answer)
            elif kind == "chunk":
                self._check_passages(exchange, answer["course_id"], answer, [answer, *answer["context"]["before"]])
            elif kind not in ("list of courses", "status"):
                self._check_search(exchange, answer)
        except (KeyError, TypeError, ValueError) as error:
            self.problem(f"{kind}: {type(error).__name__}: {error}")

    @property
    def answered(self) -> int:
        """Number of answers with status 200."""
        return sum(map(len, self.seconds.values()))

    def problem(self, text: str) -> None:
        """Count an answer that is not what it should be."""
        self.inconsistent += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def check_states(self, states: "States") -> Mapping[str, int]:
        """Compare the answers with what the catalogue showed; how many were compared, and how."""
        compared: Counter[str] = Counter()
        for answer in self.of_courses:
            state, expected = states.during(answer.course_id, answer.sent, answer.ended)
            if state is not None:
                compared["while the course stayed as it was"] += 1
                may_be_stale = self.old_rows_are_expected and answer.stale
                if (answer.generation, answer.stale) != (state[0], state[1] or may_be_stale):
                    self.problem(f"{answer.course_id}: {answer.generation, answer.stale} instead of {state}")
            else:
                compared["while its state changed"] += 1
                if answer.generation not in expected:
                    self.problem(f"{answer.course_id}: generation {answer.generation}, not one of {sorted(expected)}")
        return compared

    def _add_error(self, exchange: Exchange) -> None:
        try:
            error = from_json(exchange.body)["error"] if exchange.status else {}
            code, message = error.get("code", exchange.problem), str(error.get("message"))
        except (AttributeError, KeyError, TypeError, ValueError):
            code, message = "not the shape of an error", ""
        if (exchange.status, code) == (503, OVERLOADED) and exchange.retry_after:
            self.refused.append(exchange.seconds)
            self.refusals[message] += 1
            self.refused_in[int(exchange.due)] += 1
        else:
            after = "" if exchange.status != 503 or exchange.retry_after else ", no Retry-After"
            self.errors[f"{exchange.call.kind}: {exchange.status} {code}{after}"] += 1

    def _check_search(self, exchange: Exchange, answer: Mapping[str, Any]) -> None:
        if answer["degraded"]:
            self.degraded[answer["degraded"]] += 1
        course_id = exchange.call.message.split(b" ", 2)[1].split(b"/")[2].decode()
        passages = list(answer["results"])
        for result in answer["results"]:
            if result["context"]:
                passages += [*result["context"]["before"], *result["context"]["after"]]
        self._check_passages(exchange, course_id, answer, passages)

    def _check_several(self, exchange: Exchange, answer: Mapping[str, Any]) -> None:
        by_course: defaultdict[str, list[Any]] = defaultdict(list)
        for result in answer["results"]:
            by_course[result["metadata"]["course_id"]].append(result)
        for entry in answer["courses"]:
            if entry["error"]:
                self.errors[f"{exchange.call.kind}: {entry['error']['code']} in `courses`"] += 1
                continue
            said = {"generation": entry["generation"], "stale": entry["state"] == "stale"}
            self._check_passages(exchange, entry["course_id"], said, by_course.pop(entry["course_id"], []))
        if by_course:
            self.problem(f"{exchange.call.kind}: results of courses that are not in `courses`")

    def _check_passages(
        self, exchange: Exchange, course_id: str, answer: Mapping[str, Any], passages: Iterable[Mapping[str, Any]]
    ) -> None:
        self.of_courses.append(Answer(course_id, answer["generation"], answer["stale"], exchange.sent, exchange.ended))
        for passage in passages:
            match = EDITION.search(passage["text"])
            if match is None or match[1] != course_id or passage["citation"]["course_id"] != course_id:
                self.problem(f"{exchange.call.kind}: a text of {match and match[1]} in an answer of {course_id}")
                continue
            edition = self._editions.setdefault((course_id, answer["generation"]), int(match[2]))
            if not edition == int(match[2]) == passage["metadata"]["edition"]:
                self.problem(
                    f"{exchange.call.kind}: a text of edition {match[2]} in generation {answer['generation']} of "
                    f"{course_id}, which has edition {edition}"
                )


class States:
    """The states of the courses over time, from the looks of `benchmarks.load.changes`."""

    def __init__(self, file: Path) -> None:
        self._spans: defaultdict[str, list[list[Any]]] = defaultdict(list)
        self.changes: Counter[str] = Counter()
        """How often each course was published anew."""
        for line in file.read_text(encoding="utf-8").splitlines():
            look = json.loads(line)
            for course_id, (status, generation, _) in look["states"].items():
                spans = self._spans[course_id]
                state = (generation, status != "done")
                if spans and generation > spans[-1][2][0]:
                    self.changes[course_id] += 1
                if not spans or spans[-1][2] != state:
                    spans.append([look["at"], look["from"], state])
            for spans in self._spans.values():
                spans[-1][1] = look["from"]

    def during(self, course_id: str, start: float, end: float) -> tuple[tuple[int, bool] | None, set[int]]:
        """The generation, and whether the course was not `done`, if both stayed; the possible generations."""
        spans = self._spans[course_id]
        at = bisect_right(spans, start, key=lambda span: span[0]) - 1
        if at >= 0 and end <= spans[at][1]:
            return spans[at][2], {spans[at][2][0]}
        last = bisect_right(spans, end, key=lambda span: span[0]) - 1
        last += last < 0 or end > spans[last][1]
        return None, {span[2][0] for span in spans[max(0, at) : last + 1]}
