"""Indexing a course into a collection on a real Chroma server."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from embedding.interface import Embeddings, Pause, no_pause
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from embedding.vector_store.indexing import (
    EMBED_BATCH,
    EmptyCourseError,
    IndexReport,
    UnusableChunkError,
    VectorCheck,
    index_course,
)
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.context import VECTOR_WEIGHT, ContextFields
from models.fingerprint import FingerprintBuilder
from models.tables import Chunk
from tests.support.indexed_course import DIMENSIONS, IndexedCourse, StubEmbedder, vector_of

pytestmark = pytest.mark.integration

NOT_FINITE = np.full(DIMENSIONS, np.nan, dtype=np.float32)
NOT_UNIT = np.full(DIMENSIONS, 1.0, dtype=np.float32)
ZERO = np.zeros(DIMENSIONS, dtype=np.float32)


@pytest.fixture
def embedder() -> StubEmbedder:
    return StubEmbedder()


@pytest.fixture
def course(vector_store: VectorStore, embedder: StubEmbedder) -> IndexedCourse:
    return IndexedCourse(vector_store, embedder, texts=[f"text {number}" for number in range(150)])


class TestIncrementalIndexing:
    def test_new_course_is_embedded_completely(self, course: IndexedCourse) -> None:
        course.chunks["chunk-0003"].text = "a text too long for this model"
        finished: list[int] = []
        report = course.index(page_size=100, on_page=finished.append)
        assert course.stored() == course.expected()
        assert finished == [EMBED_BATCH, 100, 150]
        assert (report.stored, report.embedded, report.updated, report.removed, report.kept) == (150, 150, 0, 0, 0)
        assert (report.complete, report.sound, report.rebuilt, report.truncated) == (True, True, False, 1)
        assert report.vectors == VectorCheck(dimensions=8, expected_dimensions=8, checked=150, unsound=0)
        assert sorted(report.token_counts) == sorted(len(chunk.text) for chunk in course.chunks.values())
        assert report.tokens == sum(report.token_counts)
        assert report.fingerprint == FingerprintBuilder().add_all(course.pages()).build("signature")

    def test_second_pass_embeds_nothing(self, course: IndexedCourse) -> None:
        course.index()
        report = course.index(before_write=lambda: None)
        assert (course.embedder.embedded, report.kept, report.stored) == ([], 150, 150)
        assert report.vectors == VectorCheck(dimensions=8, expected_dimensions=8, checked=0, unsound=0)
        assert (report.complete, report.sound) == (True, True)

    def test_only_the_changed_text_is_embedded(self, vector_store: VectorStore, embedder: StubEmbedder) -> None:
        course = IndexedCourse(vector_store, embedder, texts=[f"text {number}" for number in range(1000)])
        course.index(page_size=500)
        course.chunks["chunk-0500"].text = "another"
        report = course.index(page_size=500)
        assert embedder.embedded == ["another"]
        assert (report.embedded, report.kept, report.complete) == (1, 999, True)
        assert course.stored() == course.expected()

    @pytest.mark.parametrize(
        ("field", "value"), [("lecture_id", "l2"), ("extra", {"order_in_section": 7}), ("section_id", None)]
    )
    def test_changed_metadata_are_updated_without_embedding(
        self, course: IndexedCourse, field: str, value: Any
    ) -> None:
        for chunk in course.chunks.values():
            chunk.section_id = "s1"
        course.index()
        changed = course.chunks["chunk-0042"]
        setattr(changed, field, value)
        report = course.index()
        assert (course.embedder.embedded, report.updated, report.kept, report.complete) == ([], 1, 149, True)
        [(records, vectors)] = course.collection.contents()
        [(hit, vector)] = [
            (hit, vector) for hit, vector in zip(records, vectors, strict=True) if hit.chunk_id == changed.id
        ]
        expected = {"lecture_id": changed.lecture_id, "section_id": changed.section_id, **(changed.extra or {})}
        assert hit.text == "text 42"
        np.testing.assert_allclose(vector, vector_of(changed.text), atol=1e-6)
        assert hit.metadata.items() >= expected.items()
        assert course.index().kept == 150

    def test_records_of_deleted_chunks_are_removed(self, course: IndexedCourse) -> None:
        course.index()
        for number in (0, 70, 149):
            del course.chunks[f"chunk-{number:04}"]
        report = course.index()
        assert (course.embedder.embedded, report.removed, report.kept, report.complete) == ([], 3, 147, True)
        assert course.stored() == course.expected()

    def test_pass_after_an_interruption_embeds_the_rest(self, course: IndexedCourse) -> None:
        def stop(finished: int) -> None:
            if finished == 100:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            course.index(on_page=stop)
        assert course.collection.count() == 100
        assert course.index().embedded == 50
        assert course.stored() == course.expected()

    def test_other_model_rebuilds_the_collection(self, course: IndexedCourse) -> None:
        course.index()
        course.embedder = StubEmbedder("another signature")
        report = course.index()
        assert (report.embedded, report.rebuilt, report.complete) == (150, True, True)
        assert course.collection.info.model_signature == "another signature"

    def test_another_name_of_the_same_model_embeds_nothing(self, course: IndexedCourse) -> None:
        course.index()
        course.embedder.name = "another name"
        assert course.index().kept == 150

    def test_records_without_text_hash_are_kept_until_they_change(self, course: IndexedCourse) -> None:
        course.index()
        ids = list(course.chunks)
        chroma_collection = course.store.connect().get_collection(course.collection.name, embedding_function=None)
        chroma_collection.update(ids=ids, metadatas=[{"text_hash": None} for _ in ids])
        course.chunks["chunk-0007"].lecture_id = "l2"
        report = course.index()
        assert (course.embedder.embedded, report.kept) == (["text 7"], 149)
        assert course.stored() == course.expected()

    def test_course_without_chunks_keeps_its_collection(self, course: IndexedCourse) -> None:
        course.index()
        course.chunks = {}
        with pytest.raises(EmptyCourseError):
            course.index()
        assert course.collection.count() == 150


class TestContexts:
    @pytest.fixture
    def titled(self, course: IndexedCourse) -> IndexedCourse:
        """Chunks 0 to 2 have titles."""
        for number, title in enumerate(("Heaps", "Heaps", "Trees")):
            course.chunks[f"chunk-{number:04}"].extra = {"lecture_title": "Lecture", "section_title": title}
        return course

    def index(self, course: IndexedCourse, *names: str) -> IndexReport:
        return course.index(context_fields=ContextFields(names))

    def test_titles_move_the_vector_and_not_the_text(self, titled: IndexedCourse) -> None:
        report = self.index(titled, "lecture_title", "section_title")
        assert (report.embedded, report.complete, report.sound) == (150, True, True)
        assert report.tokens == sum(len(chunk.text) for chunk in titled.chunks.values()), "titles are not counted"
        assert sorted(titled.embedder.embedded[EMBED_BATCH : EMBED_BATCH + 3]) == ["Heaps", "Lecture", "Trees"]
        [(records, vectors)] = titled.collection.contents()
        assert [record.context for record in records[:4]] == [
            "Lecture > Heaps",
            "Lecture > Heaps",
            "Lecture > Trees",
            "",
        ]
        assert [record.text for record in records] == [chunk.text for chunk in titled.chunks.values()]
        for record, vector in zip(records, vectors, strict=True):
            expected = vector_of(record.text)
            if record.context:
                titles = vector_of(record.context[10:]) + vector_of("Lecture") / 4
                expected += np.float32(VECTOR_WEIGHT) * titles
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)

    def test_changed_title_embeds_only_its_chunk(self, titled: IndexedCourse) -> None:
        self.index(titled, "section_title")
        titled.chunks["chunk-0001"].extra = {"section_title": "Queues"}
        report = self.index(titled, "section_title")
        assert titled.embedder.embedded == ["text 1", "Queues"]
        assert (report.embedded, report.kept) == (1, 149)
        titled.chunks["chunk-0001"].extra = {"section_title": "Queues", "page": 3}
        assert (self.index(titled, "section_title").updated, titled.embedder.embedded) == (1, [])

    def test_other_fields_embed_only_chunks_with_another_context(self, titled: IndexedCourse) -> None:
        """Also from no context to some and back, as after an upgrade."""
        without = titled.index().fingerprint
        embedded = self.index(titled, "section_title")
        assert titled.embedder.embedded == ["text 0", "text 1", "text 2", "Heaps", "Trees"]
        assert embedded.fingerprint == FingerprintBuilder(ContextFields(("section_title",))).add_all(
            titled.pages()
        ).build("signature")
        assert (embedded.fingerprint.content == without.content, embedded.fingerprint.model) == (False, without.model)
        assert self.index(titled, "no_such_field").fingerprint == without
        assert titled.embedder.embedded == ["text 0", "text 1", "text 2"]
        assert titled.stored() == titled.expected()

    def test_title_that_moves_between_text_and_metadata_is_embedded(self, course: IndexedCourse) -> None:
        course.chunks["chunk-0000"].text = "Heaps\ntext 0"
        self.index(course, "section_title")
        course.chunks["chunk-0000"].text, course.chunks["chunk-0000"].extra = "text 0", {"section_title": "Heaps"}
        report = self.index(course, "section_title")
        assert (report.embedded, report.sound, course.embedder.embedded) == (1, True, ["text 0", "Heaps"])

    @pytest.mark.parametrize("vector", [NOT_FINITE, NOT_UNIT, ZERO], ids=["not finite", "not of unit length", "zero"])
    def test_titles_do_not_hide_an_unsound_vector(self, titled: IndexedCourse, vector: Vectors) -> None:
        titled.embedder.wrong = {"text 0": vector}
        report = self.index(titled, "section_title")
        assert (report.vectors.unsound, report.sound) == (1, False)


class TestVerification:
    @pytest.mark.parametrize("vector", [NOT_FINITE, NOT_UNIT, ZERO], ids=["not finite", "not of unit length", "zero"])
    def test_unsound_vector_is_not_stored_and_computed_again_by_the_next_pass(
        self, course: IndexedCourse, vector: Vectors
    ) -> None:
        course.embedder.wrong = {"text 70": vector}
        report = course.index()
        assert (report.complete, report.sound, report.stored) == (False, False, 149)
        assert (report.vectors.checked, report.vectors.unsound) == (150, 1)
        course.embedder.wrong = {}
        report = course.index()
        assert (course.embedder.embedded, report.complete, report.sound) == (["text 70"], True, True)
        assert course.stored() == course.expected()

    def test_deleted_chunk_does_not_compensate_an_unsound_vector(self, course: IndexedCourse) -> None:
        course.index()
        del course.chunks["chunk-0000"]
        course.chunks["chunk-0001"].text = "changed"
        course.embedder.wrong = {"changed": NOT_FINITE}
        report = course.index()
        assert (report.stored, report.complete, report.removed) == (148, False, 1)

    def test_vectors_of_other_dimensions_than_the_model_are_unsound(self, course: IndexedCourse) -> None:
        course.embedder.dimensions = 9
        report = course.index()
        assert (report.complete, report.sound, report.stored, report.vectors.unsound) == (False, False, 0, 150)

    def test_records_that_chroma_stored_incorrectly_are_removed(
        self, course: IndexedCourse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upsert = CourseCollection.upsert

        def upsert_incorrectly(collection: CourseCollection, records: Sequence[Record], vectors: Vectors) -> None:
            """Changes the first text, negates the second vector and loses the third record."""
            first = Record(records[0].chunk_id, "changed", records[0].metadata, records[0].content_hash)
            changed_vectors = np.concatenate([vectors[:1], -vectors[1:2], vectors[3:]])
            upsert(collection, [first, records[1], *records[3:]], changed_vectors)

        monkeypatch.setattr(CourseCollection, "upsert", upsert_incorrectly)
        report = course.index(page_size=150)
        assert (report.complete, report.sound, report.stored, report.vectors.unsound) == (False, False, 141, 9)
        monkeypatch.undo()
        assert course.index().embedded == 9
        assert course.stored() == course.expected()

    def test_lost_update_is_detected(self, course: IndexedCourse, monkeypatch: pytest.MonkeyPatch) -> None:
        course.index()
        course.chunks["chunk-0005"].lecture_id = "l2"
        monkeypatch.setattr(CourseCollection, "update", lambda collection, records: None)
        report = course.index()
        assert (report.updated, report.complete, report.sound) == (1, False, False)


def refuse_write() -> None:
    raise PermissionError


class TestOwnership:
    """A run that was suspended while another run claimed its course must not write after it resumes."""

    def test_nothing_is_written_if_ownership_is_lost_during_embedding(self, course: IndexedCourse) -> None:
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
        before = course.stored()
        with pytest.raises(PermissionError):
            course.index(before_write=lambda: None if owns else refuse_write())
        assert course.stored() == before

    @pytest.mark.parametrize("edit", ["changed lecture", "deleted chunk", "other model"])
    def test_ownership_is_checked_before_every_kind_of_write(self, course: IndexedCourse, edit: str) -> None:
        course.index()
        before = course.stored()
        if edit == "changed lecture":
            course.chunks["chunk-0005"].lecture_id = "l2"
        elif edit == "deleted chunk":
            del course.chunks["chunk-0005"]
        else:
            course.embedder = StubEmbedder("another signature")
        checks = 0

        def refuse_after_first_check() -> None:
            nonlocal checks
            checks += 1
            if checks > 1:  # the first check precedes `create`, which returns the existing collection
                raise PermissionError

        with pytest.raises(PermissionError):
            course.index(before_write=refuse_after_first_check)
        assert course.stored() == before

    def test_no_collection_is_created_without_ownership(self, course: IndexedCourse) -> None:
        with pytest.raises(PermissionError):
            course.index(before_write=refuse_write)
        with pytest.raises(CollectionNotFoundError):
            _ = course.collection


class TestUnusualChunks:
    def test_values_that_chroma_or_json_reject_are_stored(self, course: IndexedCourse) -> None:
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
        assert str(records["chunk-0002"].metadata["order_in_section"]) == str(2**63)  # exact, not rounded to a float
        assert records["chunk-0004"].text == "half \ufffd a pair"
        assert records["chunk-0005"].metadata["section_id"] == "\ufffd"
        assert [records[f"chunk-000{number}"].text for number in (6, 7, 8)] == ["", "", "NUL \0"]

    @pytest.mark.parametrize("chunk_id", ["", "\ud800"])
    def test_chunk_with_unusable_id_is_an_error(self, course: IndexedCourse, chunk_id: str) -> None:
        course.chunks[chunk_id] = course.chunk(chunk_id, "text")
        with pytest.raises(
            UnusableChunkError, match=f"course {course.id} has an unusable id: {chunk_id!r}".replace("\\", "\\\\")
        ):
            course.index()

    def test_course_with_empty_id_is_an_error(self, vector_store: VectorStore, embedder: StubEmbedder) -> None:
        with pytest.raises(ValueError, match="course id must not be empty"):
            index_course("", [[Chunk(id="1", course_id="", text="x")]], vector_store, embedder, lambda _: None)
