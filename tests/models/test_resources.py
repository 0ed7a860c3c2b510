"""Uploaded files in the catalogue: their states, their chunks, and what their course waits for, on both databases."""

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlmodel import col

from models import course_state, resources
from models.course_state import RETRY_SECONDS
from models.courses import get_course
from models.database import transaction
from models.ingestion import ingestion_by_course, ingestion_of_course
from models.jsonl_rows import MAX_COURSE_ID_CHARACTERS
from models.loading import load
from models.resources import NewChunk, NoSuchCourseError, NotOurTablesError
from models.tables import Chunk, Resource, UploadedResource
from tests.support.catalogue import Catalogue
from tests.support.courses import empty_catalogue

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def catalogue(text_catalogue: Catalogue) -> Catalogue:
    """A catalogue whose tables the migrations created, with the empty course `c`."""
    with text_catalogue.session() as session:
        assert resources.create_course(session, "c")
    return text_catalogue


def put(catalogue: Catalogue, name: str = "a.pdf", sha256: str = "1", course_id: str = "c") -> UploadedResource:
    with catalogue.session() as session:
        return resources.put_resource(session, course_id, name, size=3, sha256=sha256, now=NOW)


def get(catalogue: Catalogue, resource_id: str) -> UploadedResource:
    with catalogue.session() as session:
        resource = resources.get_resource(session, resource_id)
    assert resource is not None
    return resource


def claim(catalogue: Catalogue, resource: UploadedResource, run_id: str = "run") -> UploadedResource:
    with catalogue.session() as session:
        claimed = resources.claim(session, resource.resource_id, run_id, NOW)
    assert claimed is not None
    return claimed


def passages(*texts: str) -> list[NewChunk]:
    return [NewChunk(text, 1, 1, "en", {"lecture_title": "Copper", "page": 2}) for text in texts]


def succeed(catalogue: Catalogue, resource: UploadedResource, *texts: str) -> bool:
    claimed = claim(catalogue, resource)
    with catalogue.session() as session:
        return resources.succeed(session, claimed, passages(*texts), source_type="pdf", now=NOW)


def fail(catalogue: Catalogue, resource: UploadedResource) -> None:
    claimed = claim(catalogue, resource)
    with catalogue.session() as session:
        assert resources.fail(session, claimed, "scanned", NOW)


def chunks(catalogue: Catalogue) -> Sequence[Chunk]:
    with catalogue.session() as session:
        return session.scalars(select(Chunk).order_by(col(Chunk.text))).all()


def statuses(catalogue: Catalogue) -> dict[str, str]:
    """Status by id in stage one's table."""
    with catalogue.session() as session:
        return {row.id: row.status for row in session.scalars(select(Resource))}


def is_ingested(catalogue: Catalogue, course_id: str = "c") -> bool:
    with catalogue.session() as session:
        counts = ingestion_of_course(session, course_id)
        assert ingestion_by_course(session)[course_id] == ingestion_by_course(session, [course_id])[course_id] == counts
    return counts.finished


class TestTables:
    def test_nothing_is_written_to_tables_of_stage_one(self, integer_catalogue: Catalogue) -> None:
        integer_catalogue.add_course("1", ["succeeded"], ["copper"])
        with integer_catalogue.session() as session:
            with pytest.raises(NotOurTablesError, match="belong to stage one"):
                resources.create_course(session, "2")
            with pytest.raises(NotOurTablesError):
                resources.put_resource(session, "1", "a.pdf", size=1, sha256="1", now=NOW)
            assert not resources.active_resources(session)
            assert not resources.courses_without_row(session)
            assert resources.resources_of(session, "1") == []
            assert resources.get_resource(session, "1") is None
            assert resources.delete_resource(session, "1") is None
        assert is_ingested(integer_catalogue, "1")

    def test_one_table_of_stage_one_is_enough(self, tmp_path: Path) -> None:
        engine = empty_catalogue(tmp_path / "catalogue.db")
        with transaction(engine) as session:
            assert resources.own_tables(session)
        other = empty_catalogue(tmp_path / "other.db")
        with transaction(other) as session:
            session.execute(text("DROP TABLE chunk"))
            session.execute(text("CREATE TABLE chunk (id VARCHAR PRIMARY KEY)"))
            assert not resources.own_tables(session)
        engine.dispose()
        other.dispose()


