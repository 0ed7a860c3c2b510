"""A course's chunks become its collection on a real Chroma server: exactly, cheaply, and whatever goes wrong."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.interface import Embeddings, Pause, no_pause
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from embedding.vector_store.indexing import EMBED_BATCH, EmptyCourseError, UnusableChunkError, VectorCheck, index_course
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import Vectors
from models.fingerprint import FingerprintBuilder
from models.tables import Chunk
from tests.support.indexed_course import DIMENSIONS, IndexedCourse, StubEmbedder, vector_of

pytestmark = pytest.mark.integration

NOT_FINITE = np.full(DIMENSIONS, np.nan, dtype=np.float32)
TOO_LONG = np.full(DIMENSIONS, 1.0, dtype=np.float32)
NOTHING = np.zeros(DIMENSIONS, dtype=np.float32)


@pytest.fixture
def embedder() -> StubEmbedder:
    return StubEmbedder()


@pytest.fixture
def course(vector_store: VectorStore, embedder: StubEmbedder) -> IndexedCourse:
    return IndexedCourse(vector_store, embedder, texts=[f"text {number}" for number in range(150)])


class TestOnlyWhatChanged:
    def test_a_new_course_is_embedded_as_a_whole(self, course: IndexedCourse) -> None:
        course.chunks["chunk-0003"].text = "a text too long for this model"
        finished: list[int] = []
        report = course.index(page_size=100, on_page=finished.append)
        assert course.held() == course.written()
        assert finished == [EMBED_BATCH, 100, 150]
        assert (report.stored, report.embedded, report.updated, report.removed, report.kept) == (150, 150, 0, 0, 0)
        assert (report.complete, report.sound, report.rebuilt, report.truncated) == (True, True, False, 1)
        assert report.vectors == VectorCheck(dimensions=8, expected_dimensions=8, checked=150, unsound=0)
        assert sorted(report.token_counts) == sorted(len(chunk.text) for chunk in course.chunks.values())
        assert report.tokens == sum(report.token_counts)
        assert [record.chunk_id for record in report.sample] == [f"chunk-000{number}" for number in range(5)]
        assert report.fingerprint == FingerprintBuilder().add_all(course.pages()).build("signature")

    def test_a_second_pass_writes_nothing(self, course: IndexedCourse) -> None:
        course.index()
        report = course.index(before_write=lambda: None)
        assert (course.embedder.embedded, report.kept, report.stored) == ([], 150, 150)
        assert report.vectors == VectorCheck(dimensions=8, expected_dimensions=8, checked=0, unsound=0)
        assert (report.complete, report.sound) == (True, True)

    def test_one_changed_text_of_a_thousand_is_one_text_to_embed(
        self, vector_store: VectorStore, embedder: StubEmbedder
    ) -> None:
        course = IndexedCourse(vector_store, embedder, texts=[f"text {number}" for number in range(1000)])
        course.index(page_size=500)
        course.chunks["chunk-0500"].text = "another"
        report = course.index(page_size=500)
        assert embedder.embedded == ["another"]
        assert (report.embedded, report.kept, report.complete) == (1, 999, True)
        assert course.held() == course.written()

    @pytest.mark.parametrize(
        ("field", "value"), [("lecture_id", "l2"), ("extra", {"order_in_section": 7}), ("section_id", None)]
    )
    def test_changed_metadata_alone_are_rewritten_not_embedded(
        self, course: IndexedCourse, field: str, value: Any
    ) -> None:
        for chunk in course.chunks.values():
            chunk.section_id = "s1"
        course.index()
        changed = course.chunks["chunk-0042"]
        setattr(changed, field, value)
        report = course.index()
        assert (course.embedder.embedded, report.updated, report.kept, report.complete) == ([], 1, 149, True)
        [(found, cosine)] = course.collection.query(vector_of(changed.text), 1, {})
        expected = {"lecture_id": changed.lecture_id, "section_id": changed.section_id, **(changed.extra or {})}
        assert (found.chunk_id, found.text) == ("chunk-0042", "text 42")
        assert cosine == pytest.approx(1.0)
        assert found.metadata.items() >= expected.items()
        assert course.index().kept == 150

    def test_vanished_chunks_are_removed(self, course: IndexedCourse) -> None:
        course.index()
        for number in (0, 70, 149):
            del course.chunks[f"chunk-{number:04}"]
        report = course.index()
        assert (course.embedder.embedded, report.removed, report.kept, report.complete) == ([], 3, 147, True)
        assert course.held() == course.written()

    def test_an_interrupted_course_is_taken_up_where_it_stopped(self, course: IndexedCourse) -> None:
        def stop(finished: int) -> None:
            if finished == 100:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            course.index(on_page=stop)
        assert course.collection.count() == 100
        assert course.index().embedded == 50
        assert course.held() == course.written()

    def test_another_model_builds_the_collection_anew(self, course: IndexedCourse) -> None:
        course.index()
        course.embedder = StubEmbedder("another signature")
        report = course.index()
        assert (report.embedded, report.rebuilt, report.complete) == (150, True, True)
        assert course.collection.info.model_signature == "another signature"

    def test_records_of_the_previous_version_are_kept_until_they_change(self, course: IndexedCourse) -> None:
        course.index()
        ids = list(course.chunks)
        course.collection._collection.update(ids=ids, metadatas=[{"text_hash": None} for _ in ids])
        course.chunks["chunk-0007"].lecture_id = "l2"
        report = course.index()
        assert (course.embedder.embedded, report.kept) == (["text 7"], 149)
        assert course.held() == course.written()

    def test_a_course_without_chunks_leaves_its_collection_alone(self, course: IndexedCourse) -> None:
        course.index()
        course.chunks = {}
        with pytest.raises(EmptyCourseError):
            course.index()
        assert course.collection.count() == 150

    @settings(max_examples=15, deadline=None)
    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from("abcdefgh"), st.tuples(st.sampled_from("xyz"), st.sampled_from("12")), min_size=1
            ),
            min_size=2,
            max_size=4,
        ),
        st.integers(1, 4),
    )
    def test_after_any_edits_the_collection_equals_the_catalogue(
        self, chroma_url: str, editions: list[dict[str, tuple[str, str]]], page_size: int
    ) -> None:
        """And exactly the new and changed texts were embedded, the moved chunks updated, the vanished removed."""
        with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
            course = IndexedCourse(store, StubEmbedder())
            before: dict[str, tuple[str, str]] = {}
            for edition in editions:
                course.chunks = {
                    chunk_id: course.chunk(chunk_id, text, lecture_id=lecture)
                    for chunk_id, (text, lecture) in edition.items()
                }
                report = course.index(page_size=page_size)
                assert course.held() == edition
                new = [text for chunk_id, (text, _) in edition.items() if before.get(chunk_id, ("", ""))[0] != text]
                kept = edition.items() & before.items()
                assert sorted(course.embedder.embedded) == sorted(new)
                assert (report.embedded, report.updated, report.kept, report.removed) == (
                    len(new),
                    len(edition) - len(new) - len(kept),
                    len(kept),
                    len(before.keys() - edition.keys()),
                )
                assert (report.complete, report.sound) == (True, True)
                before = edition


class TestWhatIsWrittenIsChecked:
    @pytest.mark.parametrize("wrong", [NOT_FINITE, TOO_LONG, NOTHING], ids=["not finite", "too long", "nothing"])
    def test_a_wrong_vector_is_not_stored_and_made_again_the_next_time(
        self, course: IndexedCourse, wrong: Vectors
    ) -> None:
        course.embedder.wrong = {"text 70": wrong}
        report = course.index()
        assert (report.complete, report.sound, report.stored) == (False, False, 149)
        assert (report.vectors.checked, report.vectors.unsound) == (150, 1)
        course.embedder.wrong = {}
        report = course.index()
        assert (course.embedder.embedded, report.complete, report.sound) == (["text 70"], True, True)
        assert course.held() == course.written()

    def test_a_vanished_chunk_does_not_make_up_for_a_wrong_vector(self, course: IndexedCourse) -> None:
        course.index()
        del course.chunks["chunk-0000"]
        course.chunks["chunk-0001"].text = "changed"
        course.embedder.wrong = {"changed": NOT_FINITE}
        report = course.index()
        assert (report.stored, report.complete, report.removed) == (148, False, 1)

    def test_vectors_of_another_size_than_the_model_says(self, course: IndexedCourse) -> None:
        course.embedder.dimensions = 9
        report = course.index()
        assert (report.complete, report.sound, report.stored, report.vectors.unsound) == (False, False, 0, 150)

    def test_what_chroma_stored_otherwise_is_taken_out_again(
        self, course: IndexedCourse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upsert = CourseCollection.upsert

        def garble(collection: CourseCollection, records: Sequence[Record], vectors: Vectors) -> None:
            first = Record(records[0].chunk_id, "garbled", records[0].metadata, records[0].content_hash)
            lost_the_third = [first, records[1], *records[3:]]
            moved = np.concatenate([vectors[:1], -vectors[1:2], vectors[3:]])
            upsert(collection, lost_the_third, moved)

        monkeypatch.setattr(CourseCollection, "upsert", garble)
        report = course.index(page_size=150)
        assert (report.complete, report.sound, report.stored, report.vectors.unsound) == (False, False, 141, 9)
        monkeypatch.undo()
        assert course.index().embedded == 9
        assert course.held() == course.written()

    def test_lost_updates_are_noticed(self, course: IndexedCourse, monkeypatch: pytest.MonkeyPatch) -> None:
        course.index()
        course.chunks["chunk-0005"].lecture_id = "l2"
        monkeypatch.setattr(CourseCollection, "update", lambda collection, records: None)
        report = course.index()
        assert (report.updated, report.complete, report.sound) == (1, False, False)


def lose() -> None:
    raise PermissionError


class TestOwnership:
    """A run that was frozen while another took its course over must not write when it wakes up."""

    def test_nothing_is_written_once_ownership_is_lost(self, course: IndexedCourse) -> None:
        """It is lost while the model works, when nobody asks."""
        course.index()
        course.chunks["chunk-0005"].text = "changed"
        owns = True

        def embed(
            texts: Sequence[str], on_progress: Callable[[int], None] | None = None, pause: Pause = no_pause
        ) -> Embeddings:
            nonlocal owns
            owns = False
            return StubEmbedder().embed_documents(texts)

        course.embedder.embed_documents = embed  # type: ignore[method-assign]
        before = course.held()
        with pytest.raises(PermissionError):
            course.index(before_write=lambda: None if owns else lose())
        assert course.held() == before

    @pytest.mark.parametrize("edit", ["a changed lecture", "a vanished chunk", "another model"])
    def test_it_is_asked_before_every_kind_of_write(self, course: IndexedCourse, edit: str) -> None:
        course.index()
        before = course.held()
        if edit == "a changed lecture":
            course.chunks["chunk-0005"].lecture_id = "l2"
        elif edit == "a vanished chunk":
            del course.chunks["chunk-0005"]
        else:
            course.embedder = StubEmbedder("another signature")
        questions = 0

        def lose_after_the_first() -> None:
            nonlocal questions
            questions += 1
            if questions > 1:  # the first is asked before the collection is opened, which may create it
                raise PermissionError

        with pytest.raises(PermissionError):
            course.index(before_write=lose_after_the_first)
        assert course.held() == before

    def test_no_collection_is_made_for_somebody_else(self, course: IndexedCourse) -> None:
        with pytest.raises(PermissionError):
            course.index(before_write=lose)
        with pytest.raises(CollectionNotFoundError):
            _ = course.collection


class TestBadChunks:
    def test_what_chroma_and_json_refuse_is_stored_harmlessly(self, course: IndexedCourse) -> None:
        nested: Any = 1
        for _ in range(400):
            nested = {"a": nested}
        course.chunks["chunk-0000"].extra = {"order_in_section": 2**70, "half": "\ud800", "\udfff": [float("nan")]}
        course.chunks["chunk-0001"].extra = {"order_in_section": float("nan")}
        course.chunks["chunk-0002"].extra = {"order_in_section": 2**63}
        course.chunks["chunk-0003"].extra = {"nested": nested}
        course.chunks["chunk-0004"].text = "half \ud800 a pair"
        course.chunks["chunk-0005"].section_id = "\udc00"
        course.chunks["chunk-0006"].text = ""
        course.chunks["chunk-0007"].text = None  # type: ignore[assignment]
        course.chunks["chunk-0008"].text = "NUL \0"
        assert course.index().complete
        assert course.index().kept == 150
        records = {record.chunk_id: record for page, _ in course.collection.contents() for record in page}
        first = records["chunk-0000"].metadata
        assert (first["order_in_section"], first["half"], first["\ufffd"]) == (2**70, "\ufffd", [None])
        assert records["chunk-0001"].metadata["order_in_section"] is None
        assert str(records["chunk-0002"].metadata["order_in_section"]) == str(2**63)  # no float
        assert records["chunk-0004"].text == "half \ufffd a pair"
        assert records["chunk-0005"].metadata["section_id"] == "\ufffd"
        assert [records[f"chunk-000{number}"].text for number in (6, 7, 8)] == ["", "", "NUL \0"]

    @pytest.mark.parametrize("chunk_id", ["", "\ud800"])
    def test_a_chunk_without_a_proper_id(self, course: IndexedCourse, chunk_id: str) -> None:
        course.chunks[chunk_id] = course.chunk(chunk_id, "text")
        with pytest.raises(
            UnusableChunkError, match=f"course {course.id} has no proper id: {chunk_id!r}".replace("\\", "\\\\")
        ):
            course.index()

    def test_a_course_without_an_id(self, vector_store: VectorStore, embedder: StubEmbedder) -> None:
        with pytest.raises(ValueError, match="course id must not be empty"):
            index_course("", [[Chunk(id="1", course_id="", text="x")]], vector_store, embedder, lambda _: None)
