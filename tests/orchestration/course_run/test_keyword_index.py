"""The keyword index of a course: built during the indexing pass, kept while the content is unchanged, checked."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.vector_store.collections import CourseCollection
from models import course_state
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk
from orchestration.course_run.keyword_index import CourseKeywords
from orchestration.partitions import KEYWORD_INDEX
from orchestration.ui_metadata import KEYWORD_INDEX_IS_COMPLETE
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.orchestration.ticks import Resources, all_resources, failed_checks, materialize, metadata_of
from tests.support.courses import read_course, write_course

PAGES = [[Chunk(id=f"{page}{number}", course_id="1", text="copper") for number in range(2)] for page in ("a", "b", "c")]
PAGES[0][0].text = None  # type: ignore[assignment]  # the column of stage one's table may be nullable
CONTENT = FingerprintBuilder().add_all(PAGES).build("model")


@pytest.fixture
def store() -> KeywordStore:
    return KeywordStore(KeywordSettings())


def unused_collection() -> CourseCollection:
    raise AssertionError("the index must be built from the chunks")


def iterated_keywords(store: KeywordStore, expected: CourseFingerprint = CONTENT) -> CourseKeywords:
    keywords = CourseKeywords(store, "1", PAGES, expected)
    assert list(keywords) == PAGES
    return keywords


def test_an_incomplete_iteration_adds_nothing_to_the_index(store: KeywordStore) -> None:
    """The pages are iterated again from the first one if a damaged collection must be rebuilt."""
    keywords = CourseKeywords(store, "1", PAGES, CONTENT)
    next(iter(keywords))
    assert list(keywords) == PAGES
    report = keywords.write(CONTENT, unused_collection)
    assert (report.chunks, report.indexed, report.terms, report.complete, report.kept) == (6, 6, 1, True, False)
    assert store.load("1", CONTENT.content).scores({"copper": 1}).astype(bool).tolist() == [False] + [True] * 5


def test_an_index_of_the_same_content_is_kept_for_another_model(
    store: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterated_keywords(store).write(CONTENT, unused_collection)
    monkeypatch.setattr(KeywordStore, "save", None)
    other_model = FingerprintBuilder().add_all(PAGES).build("another")
    report = iterated_keywords(store, other_model).write(other_model, unused_collection)
    assert (report.complete, report.kept) == (True, True)


def test_two_runs_can_write_the_same_index(store: KeywordStore) -> None:
    """A run that has lost its claim writes the index before it notices."""
    first, second = iterated_keywords(store), iterated_keywords(store)
    assert first.write(CONTENT, unused_collection).complete
    assert second.write(CONTENT, unused_collection).complete
    store.keep_only("1", CONTENT.content)
    assert len(store.load("1", CONTENT.content).chunk_ids) == 6


def texts(course_id: str, count: int = 3) -> dict[str, str]:
    return {f"{course_id}/{number}": f"Copper of board number {number}" for number in range(count)}


@pytest.mark.integration
class TestIndexAfterRun:
    """The keyword index after a run of a course with three chunks."""

    @pytest.fixture(autouse=True)
    def _course(self, catalogue: Engine, course_id: str) -> None:
        write_course(catalogue, course_id, texts(course_id))

    @staticmethod
    def files(course_id: str) -> dict[str, Path]:
        """File name → path of the course's keyword indexes."""
        directory = KeywordSettings().keyword_index_dir / directory_name(course_id)
        return {path.name: path for path in directory.iterdir()}

    @staticmethod
    def published_content(catalogue: Engine, course_id: str) -> str:
        fingerprint = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
        assert fingerprint is not None
        return fingerprint.content

    def published_index(self, catalogue: Engine, course_id: str) -> KeywordIndex:
        return KeywordStore(KeywordSettings()).load(course_id, self.published_content(catalogue, course_id))

    def test_an_index_is_built_and_kept_while_the_chunks_are_unchanged(
        self, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
    ) -> None:
        first = metadata_of(materialize(instance, resources, course_id), KEYWORD_INDEX)
        index = self.published_index(catalogue, course_id)
        assert index.chunk_ids == tuple(sorted(texts(course_id)))
        assert list(index.scores({"number": 1, "2": 1}).argsort()) == [0, 1, 2]
        assert {name: first[name] for name in ("chunks", "terms", "bytes", "kept")} == {
            "chunks": 3,
            "terms": 6,
            "bytes": index.bytes,
            "kept": False,
        }
        [file] = self.files(course_id).values()
        before = file.stat()
        assert metadata_of(materialize(instance, resources, course_id), KEYWORD_INDEX)["kept"] is True
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_a_new_index_replaces_the_old_one_and_temporary_files(
        self, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
    ) -> None:
        materialize(instance, resources, course_id)
        [(old_name, file)] = self.files(course_id).items()
        file.with_name(f".{old_name}.0123").write_bytes(b"incomplete index of a killed process")
        write_course(catalogue, course_id, texts(course_id, 2))
        materialize(instance, resources, course_id)
        assert list(self.files(course_id)) == [f"{self.published_content(catalogue, course_id)}.npz"]
        assert old_name not in self.files(course_id)
        assert len(self.published_index(catalogue, course_id).chunk_ids) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(Path.unlink, id="deleted"),
            pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-100]), id="truncated"),
            pytest.param(lambda file: KeywordIndexBuilder().build().save(file), id="other chunks"),
        ],
    )
    def test_a_damaged_index_is_built_again(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        damage: Callable[[Path], object],
    ) -> None:
        materialize(instance, resources, course_id)
        damage(*self.files(course_id).values())
        result = materialize(instance, resources, course_id)
        assert metadata_of(result)["embedded"] == 0
        assert metadata_of(result, KEYWORD_INDEX)["kept"] is False
        assert len(self.published_index(catalogue, course_id).chunk_ids) == 3

    def test_a_course_is_not_published_if_its_index_cannot_be_written(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "a file").touch()
        with monkeypatch.context() as patch:
            patch.setenv("KEYWORD_INDEX_DIR", str(tmp_path / "a file" / "keywords"))
            assert not materialize(instance, all_resources(), course_id).success
        course = read_course(catalogue, course_id)
        assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
        assert "cannot be written" in (course.embedding_error or "")
        assert "KEYWORD_INDEX_DIR" in (course.embedding_error or "")
        assert materialize(instance, resources, course_id).success

    def test_a_course_is_not_published_if_its_index_is_incomplete(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(KeywordIndex, "load", lambda _: KeywordIndexBuilder().build())
        assert failed_checks(materialize(instance, resources, course_id)) == [KEYWORD_INDEX_IS_COMPLETE]
        course = read_course(catalogue, course_id)
        assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
        assert "contains 0 chunks, but the course has 3" in (course.embedding_error or "")

    def test_the_old_index_is_kept_if_the_new_one_is_not_published(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        materialize(instance, resources, course_id)
        write_course(catalogue, course_id, texts(course_id, 2))
        monkeypatch.setattr(course_state, "publish", lambda *_: False)
        assert not materialize(instance, resources, course_id).success
        assert len(self.published_index(catalogue, course_id).chunk_ids) == 3

    def test_chunks_written_after_the_existing_index_was_found_are_in_the_new_index(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        materialize(instance, resources, course_id)
        record_attempt = course_state.record_attempt

        def write_another_chunk(*arguments: object) -> bool:
            write_course(catalogue, course_id, texts(course_id) | {f"{course_id}/new": "Flux"})
            return record_attempt(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(course_state, "record_attempt", write_another_chunk)
        assert materialize(instance, resources, course_id).success
        index = self.published_index(catalogue, course_id)
        assert index.chunk_ids[index.scores({"flux": 1}).argmax()] == f"{course_id}/new"
