"""A text is embedded once: its vector is found in this course or in another, on a real Chroma server."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from threading import Barrier, Thread
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from embedding.vector_store.collections import CollectionInfo, CourseCollection, StoredVector, VectorStore
from embedding.vector_store.embedded_texts import MAX_FAILURES, EmbeddedTexts
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.indexing import EMBED_BATCH, IndexReport, record_of
from embedding.vector_store.server import VectorStoreSettings
from models.context import RECIPE, ContextFields
from models.database import Session, transaction
from models.embedded_texts import delete_texts, text_key
from models.tables import EmbeddedText
from tests.support.courses import empty_catalogue
from tests.support.indexed_course import DIMENSIONS, IndexedCourse, StubEmbedder, vector_of

pytestmark = pytest.mark.integration

T = TypeVar("T")
TEXTS = [f"text {number}" for number in range(100)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A catalogue for all tests of this file: each test has a model signature of its own."""
    engine = empty_catalogue(tmp_path_factory.mktemp("catalogue") / "catalogue.db")
    yield engine
    engine.dispose()


@pytest.fixture
def embedder() -> StubEmbedder:
    return StubEmbedder(str(uuid4()))


Create = Callable[..., IndexedCourse]


@pytest.fixture
def create(vector_store: VectorStore, embedder: StubEmbedder) -> Create:
    """Creates a course with these texts."""
    return lambda texts=TEXTS: IndexedCourse(vector_store, embedder, texts)


def known_to(course: IndexedCourse, engine: Engine, **arguments: Any) -> EmbeddedTexts:
    def transact(operation: Callable[[Session], T], /) -> T:
        with transaction(engine) as session:
            return operation(session)

    return EmbeddedTexts(course.id, transact, course.store, **arguments)


def index(course: IndexedCourse, engine: Engine, **arguments: Any) -> IndexReport:
    return course.index(**{"embedded_texts": known_to(course, engine), "page_size": 40, **arguments})


def figures(report: IndexReport) -> tuple[int, int, int]:
    assert (report.complete, report.sound) == (True, True)
    return report.embedded, report.reused, report.reused_from_other_courses


def entries(engine: Engine, course: IndexedCourse) -> dict[str, int]:
    with transaction(engine) as session:
        query = select(EmbeddedText.chunk_id, EmbeddedText.text_key).where(EmbeddedText.course_id == course.id)  # type: ignore[call-overload]
        return dict(session.execute(query).all())


def forget(engine: Engine, course_id: str) -> None:
    with transaction(engine) as session:
        delete_texts(session, course_id)


def expected_entries(course: IndexedCourse) -> dict[str, int]:
    return {
        chunk.id: text_key(course.embedder.signature, record_of(chunk, "").text_hash)
        for chunk in course.chunks.values()
    }


def vectors_of(course: IndexedCourse) -> dict[str, Any]:
    """Vectors by text."""
    return {
        record.text: vector
        for records, vectors in course.collection.contents()
        for record, vector in zip(records, vectors, strict=True)
    }


