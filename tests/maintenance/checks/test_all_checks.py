"""All checks together, and repairs of several faults."""

import pytest

from cli.all_settings import ALL_SETTINGS
from embedding.vector_store.collections import VectorStore
from maintenance.checks.all_checks import repair, run_checks
from models.course_state import claim_course
from tests.maintenance.checks.installation import add_published_course, run_doctor
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course

pytestmark = pytest.mark.integration


def test_intact_installation_has_no_problems(catalogue: Catalogue, store: VectorStore) -> None:
    add_published_course(catalogue, store, "physics")
    for arguments in ([], ["--repair"], ["--deep"]):
        result = run_doctor(*arguments)
        assert result.exit_code == 0, result.stdout
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}, result.stdout
    assert read_course(catalogue.engine, "physics").embedding_status == "done"


@pytest.mark.usefixtures("intact_course")
def test_repair_of_several_faults_skips_a_running_course(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for course_id in ("a", "b"):
        add_published_course(catalogue, store, course_id)
        store.delete(course_id)
    add_published_course(catalogue, store, "short").remove(["0"])
    findings = [finding for finding in run_checks(ALL_SETTINGS, deep=False) if finding.level == "error"]
    with catalogue.session() as session:
        claim_course(session, "b", "run")
    assert sorted(line for finding in findings for line in repair(finding).repairs) == [
        "a: embedding_started",
        "b: Course 'b' is being embedded now",
        "short: embedding_started",
    ]
