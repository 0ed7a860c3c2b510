import pytest
from sqlalchemy import text

from models.chunks import chunk_pages
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