class TestTerms:
    def test_a_copy_embeds_nothing(self, create: Create, engine: Engine) -> None:
        first, copy, copy_of_the_copy = create(), create(), create()
        assert figures(index(first, engine)) == (100, 0, 0)
        finished: list[int] = []
        report = index(copy, engine, on_page=finished.append)
        assert figures(report) == (0, 100, 100)
        assert (report.tokens, report.kept, report.vectors.checked) == (0, 0, 100)
        assert finished == [40, 80, 100], "progress although nothing is embedded"
        first.store.delete(first.id)
        assert figures(index(copy_of_the_copy, engine)) == (0, 100, 100)
        assert copy.stored() == copy.expected()
        original = vectors_of(copy)
        again = vectors_of(copy_of_the_copy)
        # Chroma may return a vector whose last bit differs from what was written.
        assert max(np.abs(vector - original[text]).max() for text, vector in again.items()) < 1e-7

    def test_the_next_edition_embeds_what_has_changed(self, create: Create, engine: Engine) -> None:
        first = create()
        index(first, engine)
        edition = create([*TEXTS[10:90], "new", "changed"])
        assert figures(index(edition, engine)) == (2, 80, 80)
        assert edition.embedder.embedded == ["new", "changed"]
        assert edition.stored() == edition.expected()
        assert figures(index(edition, engine)) == (0, 0, 0)

    def test_a_new_model_embeds_each_distinct_text_once(self, create: Create, engine: Engine) -> None:
        courses = [create(), create(), create([*TEXTS[:50], "other"])]
        for course in courses:
            index(course, engine)
        new_model = StubEmbedder(str(uuid4()))
        reports = []
        for course in courses:
            course.embedder = new_model
            reports.append(index(course, engine))
        assert [report.rebuilt for report in reports] == [True] * 3
        assert list(map(figures, reports)) == [(100, 0, 0), (0, 100, 100), (1, 50, 50)]
        for course in courses:
            assert course.stored() == course.expected()
            assert entries(engine, course) == expected_entries(course)

    def test_chunks_with_new_ids_keep_their_vectors(self, create: Create, engine: Engine) -> None:
        """Stage one may read a file again, and give its chunks other ids. Other courses are not read."""
        course, copy = create(), create()
        index(course, engine)
        index(copy, engine)
        course.chunks = {
            f"again-{number:04}": course.chunk(f"again-{number:04}", TEXTS[number]) for number in range(90)
        }
        report = index(course, engine)
        assert figures(report) == (0, 90, 0)
        assert report.removed == 100
        assert course.stored() == course.expected()
        assert entries(engine, course) == expected_entries(course)

    def test_equal_texts_are_embedded_once(self, create: Create, engine: Engine) -> None:
        """In one batch, in one page, and in different pages."""
        course = create(["same", *TEXTS[:60], "same", *TEXTS[60:], "same"])
        assert figures(index(course, engine, page_size=70)) == (101, 2, 0)
        assert course.stored() == course.expected()
        without_index = create(["same", "other", "same"])
        assert figures(without_index.index()) == (2, 1, 0)
        assert without_index.stored() == without_index.expected()

    def test_texts_of_many_courses_are_put_together(self, create: Create, engine: Engine) -> None:
        parts = [create(TEXTS[start : start + 20]) for start in range(0, 100, 20)]
        for part in parts:
            index(part, engine)
        course = create()
        assert figures(index(course, engine, page_size=500)) == (0, 100, 100)
        assert course.stored() == course.expected()

    def test_the_context_is_part_of_a_text(self, create: Create, engine: Engine) -> None:
        first, copy = create(), create()
        for course, title in ((first, "Heaps"), (copy, "Trees")):
            for number in range(3):
                course.chunks[f"chunk-{number:04}"].extra = {"section_title": title}
        fields = ContextFields(("section_title",))
        index(first, engine, context_fields=fields)
        assert figures(index(copy, engine, context_fields=fields)) == (3, 97, 97)
        disguised = create([record_text := f'["{RECIPE}", "Heaps", "text 0"]'])
        assert figures(index(disguised, engine, context_fields=fields)) == (1, 0, 0)
        np.testing.assert_allclose(vectors_of(disguised)[record_text], vector_of(record_text), atol=1e-6)


