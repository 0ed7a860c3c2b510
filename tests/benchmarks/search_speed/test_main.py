"""The generated course, the measuring clients, and a short run of all installed systems."""

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


@pytest.mark.integration
def test_all_systems_are_measured_and_find_the_exact_results() -> None:
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
    assert all(figures["requests"][40][kind]["without_s"] for kind in ("simple", "expensive"))


def test_ended_system_is_reported_with_its_standard_error() -> None:
    with (
        main.SystemProcess("unknown", {"BENCHMARK_QUESTIONS": "", "PYTHONPATH": str(ROOT)}) as system,
        pytest.raises(main.SystemFailedError, match=r"unknown ended with exit code 1:\n(.|\n)*Error"),
    ):
        system.read_reply()
