"""The heartbeats of workers: one worker has a run, until it has been silent."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from models import run_workers
from models.database import transaction
from tests.support.catalogue import Catalogue

MINUTE = timedelta(minutes=1)


@pytest.mark.postgres
@pytest.mark.parametrize("text_catalogue", [("postgres", "text")], indirect=True)
def test_one_worker_has_a_run_until_it_is_silent(text_catalogue: Catalogue) -> None:
    def beat(worker: str, batches: int = 0) -> bool:
        with text_catalogue.session() as session:
            return run_workers.beat(session, "run", worker, batches, MINUTE)

    with text_catalogue.session() as session:
        assert run_workers.last_beat(session, "run") is None
    assert [beat("first"), beat("second"), beat("first", 3)] == [True, False, True]
    with text_catalogue.session() as session:
        before = run_workers.last_beat(session, "run")
        assert before is not None
        assert before.batches == 3
        session.execute(text("UPDATE course_search_worker SET beat_at = now() - interval '2 minutes'"))
    assert [beat("second"), beat("first")] == [True, False]
    with transaction(text_catalogue.engine) as session:
        run_workers.delete_old(session)
        assert run_workers.last_beat(session, "run") is not None
        session.execute(text("UPDATE course_search_worker SET beat_at = now() - interval '2 days'"))
        run_workers.delete_old(session)
        assert run_workers.last_beat(session, "run") is None