class TestIndex:
    def test_entries_are_those_of_the_present_chunks(self, create: Create, engine: Engine) -> None:
        course = create()
        index(course, engine)
        assert entries(engine, course) == expected_entries(course)
        del course.chunks["chunk-0007"]
        course.chunks["chunk-0008"].text = "changed"
        course.chunks["chunk-0009"].lecture_id = "l2"
        index(course, engine)
        assert entries(engine, course) == expected_entries(course)

    def test_a_pass_that_changes_nothing_completes_the_index(self, create: Create, engine: Engine) -> None:
        course = create()
        course.index()
        assert entries(engine, course) == {}
        assert figures(index(course, engine)) == (0, 0, 0)
        assert entries(engine, course) == expected_entries(course)

    def test_a_killed_pass_leaves_what_it_has_embedded_to_others(self, create: Create, engine: Engine) -> None:
        killed, copy = create(), create()

        def kill(finished: int) -> None:
            if finished == 80:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            index(killed, engine, on_page=kill)
        assert len(entries(engine, killed)) == 40, "of the pages that were completed"
        assert figures(index(copy, engine)) == (60, 40, 40)
        assert figures(index(killed, engine)) == (0, 20, 20)
        for course in (killed, copy):
            assert course.stored() == course.expected()
            assert entries(engine, course) == expected_entries(course)

    def test_a_rebuild_takes_nothing_from_others(self, create: Create, engine: Engine) -> None:
        course, copy = create(["same", *TEXTS, "same"]), create()
        course.embedder.wrong = {text: vector_of("wrong") for text in TEXTS}
        index(course, engine)
        index(copy, engine)
        course.embedder.wrong = {}
        course.store.delete(course.id)
        forget(engine, course.id)
        only_own = known_to(course, engine, only_own=True)
        assert figures(index(course, engine, embedded_texts=only_own)) == (101, 1, 0)
        assert course.stored() == course.expected()

    @settings(max_examples=8, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from((0, 1)),
                st.dictionaries(
                    st.sampled_from("abcdefgh"), st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("12")), min_size=1
                ),
            ),
            min_size=2,
            max_size=4,
        ),
        st.integers(1, 4),
    )
    def test_collections_equal_the_catalogue_after_any_edits(
        self,
        chroma_url: str,
        engine: Engine,
        edits: list[tuple[int, dict[str, tuple[str, str]]]],
        page_size: int,
    ) -> None:
        """Only new texts are embedded, only changed lectures updated, only deleted chunks removed."""
        with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
            embedder = StubEmbedder(str(uuid4()))
            courses = [IndexedCourse(store, embedder) for _ in range(2)]
            versions: list[dict[str, tuple[str, str]]] = [{}, {}]
            for number, version in edits:
                course, before = courses[number], versions[number]
                course.chunks = {
                    chunk_id: course.chunk(chunk_id, text, lecture_id=lecture)
                    for chunk_id, (text, lecture) in version.items()
                }
                report = index(course, engine, page_size=page_size)
                assert course.stored() == version
                assert entries(engine, course) == expected_entries(course)
                stored = {text for known in versions for text, _ in known.values()}
                new = [text for chunk_id, (text, _) in version.items() if before.get(chunk_id, ("", ""))[0] != text]
                assert set(new) - stored <= set(embedder.embedded) <= set(new)
                assert len(embedder.embedded) == len(set(embedder.embedded))
                kept = version.items() & before.items()
                assert (report.embedded + report.reused, report.updated, report.kept, report.removed) == (
                    len(new),
                    len(version) - len(new) - len(kept),
                    len(kept),
                    len(before.keys() - version.keys()),
                )
                assert (report.complete, report.sound) == (True, True)
                versions[number] = version


def delete_collection(course: IndexedCourse) -> None:
    course.store.delete(course.id)


def change_texts(course: IndexedCourse) -> None:
    """The collection has other texts under the same ids."""
    for chunk in course.chunks.values():
        chunk.text = f"other {chunk.text}"
    course.index()


def change_model(course: IndexedCourse) -> None:
    embedder, course.embedder = course.embedder, StubEmbedder("another signature")
    course.index()
    course.embedder = embedder


def write_vectors(course: IndexedCourse, vectors: Any) -> None:
    records = [record_of(chunk, "") for chunk in course.chunks.values()]
    course.store.delete(course.id)
    collection = course.store.create(CollectionInfo(course.id, "stub", course.embedder.signature))
    collection.upsert(records, np.asarray(vectors, np.float32))


def change_dimensions(course: IndexedCourse) -> None:
    write_vectors(course, np.eye(100, DIMENSIONS + 1) + np.eye(100, DIMENSIONS + 1, -DIMENSIONS))