class TestCourses:
    def test_exists_already(self, catalogue: Catalogue) -> None:
        with catalogue.session() as session:
            assert not resources.create_course(session, "c")
            assert resources.create_course(session, "电路 1")
            course = get_course(session, "电路 1")
        assert course is not None
        assert (course.embedding_status, course.embedding_generation) == ("not_started", 0)

    @pytest.mark.parametrize(
        ("course_id", "problem"),
        [
            ("", "blank"),
            (" \u200b", "blank"),
            ("a\0b", "NUL"),
            ("\ud800", "surrogate"),
            ("a...b", "'...'"),
            ("..", "browsers"),
            ("a\nb", "control"),
            (" a", "white space"),
            ("a ", "white space"),
            ("x" * (MAX_COURSE_ID_CHARACTERS + 1), "500 characters"),
        ],
    )
    def test_id_that_is_not_allowed(self, catalogue: Catalogue, course_id: str, problem: str) -> None:
        with catalogue.session() as session, pytest.raises(ValueError, match=problem):
            resources.create_course(session, course_id)

    def test_longest_id(self, catalogue: Catalogue) -> None:
        """Characters of four bytes that do not compress well: the index of PostgreSQL accepts it."""
        course_id = "".join(chr(0x20000 + 7919 * number % 40000) for number in range(MAX_COURSE_ID_CHARACTERS))
        with catalogue.session() as session:
            assert resources.create_course(session, course_id)
        assert put(catalogue, "文" * 255, course_id=course_id).position == 1


class TestUploads:
    def test_new_files_are_pending_in_their_order(self, catalogue: Catalogue) -> None:
        first, second = put(catalogue, "b.pdf"), put(catalogue, "a.vtt")
        with catalogue.session() as session:
            rows = resources.resources_of(session, "c")
        assert [(row.name, row.position, row.status, row.progress, row.chunks) for row in rows] == [
            ("b.pdf", 1, "pending", 0.0, 0),
            ("a.vtt", 2, "pending", 0.0, 0),
        ]
        assert rows[0].created_at == rows[0].updated_at == NOW
        assert statuses(catalogue) == {first.resource_id: "pending", second.resource_id: "pending"}

    def test_same_name_is_the_same_file(self, catalogue: Catalogue) -> None:
        """macOS sends names in Unicode's form NFD. Names that differ in case are two files, as on Linux."""
        first = put(catalogue, unicodedata.normalize("NFC", "Übung é.pdf"))
        again = put(catalogue, unicodedata.normalize("NFD", "Übung é.pdf"), sha256="2")
        assert again.resource_id == first.resource_id
        assert again.name == "Übung é.pdf"
        assert put(catalogue, "übung é.pdf").resource_id != first.resource_id

    def test_known_content_stays_as_it_is_unless_it_failed(self, catalogue: Catalogue) -> None:
        resource = put(catalogue)
        claim(catalogue, resource)
        assert put(catalogue).status == "running"
        assert succeed(catalogue, resource, "copper")
        assert put(catalogue).status == "succeeded"
        other = put(catalogue, "b.pdf")
        fail(catalogue, other)
        again = put(catalogue, "b.pdf")
        assert (again.status, again.error, again.attempts, again.run_id) == ("pending", None, 0, None)
        assert statuses(catalogue)[other.resource_id] == "pending"

    def test_two_uploads_at_once(self, catalogue: Catalogue) -> None:
        """Of one name: one file. Of different names: different positions, which order the lectures."""
        names = ["a.pdf", "a.pdf", "b.pdf", "c.pdf", "d.pdf"]
        with ThreadPoolExecutor(len(names)) as threads:
            rows = list(threads.map(lambda name: put(catalogue, name), names))
        assert len({row.resource_id for row in rows}) == 4
        assert sorted({row.position for row in rows}) == [1, 2, 3, 4]

    @pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\\b", "a\nb", "a\0", "\ud800", "x" * 256])
    def test_name_that_is_not_allowed(self, catalogue: Catalogue, name: str) -> None:
        with pytest.raises(ValueError, match=r"must|is empty"):
            put(catalogue, name)

    def test_deleted_course(self, catalogue: Catalogue) -> None:
        with pytest.raises(NoSuchCourseError):
            put(catalogue, course_id="unknown")


