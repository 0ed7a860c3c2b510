"""The check that counts courses by their state."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from embedding.vector_store.collections import VectorStore
from models.course_state import claim_course, fail_course, request_embedding
from tests.maintenance.checks.installation import add_published_course, doctor
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("intact_course")]

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_work_of_the_pipeline_is_reported_without_repair(catalogue: Catalogue, store: VectorStore) -> None:
    for course_id in ("waits", "runs", "failed", "grew"):
        add_published_course(catalogue, store, course_id)
    catalogue.add_course("new")
    with catalogue.session() as session:
        request_embedding(session, "waits", NOON)
        claim_course(session, "runs", "run")
        claim_course(session, "failed", "run")
        fail_course(session, "failed", "run", "no luck")
        session.execute(text("DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk WHERE course_id = 'grew')"))
    findings = doctor("--repair")
    messages = [finding["message"] for finding in findings if finding["check"] == "states"]
    assert messages == [
        "1 failed course: failed",
        "2 courses pending or running: runs, waits",
        "1 course to be embedded again, because the chunks or the model changed: grew",
    ]
    assert read_course(catalogue.engine, "grew").embedding_requested_at is None


def test_other_configured_model_is_no_problem(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "16")
    findings = doctor()
    assert findings.problems == []
    assert "because the chunks or the model changed: intact" in findings.of("states", "ok")["message"]
