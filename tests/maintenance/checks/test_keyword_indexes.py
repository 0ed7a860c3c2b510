"""The check of keyword indexes, and their repair."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from maintenance.checks.all_checks import repair
from maintenance.ownership import SMALL_REMOVAL
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.maintenance.checks.installation import (
    add_published_course,
    chroma_collection,
    doctor,
    find_warning,
    on_sqlite,
    published_content,
)
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course
from tests.support.published import publish_row

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("intact_course")]


@pytest.fixture
def keywords() -> KeywordStore:
    return KeywordStore(KeywordSettings())


def index_file(catalogue: Catalogue, course_id: str) -> Path:
    return (
        KeywordSettings().keyword_index_dir
        / directory_name(course_id)
        / f"{published_content(catalogue, course_id)}.npz"
    )


@on_sqlite
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "broken"])
def test_unusable_index_is_built_from_the_collection(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, damage: Callable[[Path], object]
) -> None:
    add_published_course(catalogue, store, "bare", 3)
    damage(index_file(catalogue, "bare"))
    finding = doctor().of("keywords", "warning")
    assert finding["subjects"] == ["bare"]
    assert "The first search builds it" in finding["advice"]
    assert not finding["repairs"], "nothing is changed without --repair"
    assert doctor("--repair").of("keywords", "warning")["repairs"] == ["bare: built from its collection"]
    assert keywords.load("bare", published_content(catalogue, "bare")).chunk_ids == ("0", "1", "2")
    assert doctor().problems == []
    assert read_course(catalogue.engine, "bare").embedding_status == "done", "no embedding is needed"


@on_sqlite
def test_index_of_unpublished_chunks_is_not_built(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
) -> None:
    collection = add_published_course(catalogue, store, "odd")
    index_file(catalogue, "odd").unlink()
    finding = find_warning("keywords")
    chroma_collection(store, collection).update(["1"], metadatas=[{"content_hash": "another"}])
    assert "odd could not be repaired" in repair(finding).repairs[0]
    assert not index_file(catalogue, "odd").exists()


def test_course_embedded_during_the_check_is_not_reported(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_file(catalogue, "intact").unlink()
    load = KeywordStore.load

    def load_after_publication(store: KeywordStore, course_id: str, content: str) -> KeywordIndex:
        publish_row(catalogue.engine, "intact", 2, model_signature(EmbeddingSettings()))
        return load(store, course_id, content)

    monkeypatch.setattr(KeywordStore, "load", load_after_publication)
    assert doctor().problems == []


def test_repair_deletes_indexes_without_a_course(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
) -> None:
    for course_id in ("gone", "x" * 600):
        keywords.save(course_id, "0" * 64, KeywordIndexBuilder().build())
    finding = doctor().of("keywords", "warning")
    assert set(finding["subjects"]) == {directory_name("gone"), directory_name("x" * 600)}
    assert len(keywords.directories()) == 3, "nothing is changed without --repair"
    assert "course_gone deleted" in doctor("--repair").of("keywords", "warning")["repairs"]
    assert keywords.directories() == ["course_intact"]


@on_sqlite
def test_course_added_before_the_repair_keeps_its_index(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keywords.save("back", "0" * 64, KeywordIndexBuilder().build())
    finding = find_warning("keywords")
    catalogue.add_course("back")
    assert repair(finding).repairs == ["course_back kept: its course is in the catalogue now"]
    assert "course_back" in keywords.directories()


@on_sqlite
def test_nothing_is_deleted_if_more_would_be_deleted_than_remain(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
) -> None:
    names = [f"gone-{number}" for number in range(SMALL_REMOVAL + 1)]
    for name in names:
        keywords.save(name, "0" * 64, KeywordIndexBuilder().build())
    finding = doctor("--repair").of("keywords", "warning")
    assert "only 1 would remain" in finding["advice"]
    assert finding["repairs"] == []
    assert set(map(directory_name, names)) < set(keywords.directories())


def test_nothing_is_deleted_if_no_course_matches(
    catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
) -> None:
    keywords.delete("intact")
    keywords.save("physics", "0" * 64, KeywordIndexBuilder().build())
    [finding] = [finding for finding in doctor("--repair") if "course_physics" in finding["subjects"]]
    assert "DATABASE_URL" in finding["advice"]
    assert finding["repairs"] == []
    assert "course_physics" in keywords.directories()