class TestRuns:
    def test_claim_progress_and_success(self, catalogue: Catalogue) -> None:
        resource = put(catalogue)
        claimed = claim(catalogue, resource)
        assert (claimed.status, claimed.run_id) == ("running", "run")
        assert statuses(catalogue) == {resource.resource_id: "running"}
        with catalogue.session() as session:
            assert resources.claim(session, resource.resource_id, "other", NOW) is None
            assert resources.progress(session, claimed, 0.5, NOW)
        assert get(catalogue, resource.resource_id).progress == 0.5
        with catalogue.session() as session:
            assert resources.succeed(session, claimed, passages("copper", "tin"), source_type="pdf", now=NOW)
        row = get(catalogue, resource.resource_id)
        assert (row.status, row.progress, row.error, row.chunks, row.source_type) == ("succeeded", 1.0, None, 2, "pdf")
        assert statuses(catalogue) == {resource.resource_id: "succeeded"}
        with catalogue.session() as session:
            course = get_course(session, "c")
        assert course is not None
        assert course.embedding_due_since == NOW

    def test_a_run_takes_over_from_a_dead_one(self, catalogue: Catalogue) -> None:
        claimed = claim(catalogue, put(catalogue), "dead")
        with catalogue.session() as session:
            assert resources.claim(session, claimed.resource_id, "run", NOW, "another") is None
            assert resources.claim(session, claimed.resource_id, "run", NOW, "dead") is not None
            assert not resources.succeed(session, claimed, passages("x"), source_type="pdf", now=NOW)

    @pytest.mark.parametrize("change", ["uploaded again", "and claimed again", "deleted"])
    def test_a_run_writes_nothing_after_a_change(self, catalogue: Catalogue, change: str) -> None:
        """Also if the same run reads the new content later."""
        resource = put(catalogue)
        claimed = claim(catalogue, resource)
        if change == "deleted":
            with catalogue.session() as session:
                assert resources.delete_resource(session, resource.resource_id) is not None
        else:
            put(catalogue, sha256="2")
        if change == "and claimed again":
            claim(catalogue, resource)
        with catalogue.session() as session:
            before = resources.resources_of(session, "c")
            assert not resources.progress(session, claimed, 0.7, NOW)
            assert not resources.succeed(session, claimed, passages("old"), source_type="pdf", now=NOW)
            assert not resources.fail(session, claimed, "old", NOW)
            assert not resources.try_again(session, claimed, "old", NOW)
            assert not resources.release(session, claimed, NOW)
        with catalogue.session() as session:
            assert [r.model_dump() for r in resources.resources_of(session, "c")] == [r.model_dump() for r in before]
        assert chunks(catalogue) == []

    def test_temporary_failures_are_repeated_after_growing_pauses(self, catalogue: Catalogue) -> None:
        resource = put(catalogue)
        for attempt, pause in enumerate(RETRY_SECONDS, start=1):
            claimed = claim(catalogue, resource)
            with catalogue.session() as session:
                assert resources.try_again(session, claimed, "disk \0\ud800full", NOW)
            row = get(catalogue, resource.resource_id)
            assert (row.status, row.attempts, row.error) == ("pending", attempt, "disk �full")
            assert resources.next_attempt(row) == NOW + timedelta(seconds=pause)
        claimed = claim(catalogue, resource)
        with catalogue.session() as session:
            assert resources.try_again(session, claimed, "disk full", NOW)
        assert get(catalogue, resource.resource_id).status == "failed"
        again = put(catalogue)
        assert (again.attempts, resources.next_attempt(again)) == (0, NOW)

    def test_an_interruption_does_not_count(self, catalogue: Catalogue) -> None:
        claimed = claim(catalogue, put(catalogue))
        with catalogue.session() as session:
            assert resources.release(session, claimed, NOW)
            [row] = resources.active_resources(session)
        assert (row.status, row.attempts, resources.next_attempt(row)) == ("pending", 0, NOW)


