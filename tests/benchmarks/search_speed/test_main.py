"""The generated course, the measuring clients, failing systems, and a short run of all installed systems."""

import json
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search_speed import main, many_courses
from benchmarks.search_speed.made_up_course import QUESTIONS, chunk_id, make_course, section_id
from benchmarks.search_speed.our_systems import CHROMA, IN_PROCESS, MANY_COURSES, OUR_SYSTEMS, OVER_HTTP, PRODUCT
from benchmarks.search_speed.processes import Deadline, SystemFailedError, SystemProcess
from benchmarks.search_speed.tables import summary, summary_of_many_courses
from benchmarks.search_speed.worker import Call, Question, measure, read_questions
from benchmarks.serving import ROOT

REQUIREMENTS = Path(main.__file__).with_name("baseline-requirements.txt")
CALL = Call(Question("?", np.ones(2, dtype=np.float32), "s1"), "vector", filtered=False)


def test_course_is_deterministic_and_its_questions_are_about_its_chunks() -> None:
    course, again = make_course(60), make_course(60)
    assert course.texts == again.texts
    assert course.questions == again.questions
    np.testing.assert_array_equal(course.vectors, again.vectors)
    np.testing.assert_allclose(np.linalg.norm(course.vectors, axis=1), 1, atol=1e-5)
    assert len(course.questions) == QUESTIONS
    for question, section, (nearest, *_) in zip(
        course.questions, course.question_sections, course.nearest(1, filtered=False), strict=True
    ):
        text = course.texts[int(nearest.removeprefix("c"))]
        assert set(question.split()) <= set(text.split())
        assert section == section_id(int(nearest.removeprefix("c")))


def test_word_frequencies_are_like_in_real_text() -> None:
    words = " ".join(make_course(300).texts).split()
    counts = np.sort(np.unique(words, return_counts=True)[1])[::-1]
    assert counts[0] > 20 * counts[100]
    assert (counts == 1).mean() > 0.3


def test_nearest_filtered_chunks_are_all_chunks_of_the_section() -> None:
    course = make_course(60)
    for section, found in zip(course.question_sections, course.nearest(10, filtered=True), strict=True):
        assert sorted(found) == [chunk_id(number) for number in range(60) if section_id(number) == section]


def test_saved_questions_can_be_read(tmp_path: Path) -> None:
    course = make_course(20)
    course.save_questions(tmp_path / "questions.npz")
    read = read_questions(tmp_path / "questions.npz")
    assert [question.text for question in read] == list(course.questions)
    assert [question.section for question in read] == list(course.question_sections)
    np.testing.assert_array_equal([question.vector for question in read], course.question_vectors)


def test_clients_search_in_parallel() -> None:
    barrier = threading.Barrier(3)

    def search(_: Call) -> list[str]:
        barrier.wait(60)
        return []

    figures = measure(search, [CALL], clients=3, seconds=0)
    assert len(figures["durations"]) == 3
    assert figures["seconds"] >= max(figures["durations"])


def test_failed_call_is_raised() -> None:
    def search(_: Call) -> list[str]:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        measure(search, [CALL], clients=2, seconds=0)


def test_baselines_are_pinned_and_do_not_need_torch() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert not [line for line in lines if line.startswith(("torch", "nvidia"))]


def test_courses_share_the_questions_about_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_courses, "COURSES", 3)
    monkeypatch.setattr(many_courses, "CHUNKS", 20)
    first, *others = many_courses.make_courses()
    assert len({course.id for course in (first, *others)}) == 3
    assert len({text for course in (first, *others) for text in course.texts}) == 60
    for question, (nearest,) in zip(first.questions, first.nearest(1, filtered=False), strict=True):
        assert set(question.split()) <= set(first.texts[int(nearest.removeprefix("c"))].split())
    assert all(course.questions == first.questions for course in others)


@pytest.mark.integration
def test_all_systems_are_measured_and_find_the_exact_results(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COURSES", 2), ("CHUNKS", 20), ("STARTS", 1)):
        monkeypatch.setattr(many_courses, name, value)
    systems = (*OUR_SYSTEMS, *(main.BASELINES if main.BASELINES_PYTHON.exists() else ()))
    figures = main.empty_figures([40], 0.03, systems)
    main.measure(figures, systems, Deadline(10))
    assert len(figures["cells"]) == 8
    for cell in figures["cells"]:
        is_vector = cell["method"] == "vector"
        left_out = ({CHROMA} if not is_vector else set()) | ({PRODUCT} if cell["clients"] > 1 else set())
        assert set(cell["systems"]) == set(systems) - left_out
        for name, row in cell["systems"].items():
            assert row["calls"] >= cell["clients"]
            assert row["recall"] == (1.0 if is_vector and name != PRODUCT else None)
    assert set(figures["setup"][40]) == set(systems)
    assert all(figures["opening"][40].values())
    assert all(figures["requests"][40][kind]["without_s"] for kind in ("simple", "complex"))
    assert all(figures["filters"][40][kind]["p50_ms"] for kind in ("none", "section", "page"))
    compared = summary_of_many_courses(figures["many_courses"])
    assert [row["search"] for row in compared] == ["hybrid, 1 client", "hybrid, 8 clients", "the first after a start"]
    assert all(row["ratio"] for row in compared)


@pytest.mark.integration
def test_failing_systems_are_rows_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "BASELINES_PYTHON", Path("/missing/python"))
    monkeypatch.setattr(main, "METHODS", ("vector",))
    systems = (PRODUCT, "unknown", "LangChain", CHROMA)
    figures = main.empty_figures([40], 0.03, systems)
    main.measure(figures, systems, Deadline(10))
    reasons = {
        "unknown": "ended with exit code 1: ValueError: There is no system unknown",
        "LangChain": "did not start: No such file or directory: /missing/python",
    }
    for group in (figures["setup"][40], *(cell["systems"] for cell in figures["cells"])):
        assert {name: row["failed"] for name, row in group.items() if "failed" in row} == reasons
    assert all(cell["systems"][CHROMA]["calls"] for cell in figures["cells"])


