"""The checks report text that the catalogue cannot decode as a finding."""

import pytest
from sqlalchemy import text

from cli.processes import free_port
from maintenance.checks.all_checks import run_checks
from maintenance.checks.findings import Level
from tests.support.catalogue import Catalogue, create_database, drop_database, migrate


def test_text_that_cannot_be_decoded_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    url = create_database("sqlite")
    migrate(url)
    catalogue = Catalogue(url, "text")
    with catalogue.session() as session:
        session.execute(text("INSERT INTO course (id) VALUES (CAST(X'636166e9' AS TEXT))"))
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    findings = list(run_checks([], deep=False))
    drop_database(url)
    [states] = [finding for finding in findings if finding.check == "states"]
    assert states.level == Level.ERROR
    assert "text that cannot be decoded" in states.message
