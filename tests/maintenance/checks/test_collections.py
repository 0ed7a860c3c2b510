"""The checks that collections and courses match, and that collections are sound."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from cli.processes import free_port
from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.server import VectorStoreSettings
from maintenance.checks.all_checks import repair
from tests.maintenance.checks.installation import (
    DIMENSIONS,
    add_collection,
    add_published_course,
    chroma_collection,
    doctor,
    find_warning,
    is_requested,
    on_sqlite,
    vectors,
)
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course
from tests.support.published import publish_row
from tests.support.servers.chroma import chroma_server, has_collection

pytestmark = pytest.mark.integration


class TestOrphans:
    def test_repair_deletes_collections_without_a_course(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "physics")
        for course_id in ("gone", "x" * 600):  # the second id is too long for a name, which is a hash then
            add_collection(store, course_id, vectors(1))
        finding = doctor().of("orphans", "warning")
        assert "course_gone" in finding["subjects"]
        assert len(finding["subjects"]) == 2
        assert has_collection(store, "gone"), "nothing is changed without --repair"
        repaired = doctor("--repair").of("orphans", "warning")
        assert repaired["repaired"]
        assert "course_gone deleted" in repaired["repairs"]
        assert [collection.name for collection in store.collections()] == ["course_physics"]
        assert doctor().of("orphans", "ok")

    @pytest.mark.parametrize("others", [[], ["not embedded"]])
    def test_nothing_is_deleted_if_no_course_matches(
        self, catalogue: Catalogue, store: VectorStore, others: list[str]
    ) -> None:
        for course_id in others:
            catalogue.add_course(course_id)
        add_collection(store, "physics", vectors(1))
        finding = doctor("--repair").of("orphans", "warning")
        assert "DATABASE_URL" in finding["advice"]
        assert finding["repairs"] == []
        assert has_collection(store, "physics")

    @on_sqlite
    def test_collections_of_other_programs_are_kept(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "physics")
        for name in ("course_of_study", "notes"):
            store.connect().create_collection(name, embedding_function=None)
        finding = doctor("--repair").of("orphans", "warning")
        assert finding["subjects"] == ["course_of_study"]
        assert {collection.name for collection in store.collections()} > {"course_of_study", "notes"}

    def test_course_added_before_the_repair_keeps_its_collection(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_published_course(catalogue, store, "physics")
        add_collection(store, "back", vectors(1))
        finding = find_warning("orphans")
        catalogue.add_course("back")
        assert repair(finding).repairs == ["course_back kept: its course is in the catalogue now"]
        assert has_collection(store, "back")

    @on_sqlite
    def test_copies_that_forget_left_behind_are_deleted(self, catalogue: Catalogue, store: VectorStore) -> None:
        """The copy of a course without a collection becomes its collection, because only it has the vectors."""
        for course_id in ("physics", "bare"):
            info = add_published_course(catalogue, store, course_id).info
            store.create_copy(course_id, info)
        store.connect().delete_collection("course_bare")
        assert doctor(exit_code=1).of("orphans", "warning")["subjects"] == ["bare", "physics"]
        repaired = doctor("--repair").of("orphans", "warning")
        assert repaired["repairs"] == ["bare: copies deleted", "physics: copies deleted"]
        assert {collection.name for collection in store.collections()} == {"course_bare", "course_physics"}
        assert store.open("physics").count() == 2

    @on_sqlite
    def test_more_collections_than_one_page(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedding.vector_store.collections.READ_BATCH", 2)
        for number in range(5):
            add_published_course(catalogue, store, f"course {number}")
        assert doctor().of("orphans", "ok")["message"] == "5 collections, each belongs to a course"


@pytest.mark.usefixtures("intact_course")
class TestCourses:
    def test_course_without_collection_is_embedded_again(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "bare")
        store.delete("bare")
        finding = doctor(exit_code=1).of("courses", "error")
        assert finding["subjects"] == ["bare"]
        assert "without a collection" in finding["message"]
        assert read_course(catalogue.engine, "bare").embedding_status == "done"
        assert doctor("--repair").of("courses", "error")["repairs"] == ["bare: embedding_started"]
        assert is_requested(catalogue, "bare")
        assert read_course(catalogue.engine, "intact").embedding_status == "done"

    def test_course_with_fewer_documents_is_embedded_again(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "short").remove(["0"])
        assert "more or fewer documents" in doctor(exit_code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert is_requested(catalogue, "short")
        assert not read_course(catalogue.engine, "short").embedding_rebuild
        assert has_collection(store, "short"), "its other documents are kept"

    def test_course_with_collection_of_other_model_is_embedded_again(
        self, catalogue: Catalogue, store: VectorStore
    ) -> None:
        add_published_course(catalogue, store, "other")
        store.delete("other")
        add_collection(store, "other", vectors(2), signature="another")
        assert "another model" in doctor(exit_code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert is_requested(catalogue, "other")

    def test_course_with_other_chunks_is_rebuilt(self, catalogue: Catalogue, store: VectorStore) -> None:
        """The stored hashes show it; the texts and vectors are not read."""
        collection = add_published_course(catalogue, store, "odd")
        chroma_collection(store, collection).update(["1"], metadatas=[{"content_hash": "another"}])
        finding = doctor(exit_code=1).of("courses", "error")
        assert (finding["subjects"], "other chunks or texts" in finding["message"]) == (["odd"], True)
        doctor("--repair")
        assert is_requested(catalogue, "odd")
        assert read_course(catalogue.engine, "odd").embedding_rebuild, "an ordinary embedding would keep the records"

    def test_course_embedded_during_the_check_is_not_reported(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = CourseCollection.count

        def count_after_publication(collection: CourseCollection) -> int:
            publish_row(catalogue.engine, "intact", chunks=2, model=model_signature(EmbeddingSettings()))
            return count(collection) + 1

        monkeypatch.setattr(CourseCollection, "count", count_after_publication)
        assert doctor().problems == []


@on_sqlite
class TestDeep:
    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(2 * vectors(2), id="not of unit length"),
            pytest.param(vectors(2) * np.float32(1.0005), id="more than rounding"),
            pytest.param(np.stack([vectors(1)[0], np.zeros(DIMENSIONS, np.float32)]), id="zero vector"),
            pytest.param(vectors(2, DIMENSIONS // 2), id="other dimensions than the model"),
        ],
    )
    def test_unsound_vectors_are_rebuilt(self, catalogue: Catalogue, store: VectorStore, rows: Any) -> None:
        add_published_course(catalogue, store, "intact")
        add_published_course(catalogue, store, "odd", rows=rows)
        assert doctor().problems == [], "only --deep reads vectors"
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert finding["subjects"] == ["odd"]
        assert is_requested(catalogue, "odd")
        assert read_course(catalogue.engine, "odd").embedding_rebuild, "an ordinary embedding would keep the records"

    def test_changed_texts_are_deleted_and_embedded_again(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "intact")
        collection = add_published_course(catalogue, store, "odd")
        chroma_collection(store, collection).update(["1"], documents=["another text"], embeddings=vectors(1))
        assert doctor().problems == [], "only --deep reads texts"
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert (finding["subjects"], "other chunks or texts" in finding["message"]) == (["odd"], True)
        assert is_requested(catalogue, "odd")
        assert read_course(catalogue.engine, "odd").embedding_rebuild


@on_sqlite
class TestDamagedIndex:
    """A collection whose vector index is damaged on disk, as by a kill during a write."""

    CHUNKS = 1100  # Chroma writes the index to disk from 1000 records on

    @pytest.mark.parametrize("damage", ["header.bin", "data_level0.bin"])
    def test_damaged_collection_is_rebuilt(
        self, catalogue: Catalogue, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        directory, port, course_id = tmp_path / "chroma", free_port(), f"{uuid4()}"
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
        store = VectorStore(VectorStoreSettings())
        with chroma_server(directory, port):
            add_published_course(catalogue, store, course_id, self.CHUNKS)
        [index] = [path for path in directory.iterdir() if path.is_dir()]
        (index / damage).write_bytes(b"")
        with chroma_server(directory, port):
            with pytest.raises(VectorStoreError):
                next(store.open(course_id).contents(page_size=1))
            finding = doctor(exit_code=1).of("courses", "error")
            assert "cannot be read" in finding["message"]
            assert "course-search rebuild" in finding["advice"]
            doctor("--repair")
            assert is_requested(catalogue, course_id)
            assert read_course(catalogue.engine, course_id).embedding_rebuild
        store.close()
