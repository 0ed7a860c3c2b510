"""The check that counts courses by their state."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from embedding.vector_store.collections import VectorStore
from models.course_state import Retry, claim_course, fail_course, mark_due, request_embedding
from tests.maintenance.checks.installation import add_published_course, doctor
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("intact_course")]


def test_work_of_the_pipeline_is_reported_without_repair(catalogue: Catalogue, store: VectorStore) -> None:
    for course_id in ("waits", "runs", "failed", "grew"):
        add_published_course(catalogue, store, course_id)
    catalogue.add_course("new")
    with catalogue.session() as session:
        request_embedding(session, "waits", datetime.now(UTC))
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


def test_failed_course_is_reported_with_its_next_retry(catalogue: Catalogue) -> None:
    for course_id in ("later", "now", "never"):
        catalogue.add_course(course_id)
    with catalogue.session() as session:
        for course_id, retry in (("later", Retry.LATER), ("now", Retry.NOW), ("never", Retry.NEVER)):
            claim_course(session, course_id, "run")
            fail_course(session, course_id, "run", "no luck", retry=retry)
    first = read_course(catalogue.engine, "now").embedding_retry_at
    assert first is not None
    assert doctor().problems == [
        "1 failed course: never",
        f"2 failed courses to be retried, the first at {first.astimezone():%Y-%m-%d %H:%M:%S}: now, later",
    ]


def test_running_course_without_run_is_a_warning(catalogue: Catalogue) -> None:
    catalogue.add_course("odd")
    with catalogue.session() as session:
        session.execute(text("UPDATE course SET embedding_status = 'running' WHERE id = 'odd'"))
    findings = doctor()
    assert findings.problems == ["1 course marked as running, but claimed by no run: odd"]
    assert "course-search embed" in findings.of("states", "warning")["advice"]


def test_course_that_waits_too_long_is_a_warning(catalogue: Catalogue) -> None:
    """A course that a run is embedding, or that has failed, is not reported a second time."""
    now = datetime.now(UTC)
    for course_id in ("new", "recent", "requested", "runs", "failed"):
        catalogue.add_course(course_id)
    with catalogue.session() as session:
        mark_due(session, ["new", "runs", "failed"], now - timedelta(hours=2))
        mark_due(session, ["recent"], now - timedelta(minutes=30))
        request_embedding(session, "requested", now - timedelta(hours=2))
        claim_course(session, "runs", "run")
        claim_course(session, "failed", "run")
        fail_course(session, "failed", "run", "no luck")
    findings = doctor()
    overdue = "2 courses due for more than an hour, but not embedded: new, requested"
    assert findings.problems == ["1 failed course: failed", overdue]


def test_other_configured_model_is_no_problem(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "16")
    findings = doctor()
    assert findings.problems == []
    assert "because the chunks or the model changed: intact" in findings.of("states", "ok")["message"]
