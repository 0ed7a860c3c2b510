"""The heartbeat of a worker."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from models.database import CatalogueSettings, create_catalogue_engine, transaction
from models.run_workers import last_beat
from models.tables import RunWorker
from orchestration import heartbeats
from orchestration.heartbeats import Heartbeat
from tests.support.servers.postgres import server

pytestmark = pytest.mark.postgres


@pytest.fixture
def engine() -> Iterator[Engine]:
    postgres = server()
    url = postgres.create_database()
    engine = create_catalogue_engine(CatalogueSettings(database_url=url))
    RunWorker.__table__.create(engine)  # type: ignore[attr-defined]
    yield engine
    engine.dispose()
    postgres.drop_database(url)


def test_a_worker_that_begins_deletes_the_rows_of_those_that_ended_long_ago(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without Celery."""
    assert Heartbeat(engine, "old").beat()
    assert Heartbeat(engine, "recent").beat()
    with transaction(engine) as session:
        session.execute(
            text("UPDATE course_search_worker SET beat_at = now() - interval '2 days' WHERE run_id = 'old'")
        )
    monkeypatch.setattr(heartbeats, "_of_this_process", {})
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0)
    monkeypatch.setattr(Heartbeat, "beat", lambda _: False)  # ends the thread
    Heartbeat(engine, "new").keep_beating()
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(10)
    with transaction(engine) as session:
        assert last_beat(session, "old") is None
        assert last_beat(session, "recent") is not None