class TestChunks:
    def test_columns_and_metadata(self, catalogue: Catalogue) -> None:
        put(catalogue, "first.pdf")
        resource = put(catalogue)
        claimed = claim(catalogue, resource)
        new = [
            NewChunk("a copper\0", 1, 1, "en", {"lecture_title": "Metals \ud800", "page": 3}),
            NewChunk("b tin", 1, 1, None, {}),
            NewChunk("c lead", 2, 1, None, {}),
        ]
        with catalogue.session() as session:
            assert resources.succeed(session, claimed, new, source_type="pdf", now=NOW)
        first, second, third = chunks(catalogue)
        rid = resource.resource_id
        assert first.text == "a copper"
        assert (first.course_id, first.language, first.source_type) == ("c", "en", "pdf")
        assert (first.lecture_id, first.section_id) == (f"{rid}-1", f"{rid}-1-1")
        assert first.extra == {
            "lecture_title": "Metals �",
            "page": 3,
            "order_in_section": 0,
            "lecture_number": "2.1",
            "file": "a.pdf",
            "resource_id": rid,
        }
        assert second.extra is not None
        assert third.extra is not None
        assert (second.extra["order_in_section"], third.extra["order_in_section"]) == (1, 0)
        assert (third.lecture_id, third.extra["lecture_number"]) == (f"{rid}-2", "2.2")

    def test_ids_depend_on_the_texts_only(self, catalogue: Catalogue) -> None:
        """So an edited file has few new chunks, and a repeated text has several."""
        resource = put(catalogue)
        assert succeed(catalogue, resource, "copper", "tin", "tin")
        before = {chunk.id: chunk.text for chunk in chunks(catalogue)}
        assert sorted(before.values()) == ["copper", "tin", "tin"]
        put(catalogue, sha256="2")
        assert succeed(catalogue, resource, "lead", "tin", "copper")
        after = {chunk.id: chunk.text for chunk in chunks(catalogue)}
        assert {content for chunk_id, content in after.items() if chunk_id not in before} == {"lead"}
        assert len(before.keys() & after.keys()) == 2

    def test_only_the_chunks_of_the_file_are_replaced_or_deleted(self, catalogue: Catalogue) -> None:
        catalogue.add_course("other", ["succeeded"], ["x other course"])
        one, two = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert succeed(catalogue, one, "b one")
        assert succeed(catalogue, two, *(f"c two {number}" for number in range(resources.BATCH + 1)))
        put(catalogue, "2.pdf", sha256="2")
        assert succeed(catalogue, two, "d new")
        assert [chunk.text for chunk in chunks(catalogue)] == ["b one", "d new", "x other course"]
        with catalogue.session() as session:
            deleted = resources.delete_resource(session, two.resource_id)
            assert resources.delete_resource(session, two.resource_id) is None
        assert deleted is not None
        assert (deleted.name, deleted.status) == ("2.pdf", "succeeded")
        assert [chunk.text for chunk in chunks(catalogue)] == ["b one", "x other course"]
        assert two.resource_id not in statuses(catalogue)

    def test_a_load_keeps_uploaded_files(self, catalogue: Catalogue, tmp_path: Path) -> None:
        """Their chunks, although they are not in its input, and their status."""
        done, waiting = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert succeed(catalogue, done, "tin")
        line = (
            b'{"id": "1", "course_id": "c", "lecture_id": null, "section_id": null, "order_in_section": 0, '
            b'"text": "copper", "language": null, "source_type": null}'
        )
        (tmp_path / "rows.jsonl").write_bytes(line)
        with catalogue.session() as session, (tmp_path / "rows.jsonl").open("rb") as rows:
            [course] = load(session, [("rows.jsonl", rows)], replace=True)
        assert (course.new, course.removed, course.chunks) == (1, 0, 2)
        assert statuses(catalogue) == {done.resource_id: "succeeded", waiting.resource_id: "pending", "c": "succeeded"}
        assert not is_ingested(catalogue)
        fail(catalogue, waiting)
        assert is_ingested(catalogue)


