import pytest
from sqlalchemy import text

from models.chunks import chunk_pages
from models.fingerprint import chunk_hash
from models.json_values import MAX_DEPTH
from models.tables import Chunk
from tests.support.catalogue import Catalogue


def read_metadata(catalogue: Catalogue) -> list[object]:
    with catalogue.session() as session:
        return [chunk.extra for page in chunk_pages(session, "1") for chunk in page]


@pytest.mark.parametrize("extra", [{}, {"order_in_section": 3, "标题": ["a", None, {"b": 1.5}]}, None])
def test_metadata_object_is_read_from_json_jsonb_and_text_columns(
    catalogue: Catalogue, extra: dict[str, object] | None
) -> None:
    catalogue.add_course("1")
    with catalogue.session() as session:
        session.add(Chunk(id="1", course_id="1", text="x", extra=extra))
    assert read_metadata(catalogue) == [extra]
    if extra is None:
        with catalogue.session() as session:
            assert session.scalar(text("SELECT count(*) FROM chunk WHERE metadata IS NULL")) == 1


@pytest.mark.parametrize("stored", ["[1]", "3", '"text"', "null", "true"])
def test_metadata_that_is_not_an_object_is_read_as_none(catalogue: Catalogue, stored: str) -> None:
    catalogue.add_course("1")
    with catalogue.session() as session:
        session.execute(text(f"INSERT INTO chunk (id, course_id, text, metadata) VALUES (1, 1, 'x', '{stored}')"))
    assert read_metadata(catalogue) == [None]


@pytest.mark.parametrize(
    "catalogue",
    [("sqlite", "text"), ("sqlite", "integer"), pytest.param(("postgres", "mixed"), marks=pytest.mark.postgres)],
    indirect=True,
    ids="-".join,
)
@pytest.mark.parametrize("stored", ["", "no json", "{", "[" * 100_000])
def test_invalid_json_in_a_text_column_is_read_as_none(catalogue: Catalogue, stored: str) -> None:
    catalogue.add_course("1")
    with catalogue.session() as session:
        session.execute(text(f"INSERT INTO chunk (id, course_id, text, metadata) VALUES (1, 1, 'x', '{stored}')"))
    assert read_metadata(catalogue) == [None]


@pytest.mark.parametrize("inner", ["[]", "{}"])
@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 300, 990, 1_000, 5_000])
def test_metadata_nested_deeper_than_the_limit_is_read_as_none(catalogue: Catalogue, depth: int, inner: str) -> None:
    """JSON is parsed and encoded by recursion; an error would end every read of the course, and every sensor tick."""
    around = depth - 2  # the object itself, and the innermost value
    stored = '{"a": ' + "[" * around + inner + "]" * around + "}"
    catalogue.add_course("1", chunks=["x", "y"])
    with catalogue.session() as session:
        session.execute(text(f"UPDATE chunk SET metadata = '{stored}' WHERE id = '1'"))
    with catalogue.session() as session:
        first, second = [chunk for page in chunk_pages(session, "1") for chunk in page]
        assert (first.extra is None) == (depth > MAX_DEPTH)
        assert second.extra == {"order_in_section": 0}
        assert len(chunk_hash(first)) == 64


@pytest.mark.parametrize("stored", ["1e400", "9" * 5000])
def test_other_json_that_python_cannot_keep_is_read_as_none(catalogue: Catalogue, stored: str) -> None:
    catalogue.add_course("1")
    with catalogue.session() as session:
        session.execute(text(f"INSERT INTO chunk (id, course_id, text, metadata) VALUES (1, 1, 'x', '{stored}')"))
    assert read_metadata(catalogue) == [None]