def test_course_that_fails_is_a_row_for_each_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: object, **__: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(main, "make_course", make)
    monkeypatch.setattr(many_courses, "make_course", make)
    figures = main.empty_figures([40, 50], 0.03, OUR_SYSTEMS)
    main.measure(figures, OUR_SYSTEMS, Deadline(10))
    rows = [row for cell in figures["cells"] for row in cell["systems"].values()]
    rows += [row for size in (40, 50) for row in (*figures["setup"][size].values(), figures["opening"][size])]
    rows += [row for cell in figures["many_courses"]["cells"] for row in cell["systems"].values()]
    rows += figures["many_courses"]["first"].values()
    assert rows
    assert all(row == {"failed": "MemoryError: too large"} for row in rows)


@pytest.mark.parametrize("ends_by", ["time limit", "interrupt"])
def test_tables_and_figures_are_always_written(
    ends_by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["main", "--sizes", "40", "50", "--minutes", "0", "--out", str(out)])
    if ends_by == "interrupt":

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(main, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt) if ends_by == "interrupt" else nullcontext():
        main.main()
    printed = capsys.readouterr().out
    titles = ("A course of 40 chunks", "A course of 50 chunks", "Hybrid search, compared", "A search of a course")
    for title in (*titles, "A search of 100 courses", "Filters"):
        assert title in printed
    assert printed.count("not measured") > 20
    cells = json.loads(out.read_text())["cells"]
    assert {name for cell in cells for name in cell["systems"]} == {*OUR_SYSTEMS, *main.BASELINES}
    assert len(cells) == 2 * 8


def test_hybrid_searches_are_compared_with_the_best_peer_and_the_product() -> None:
    def row(per_second: float, p50_ms: float) -> dict[str, float]:
        return {"per_second": per_second, "p50_ms": p50_ms}

    systems = {
        IN_PROCESS: row(1000, 1.2),
        OVER_HTTP: row(500, 2),
        CHROMA: row(400, 3),
        PRODUCT: row(2000, 1.0),
        "slow": row(100, 9),
        "fast": row(160, 7),
        "broken": {"failed": "no answer"},
    }
    cell = {"method": "hybrid", "chunks": 40, "filtered": False, "clients": 1, "systems": systems}
    peers, product = summary([cell])
    assert (peers["peer"], peers["ratio"], peers["met"]) == ("fast", 3.12, True)
    assert (product["added_ms"], product["met"]) == (0.2, True)
    (_, slower) = summary([cell | {"systems": systems | {PRODUCT: row(900, 1.1)}}])
    assert not slower["met"], "where the product takes over 1 ms, the search takes less"
    failed, _ = summary([cell | {"systems": systems | {OVER_HTTP: {"failed": "HTTP 503"}}}])
    assert failed["failed"] == "HTTP 503"


def test_many_courses_are_compared_with_one() -> None:
    def systems(one: dict[str, Any], all_: dict[str, Any]) -> dict[str, Any]:
        return {OVER_HTTP: one, MANY_COURSES: all_}

    cells = [
        {"clients": 1, "systems": systems({"p50_ms": 2.0}, {"p50_ms": 20.0})},
        {"clients": 8, "systems": systems({"p50_ms": 2.0}, {"p50_ms": 21.0})},
    ]
    met, missed, failed = summary_of_many_courses(
        {"cells": cells, "first": systems({"p50_ms": 9.0}, {"failed": "HTTP 503"})}
    )
    assert (met["ratio"], met["met"]) == (10.0, True)
    assert (missed["ratio"], missed["met"]) == (10.5, False)
    assert failed["failed"] == "HTTP 503"


def start(code: str, deadline: Deadline | None = None) -> SystemProcess:
    return SystemProcess("tested", [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT)}, deadline or Deadline(10))


WORKER = """
import sys, time
from benchmarks.search_speed.worker import handle_commands
def fail():
    raise ValueError("no\\nanswer")
def hang():
    print("waiting for a lock", file=sys.stderr, flush=True)
    time.sleep(60)
handle_commands(None, [], {"fail": fail, "hang": hang, "answer": lambda: 42})
"""


def test_failed_command_does_not_prevent_the_next_one() -> None:
    with start(WORKER) as system:
        assert system.wait_ready(60) > 0
        with pytest.raises(SystemFailedError, match=r"^ValueError: no answer$"):
            system.execute("fail", 60)
        assert system.execute("answer", 60) == 42


def test_system_that_exceeds_a_time_limit_is_stopped_for_good() -> None:
    with start(WORKER) as system:
        system.wait_ready(60)
        for command in ("hang", "answer"):
            with pytest.raises(SystemFailedError, match=r"^hang takes over 5 s: waiting for a lock$"):
                system.execute(command, 5)


def test_long_set_up_and_the_end_of_the_benchmark_are_failures() -> None:
    with start("input()") as system, pytest.raises(SystemFailedError, match=r"^set-up takes over 0 s$"):
        system.wait_ready(0.01)
    over = Deadline(0)
    with start("input()", over) as system, pytest.raises(SystemFailedError, match="the time limit of 0 minutes"):
        system.wait_ready(60)


def test_ended_system_is_reported_with_its_last_line() -> None:
    with start("raise ValueError('no memory')") as system:
        for call in (lambda: system.wait_ready(60), lambda: system.execute("answer", 60)):
            with pytest.raises(SystemFailedError, match=r"^ended with exit code 1: ValueError: no memory$"):
                call()
