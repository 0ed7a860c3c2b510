from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.chunks import chunk_pages
from models.fingerprint import CourseFingerprint, FingerprintBuilder, chunk_hash
from models.tables import Chunk
from tests.support.catalogue import Catalogue, chunk

LABELS = st.none() | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CHUNKS = st.builds(
    Chunk,
    id=st.text(max_size=3),
    course_id=st.just("1"),
    lecture_id=LABELS,
    section_id=LABELS,
    text=st.text(max_size=5),
    language=LABELS,
    source_type=LABELS,
    extra=st.none() | st.dictionaries(st.text(max_size=3), JSON, max_size=3),
)
FIELDS = ("text", "lecture_id", "section_id", "source_type", "language", "extra")


def fields_of(chunk: Chunk) -> list[object]:
    return [getattr(chunk, field) or ({} if field == "extra" else getattr(chunk, field)) for field in FIELDS]


def fingerprint(chunks: list[Chunk], model: str = "m") -> CourseFingerprint:
    builder = FingerprintBuilder()
    for one in chunks:
        builder.add(one)
    return builder.build(model)


class TestChunkHash:
    @given(CHUNKS, CHUNKS)
    def test_hashes_are_equal_exactly_if_the_fields_are(self, one: Chunk, other: Chunk) -> None:
        assert (chunk_hash(one) == chunk_hash(other)) == (fields_of(one) == fields_of(other))

    @pytest.mark.parametrize("field", FIELDS)
    def test_hash_depends_on_every_field(self, field: str) -> None:
        changed = chunk("1", "1")
        setattr(changed, field, {"a": 1} if field == "extra" else "changed")
        assert chunk_hash(changed) != chunk_hash(chunk("1", "1"))

    def test_hash_is_independent_of_the_id(self) -> None:
        assert chunk_hash(chunk("1", "1")) == chunk_hash(chunk("2", "2"))

    def test_hash_separates_adjacent_fields(self) -> None:
        one, other = chunk("1", "1"), chunk("1", "1")
        one.lecture_id, one.section_id = "ab", "c"
        other.lecture_id, other.section_id = "a", "bc"
        assert chunk_hash(one) != chunk_hash(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [(None, {}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({"a": [1.0, {"b": 100.0}]}, {"a": [1, {"b": 100}]})],
    )
    def test_hash_is_independent_of_the_json_representation_of_the_database(
        self, one: dict[str, object] | None, other: dict[str, object] | None
    ) -> None:
        assert chunk_hash(Chunk(id="1", course_id="1", text="x", extra=one)) == chunk_hash(
            Chunk(id="1", course_id="1", text="x", extra=other)
        )

    def test_hash_accepts_any_json(self) -> None:
        """A course must not fail because of an unusual metadata field."""
        nested: object = 1
        for _ in range(800):
            nested = {"a": nested}
        unusual = Chunk(
            id="1", course_id="1", text="\ud800", extra={"deep": nested, "\udfff": float("nan"), "big": 10**400}
        )
        assert chunk_hash(unusual) != chunk_hash(chunk("1", "1"))

    def test_hash_is_stable_across_versions(self) -> None:
        """If the value changes, every course of every installation is embedded again."""
        assert (
            chunk_hash(chunk("1", "1", "电路 text"))
            == "55a4c61eaf2b2a2204e76aaf0c03122ca04fac2845d9382d848578d91529cb51"
        )


class TestCourseFingerprint:
    @given(st.lists(CHUNKS, max_size=5), st.randoms())
    def test_fingerprint_is_independent_of_order(self, chunks: list[Chunk], random: Random) -> None:
        before = fingerprint(chunks)
        random.shuffle(chunks)
        assert fingerprint(chunks) == before

    @given(st.lists(CHUNKS, min_size=1, max_size=5))
    def test_fingerprint_changes_with_a_missing_or_repeated_chunk(self, chunks: list[Chunk]) -> None:
        assert len({fingerprint(chunks), fingerprint(chunks[1:]), fingerprint([*chunks, chunks[0]])}) == 3

    def test_fingerprint_depends_on_ids(self) -> None:
        assert fingerprint([chunk("1", "1")]) != fingerprint([chunk("2", "1")])

    def test_fingerprint_changes_if_texts_are_swapped(self) -> None:
        assert fingerprint([chunk("1", "1", "a"), chunk("2", "1", "b")]) != fingerprint(
            [chunk("1", "1", "b"), chunk("2", "1", "a")]
        )

    def test_fingerprint_depends_on_the_model(self) -> None:
        assert fingerprint([], "m") != fingerprint([], "n")

    def test_fingerprint_counts_chunks_and_characters(self) -> None:
        result = fingerprint([chunk("1", "1", "电路"), chunk("2", "1", "abc")])
        assert (result.chunks, result.characters) == (2, 5)

    @given(st.integers(0), st.integers(0), st.binary(min_size=32, max_size=32), st.text())
    def test_parse_reverses_str(self, chunks: int, characters: int, content: bytes, model: str) -> None:
        original = CourseFingerprint(chunks, characters, content.hex(), model)
        assert CourseFingerprint.parse(str(original)) == original

    @given(st.none() | st.text() | st.from_regex(r"v?\d?:\d+:\d+:[0-9a-f]{60,66}:m", fullmatch=True))
    def test_parse_returns_none_for_other_text(self, value: str | None) -> None:
        result = CourseFingerprint.parse(value)
        assert result is None or str(result) == value

    def test_fingerprint_is_equal_for_all_databases_and_types_of_ids(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", chunks=[f"{number} 电路 text" for number in range(12)])
        builder = FingerprintBuilder()
        with catalogue.session() as session:
            hashes = [builder.add(one) for page in chunk_pages(session, "1", page_size=5) for one in page]
        assert len(set(hashes)) == 12
        assert str(builder.build("m")) == "v1:12:110:1780d57e9d1ee941bf461b39adf1de6f76ab6e700b921d7ae551f6226afe6989:m"