class TestWrongEntries:
    @pytest.mark.parametrize("change", [delete_collection, change_texts, change_model, change_dimensions])
    def test_a_wrong_entry_costs_an_embedding(
        self, create: Create, engine: Engine, change: Callable[[IndexedCourse], None]
    ) -> None:
        source, copy = create(), create()
        index(source, engine)
        change(source)
        assert figures(index(copy, engine)) == (100, 0, 0)
        assert copy.stored() == copy.expected()

    def test_an_entry_of_a_wrong_chunk_costs_an_embedding(self, create: Create, engine: Engine) -> None:
        source, copy = create(), create(TEXTS[1:])
        index(source, engine)
        chunks = list(source.chunks.values())[1:]
        with transaction(engine) as session:
            for chunk, other in zip(chunks, [*chunks[1:], chunks[0]], strict=True):
                entry = session.get_one(EmbeddedText, (source.id, chunk.id))
                entry.text_key = text_key(source.embedder.signature, record_of(other, "").text_hash)
        assert figures(index(copy, engine)) == (99, 0, 0)
        assert copy.stored() == copy.expected()

    def test_a_record_that_is_written_while_it_is_read_costs_an_embedding(
        self, create: Create, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Chroma reads hashes and vectors one after the other, so they may belong to two versions of a record."""
        source, copy = create(), create()
        index(source, engine)
        read = CourseCollection.stored_vectors

        def read_during_a_write(collection: CourseCollection, chunk_ids: Sequence[str]) -> dict[str, StoredVector]:
            before = read(collection, chunk_ids)
            change_texts(source)
            after = read(collection, chunk_ids)
            return {chunk_id: stored._replace(vector=after[chunk_id].vector) for chunk_id, stored in before.items()}

        monkeypatch.setattr(CourseCollection, "stored_vectors", read_during_a_write)
        assert figures(index(copy, engine)) == (100, 0, 0)
        assert copy.stored() == copy.expected()

    def test_without_the_index_everything_is_embedded(self, create: Create, engine: Engine) -> None:
        source, copy = create(), create()
        index(source, engine)
        forget(engine, source.id)
        assert figures(index(copy, engine)) == (100, 0, 0)


class TestUnreadableCollections:
    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The courses whose vectors were read, which fails."""
        reads: list[str] = []

        def fail(collection: CourseCollection, chunk_ids: object) -> Any:
            reads.append(collection.info.course_id)
            raise VectorStoreError("Chroma failed: Error loading hnsw index")

        monkeypatch.setattr(CourseCollection, "stored_vectors", fail)
        return reads

    def test_texts_are_embedded_and_few_collections_are_tried(
        self, create: Create, engine: Engine, reads: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each attempt takes seconds. `reads` has each course once, because the run remembers it."""
        for _ in range(MAX_FAILURES + 2):
            source = create()
            source.index()
            index(source, engine)
        unreadable: set[str] = set()
        for number in (1, 2):
            copy = create()
            report = index(copy, engine, embedded_texts=known_to(copy, engine, unreadable=unreadable))
            assert (report.embedded, report.reused, report.complete) == (100, 0, True)
            assert copy.stored() == copy.expected()
            assert len(reads) == len(unreadable) == min(number * MAX_FAILURES, MAX_FAILURES + 3)
        assert "cannot be used for another course: Chroma failed" in caplog.text


def test_server_that_does_not_answer_is_asked_once_in_a_pass(
    create: Create, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has waited for it already."""
    sources = [create(), create()]
    for source in sources:
        source.index()
        index(source, engine)
    copy, unreadable, tried = create(), set[str](), 0

    def fail(*_: object) -> Any:
        nonlocal tried
        tried += 1
        raise VectorStoreUnreachableError("Chroma does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(CourseCollection, "stored_vectors", fail)
        report = index(copy, engine, embedded_texts=known_to(copy, engine, unreadable=unreadable))
    assert (report.embedded, tried, len(unreadable)) == (100, 1, 1)
    assert "the pass looks for no others: Chroma does not answer" in caplog.text


def test_copies_that_are_embedded_at_the_same_time_are_complete(create: Create, engine: Engine) -> None:
    """Each may take what the other one has finished."""
    copies = [create(TEXTS * 2), create(TEXTS * 2)]
    barrier = Barrier(len(copies))
    reports: dict[str, IndexReport] = {}

    def run(course: IndexedCourse) -> None:
        course.embedder = StubEmbedder(course.embedder.signature)
        barrier.wait()
        reports[course.id] = index(course, engine, page_size=EMBED_BATCH)

    threads = [Thread(target=run, args=(course,)) for course in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for course in copies:
        report = reports[course.id]
        assert (report.complete, report.sound) == (True, True)
        assert report.embedded <= 100
        assert course.stored() == course.expected()
        assert entries(engine, course) == expected_entries(course)
