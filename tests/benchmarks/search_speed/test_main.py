"""The benchmark's course and its clients, and a short run of all systems that are installed."""

import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_speed import main
from benchmarks.search_speed.made_up_course import QUESTIONS, chunk_id, make_course, section_id
from benchmarks.search_speed.our_systems import CHROMA, OUR_SYSTEMS
from benchmarks.search_speed.worker import Call, Question, measure, read_questions
from benchmarks.serving import ROOT

REQUIREMENTS = Path(main.__file__).with_name("baseline-requirements.txt")
CALL = Call(Question("?", np.ones(2, dtype=np.float32), "s1"), "vector", filtered=False)


def test_a_course_is_the_same_every_time_and_its_questions_are_about_its_chunks() -> None:
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


def test_words_are_as_rare_as_in_text() -> None:
    words = " ".join(make_course(300).texts).split()
    counts = np.sort(np.unique(words, return_counts=True)[1])[::-1]
    assert counts[0] > 20 * counts[100]
    assert (counts == 1).mean() > 0.3


def test_the_nearest_of_a_filtered_search_are_in_the_section_and_no_more_than_there_are() -> None:
    course = make_course(60)
    for section, found in zip(course.question_sections, course.nearest(10, filtered=True), strict=True):
        assert sorted(found) == [chunk_id(number) for number in range(60) if section_id(number) == section]


def test_questions_survive_the_way_to_another_process(tmp_path: Path) -> None:
    course = make_course(20)
    course.save_questions(tmp_path / "questions.npz")
    read = read_questions(tmp_path / "questions.npz")
    assert [question.text for question in read] == list(course.questions)
    assert [question.section for question in read] == list(course.question_sections)
    np.testing.assert_array_equal([question.vector for question in read], course.question_vectors)


def test_as_many_clients_ask_at_once_as_were_ordered() -> None:
    together = threading.Barrier(3)

    def ask(_: Call) -> list[str]:
        together.wait(10)
        return []

    figures = measure(ask, [CALL], clients=3, seconds=0)
    assert len(figures["durations"]) == 3
    assert figures["seconds"] >= max(figures["durations"])


def test_a_call_that_fails_is_not_counted_but_raised() -> None:
    def ask(_: Call) -> list[str]:
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        measure(ask, [CALL], clients=2, seconds=0)


def test_the_baselines_bring_no_torch_and_are_pinned() -> None:
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines)
    assert not [line for line in lines if line.startswith(("torch", "nvidia"))]


@pytest.mark.integration
def test_all_systems_answer_the_same_questions() -> None:
    systems = (*OUR_SYSTEMS, *(main.BASELINES if main.BASELINES_PYTHON.exists() else ()))
    figures = main.measure([40], 0.03, systems)
    assert len(figures["cells"]) == 8
    for cell in figures["cells"]:
        is_vector = cell["method"] == "vector"
        assert set(cell["systems"]) == set(systems) - (set() if is_vector else {CHROMA})
        for row in cell["systems"].values():
            assert row["calls"] >= cell["clients"]
            assert row["recall"] == (1.0 if is_vector else None)
    assert all(figures["loading"][40].values())
    assert all(figures["requests"][40][kind]["without_s"] for kind in ("simple", "demanding"))


def test_a_party_that_ends_says_why() -> None:
    with (
        main._System("nobody", {"BENCHMARK_QUESTIONS": "", "PYTHONPATH": str(ROOT)}) as system,
        pytest.raises(main.SystemFailedError, match=r"nobody ended with exit code 1:\n(.|\n)*Error"),
    ):
        system.wait()