class TestIngestion:
    def test_a_failed_file_does_not_hold_up_the_others(self, catalogue: Catalogue) -> None:
        assert not is_ingested(catalogue)
        one, two = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert not is_ingested(catalogue)
        fail(catalogue, one)
        assert not is_ingested(catalogue), "the other one is pending"
        fail(catalogue, two)
        assert not is_ingested(catalogue), "nothing succeeded"
        assert succeed(catalogue, two, "copper")
        assert is_ingested(catalogue)
        claim(catalogue, one)
        assert not is_ingested(catalogue)

    def test_a_failed_new_content_keeps_the_old_chunks(self, catalogue: Catalogue) -> None:
        resource = put(catalogue)
        assert succeed(catalogue, resource, "copper")
        put(catalogue, sha256="2")
        fail(catalogue, resource)
        row = get(catalogue, resource.resource_id)
        assert (row.status, row.chunks, len(chunks(catalogue))) == ("failed", 1, 1)
        assert is_ingested(catalogue)

    @pytest.mark.parametrize(("status", "ingested"), [("succeeded", True), ("failed", False)])
    def test_resources_of_stage_one_must_all_succeed(self, catalogue: Catalogue, status: str, ingested: bool) -> None:
        catalogue.add_course("s", [status], ["tin"])
        fail(catalogue, put(catalogue, course_id="s"))
        assert is_ingested(catalogue, "s") == ingested


class TestDeletion:
    def publish(self, catalogue: Catalogue, course_id: str = "c") -> None:
        with catalogue.session() as session:
            assert course_state.claim_course(session, course_id, "run")
            assert course_state.publish(session, course_id, "run", "content")

    def test_course_without_its_last_passage_is_not_searchable(self, catalogue: Catalogue) -> None:
        """Whatever else was uploaded to it. A run that embeds it loses its claim."""
        one, two = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert succeed(catalogue, one, "copper")
        fail(catalogue, two)
        self.publish(catalogue)
        with catalogue.session() as session:
            assert course_state.claim_course(session, "c", "run")
            resources.delete_resource(session, one.resource_id)
            assert not course_state.publish(session, "c", "run", "content")
            course = get_course(session, "c")
        assert course is not None
        assert (course.embedding_status, course.embedding_fingerprint) == ("not_started", None)
        assert (course.embedding_run_id, course.embedding_generation) == (None, 2)

    def test_course_with_other_passages_stays_searchable(self, catalogue: Catalogue) -> None:
        one, two = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert succeed(catalogue, one, "copper")
        assert succeed(catalogue, two, "tin")
        self.publish(catalogue)
        with catalogue.session() as session:
            resources.delete_resource(session, one.resource_id)
            course = get_course(session, "c")
        assert course is not None
        assert course.embedding_status == "done"
        assert is_ingested(catalogue)

    def test_file_without_passages_withdraws_nothing(self, catalogue: Catalogue) -> None:
        """Stage one may be replacing the chunks of the course just then."""
        catalogue.add_course("s", ["succeeded"])
        resource = put(catalogue, course_id="s")
        self.publish(catalogue, "s")
        with catalogue.session() as session:
            resources.delete_resource(session, resource.resource_id)
            course = get_course(session, "s")
        assert course is not None
        assert course.embedding_status == "done"

    def test_files_of_a_deleted_course(self, catalogue: Catalogue) -> None:
        one, two = put(catalogue, "1.pdf"), put(catalogue, "2.pdf")
        assert succeed(catalogue, one, "copper")
        with catalogue.session() as session:
            assert resources.courses_without_row(session) == []
            assert resources.delete_resources_of(session, "c") == []
            course = get_course(session, "c")
            session.delete(course)
            session.flush()
            assert resources.courses_without_row(session) == ["c"]
            files = resources.delete_resources_of(session, "c")
            assert [file.resource_id for file in files] == [one.resource_id, two.resource_id]
            assert resources.courses_without_row(session) == []
        assert (list(chunks(catalogue)), statuses(catalogue)) == ([], {})


@pytest.mark.parametrize("value", ["\0", "\ud800", "unknown"])
def test_unknown_ids_find_nothing(catalogue: Catalogue, value: str) -> None:
    with catalogue.session() as session:
        assert resources.get_resource(session, value) is None
        assert resources.delete_resource(session, value) is None
        assert resources.resources_of(session, value) == resources.resources_by_id(session, [value]) == []
        assert resources.claim(session, "unknown", "run", NOW) is None
