"""`relevance`, `answerable`, `min_relevance` and `unknown_terms` of an answer."""

from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from models.database import transaction
from models.tables import Course
from retrieval.relevance import Calibration
from tests.search_api.app_harness import AppHarness

TEXTS = ("copper is plated in a bath", "holes are drilled", "the mask is cured")


@pytest.fixture
def calibrated(harness: AppHarness) -> None:
    """A course whose texts have the cosines 1, .9 and .8, of which the last is what foreign questions reach."""
    harness.add_searchable_course("c", *TEXTS)
    with transaction(harness.engine) as session:
        calibration = Calibration(noise=0.85, cjk_noise=0.85, signal=1.0).as_text(harness.embedder.signature)
        session.execute(update(Course).values(embedding_calibration=calibration))


def ask(client: TestClient, query: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/courses/c/search", json={"query": query, **body}).json()
    return answer


@pytest.mark.usefixtures("calibrated")
def test_answer_says_whether_the_course_covers_the_question(client: TestClient) -> None:
    covered = ask(client, "copper plated in a bath")
    assert [result["text"] for result in covered["results"]] == list(TEXTS[:2]), "nothing supports the third"
    first, second = (result["relevance"] for result in covered["results"])
    assert 1 > first > 0.8 > second > 0
    assert (covered["answerable"], covered["unknown_terms"]) == (True, [])
    foreign = ask(client, "violin sonata", method="keyword")
    assert (foreign["results"], foreign["answerable"], foreign["unknown_terms"]) == ([], False, ["violin", "sonata"])


@pytest.mark.usefixtures("calibrated")
def test_min_relevance_leaves_out_results_and_decides_what_is_answerable(client: TestClient) -> None:
    first, second = (result["relevance"] for result in ask(client, "copper")["results"])
    assert len(ask(client, "copper", min_relevance=(first + second) / 2)["results"]) == 1
    strict = ask(client, "copper", min_relevance=min(1, first + 1e-6))
    assert (strict["results"], strict["answerable"]) == ([], False)
    assert len(ask(client, "copper", min_relevance=0)["results"]) == 2


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", True, [0.5]])
def test_min_relevance_is_a_probability(harness: AppHarness, client: TestClient, value: Any) -> None:
    harness.add_searchable_course("c", *TEXTS)
    answer = ask(client, "copper", min_relevance=value)
    assert answer["error"]["code"] == "invalid_request"
    assert "min_relevance" in answer["error"]["message"]


def test_course_without_a_calibration_says_that_it_does_not_know(harness: AppHarness, client: TestClient) -> None:
    """It was published by an earlier version. What words alone tell is known."""
    harness.add_searchable_course("c", *TEXTS)
    answer = ask(client, "copper", min_relevance=0.9)
    assert answer["answerable"] is None
    assert [result["relevance"] for result in answer["results"]] == [None] * 3, "nothing is left out unseen"
    assert ask(client, "copper", method="keyword")["answerable"] is True


@pytest.mark.usefixtures("calibrated")
def test_full_width_letters_are_read_as_plain_ones(harness: AppHarness, client: TestClient) -> None:
    assert ask(client, "ｃｏｐｐｅｒ　５Ｖ")["results"]
    assert harness.embedder.embedded_texts == ["copper　5V"]


def test_model_is_asked_without_typos_and_explain_names_them(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "a capacitor stores charge", "holes are drilled")
    answer = ask(client, "capcitor", explain=True)
    assert harness.embedder.embedded_texts == ["capacitor"]
    assert ask(client, "capcitor", explain=True) == answer, "the way without a change of threads gives the same"
    assert answer["results"][0]["explanation"]["expansions"] == {"capcitor": ["capacitor"]}
    assert answer["unknown_terms"] == []
