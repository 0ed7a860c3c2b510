"""The counters of the pipeline, and what the metrics show of the courses."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert

from models import counters, resources
from models.database import transaction
from models.overview import read_overview
from models.tables import Counter, Course, EmbeddingStatus
from tests.support.catalogue import Catalogue


@pytest.fixture
def engine(text_catalogue: Catalogue) -> Engine:
    return text_catalogue.engine


def values(engine: Engine) -> dict[tuple[str, str], float]:
    """The counters that are not zero."""
    with transaction(engine) as session:
        return {counter: value for counter, value in counters.read(session).items() if value}


def add(engine: Engine, amounts: counters.Amounts) -> None:
    with transaction(engine) as session:
        counters.add(session, amounts)


def test_counters_begin_at_zero_and_grow(engine: Engine) -> None:
    """A series that appears with its first event hides that event from `increase`."""
    with transaction(engine) as session:
        read = counters.read(session)
    assert set(read) == {(name, kind) for name, counter in counters.COUNTERS.items() for kind in counter.kinds}
    assert set(read.values()) == {0.0}
    add(engine, {("tokens", ""): 10, ("chunks", "embedded"): 2, ("chunks", "kept"): 0})
    add(engine, {("tokens", ""): 5, ("chunks", "kept"): True, ("indexing_seconds", ""): 0.25})
    assert values(engine) == {
        ("tokens", ""): 15,
        ("chunks", "embedded"): 2,
        ("chunks", "kept"): 1,
        ("indexing_seconds", ""): 0.25,
    }


def test_nothing_to_add_writes_nothing(engine: Engine) -> None:
    add(engine, {("tokens", ""): 0})
    add(engine, {})
    with transaction(engine) as session:
        assert session.query(Counter).count() == 0


def test_concurrent_workers_lose_no_count(engine: Engine) -> None:
    """Nor do they wait for each other in a circle, whatever the order in which they name the counters."""
    amounts = [("tokens", ""), ("course_retries", ""), ("chunks", "deleted")]
    with ThreadPoolExecutor(4) as workers:
        orders = [dict.fromkeys(amounts[n % 3 :] + amounts[: n % 3], 1) for n in range(12)]
        list(workers.map(lambda order: add(engine, order), orders))
    assert values(engine) == dict.fromkeys(amounts, 12)


@pytest.mark.parametrize("counter", [("tokens", "embedded"), ("chunks", ""), ("nothing", "")])
def test_only_documented_counters_exist(engine: Engine, counter: tuple[str, str]) -> None:
    """So the number of series is bounded."""
    with pytest.raises(ValueError, match="there is no counter"):
        add(engine, {counter: 1})


def test_rows_of_another_version_are_left_out(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(insert(Counter).values(name="of a newer version", value=1.0))
    assert values(engine) == {}


def test_overview_counts_courses_and_finds_the_oldest_due(engine: Engine) -> None:
    """A failed course that no run tries again waits for people, not for the pipeline."""
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)

    def course(id_: str, status: str, hours: int | None, *, retry: bool = False) -> Course:
        return Course(
            id=id_,
            embedding_status=status,
            embedding_due_since=None if hours is None else now - timedelta(hours=hours),
            embedding_retry_at=now if retry else None,
        )

    with transaction(engine) as session:
        assert read_overview(session)._replace(counters={}) == ({}, 0, None, {}, None, {})
        session.add_all(
            [
                course("a", EmbeddingStatus.DONE, None),
                course("b", EmbeddingStatus.DONE, 1),
                course("c", EmbeddingStatus.FAILED, 5),
                course("d", EmbeddingStatus.FAILED, 3, retry=True),
                course("e", EmbeddingStatus.PENDING, 2),
                course("f", "of another program", None),
            ]
        )
    with transaction(engine) as session:
        for number, name in enumerate(("a.pdf", "b.pdf")):
            at = now - timedelta(hours=number)
            resources.put_resource(session, "a", name, size=1, sha256="0", now=at)
        done = resources.put_resource(session, "a", "c.pdf", size=1, sha256="0", now=now - timedelta(days=1))
        claimed = resources.claim(session, done.resource_id, "run", done.updated_at)
        assert claimed is not None
        resources.succeed(session, claimed, [], source_type="pdf", now=done.updated_at)
    with transaction(engine) as session:
        overview = read_overview(session)
    assert overview.courses == {"done": 2, "failed": 2, "pending": 1, "of another program": 1}
    assert overview.given_up == 1
    assert (overview.uploads, overview.waiting_since) == ({"pending": 2, "succeeded": 1}, now - timedelta(hours=1))
    assert overview.due_since == now - timedelta(hours=3)
