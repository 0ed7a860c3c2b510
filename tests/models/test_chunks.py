import pytest
from sqlalchemy import text

from models import chunks
from models.database import UnreadableDataError
from models.tables import Chunk
from tests.support.catalogue import Catalogue


class TestChunkPages:
    def test_chunk_pages_yield_all_chunks_once_in_the_order_of_ids(self, catalogue: Catalogue) -> None:
        catalogue.add_course("2", chunks=["other course"])
        catalogue.add_course("1", chunks=[str(number) for number in range(25)])
        with catalogue.session() as session:
            pages = list(chunks.chunk_pages(session, "1", page_size=10))
            assert list(session.identity_map.values()) == []
        assert [len(page) for page in pages] == [10, 10, 5]
        ids = [chunk.id for page in pages for chunk in page]
        assert ids == sorted(ids, key=int if catalogue.ids == "integer" else str)
        assert sorted(int(chunk.text) for page in pages for chunk in page) == list(range(25))

    def test_full_last_page_is_followed_by_no_empty_page(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 20)
        with text_catalogue.session() as session:
            assert [len(page) for page in chunks.chunk_pages(session, "1", page_size=10)] == [10, 10]

    def test_chunk_pages_follow_the_collation_of_the_id_column(self, text_catalogue: Catalogue) -> None:
        """A collation may ignore case or punctuation."""
        ids = ["b", "A", "c", "D", "a-1", "a1", "é", "_", "10", "9", "电", "路"]
        with text_catalogue.session() as session:
            if text_catalogue.is_postgres:
                query = "SELECT collname FROM pg_collation WHERE collname LIKE 'en%' AND collencoding IN (-1, 6)"
                collation = session.scalar(text(query)) or "C"
                session.execute(text(f'ALTER TABLE chunk ALTER id TYPE VARCHAR COLLATE "{collation}"'))
            else:
                session.execute(text("DROP TABLE chunk"))
                session.execute(
                    text(
                        "CREATE TABLE chunk (id TEXT COLLATE NOCASE PRIMARY KEY, course_id TEXT, lecture_id TEXT,"
                        " section_id TEXT, text TEXT, language TEXT, source_type TEXT, metadata TEXT)"
                    )
                )
            session.add_all(Chunk(id=chunk_id, course_id="1", text="x") for chunk_id in ids)
        with text_catalogue.session() as session:
            read_ids = [chunk.id for page in chunks.chunk_pages(session, "1", page_size=2) for chunk in page]
        assert len(read_ids) == len(ids)
        assert set(read_ids) == set(ids)

    def test_deleted_chunks_do_not_shift_later_pages(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 9)
        read_ids: list[str] = []
        for after in (None, "3", "6"):
            with text_catalogue.session() as session:
                read_ids += [chunk.id for chunk in chunks.chunk_page(session, "1", after=after, limit=3)]
            with text_catalogue.session() as session:
                session.execute(text("DELETE FROM chunk WHERE id = '1'"))
        assert read_ids == list("123456789")

    def test_missing_values_are_none(self, integer_catalogue: Catalogue) -> None:
        integer_catalogue.add_course("1")
        with integer_catalogue.session() as session:
            session.execute(text("INSERT INTO chunk (id, course_id, text) VALUES (5, 1, 'x')"))
            [[chunk]] = chunks.chunk_pages(session, "1")
        assert chunk.model_dump() == {
            "id": "5",
            "course_id": "1",
            "lecture_id": None,
            "section_id": None,
            "text": "x",
            "language": None,
            "source_type": None,
            "extra": None,
        }


class TestInvalidText:
    """A chunk whose text is not valid UTF-8 raises an error, and is not taken for the end of the course."""

    @pytest.mark.postgres
    @pytest.mark.parametrize("page_size", [1, 2, 500])
    def test_invalid_byte_in_a_postgres_database_without_encoding_raises(
        self, sql_ascii_catalogue: Catalogue, page_size: int
    ) -> None:
        self.check(sql_ascii_catalogue, r"E'caf\xe9'", page_size)

    @pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids="-".join)
    @pytest.mark.parametrize("page_size", [1, 2, 500])
    def test_invalid_byte_in_sqlite_raises(self, text_catalogue: Catalogue, page_size: int) -> None:
        self.check(text_catalogue, "CAST(X'636166e9' AS TEXT)", page_size)

    def check(self, catalogue: Catalogue, invalid_text: str, page_size: int) -> None:
        """Chunk 4 of 5 is invalid: the pages before it are readable, and its page raises.

        The texts exceed PostgreSQL's send buffer of 8 KiB, so valid rows of the page arrive before the error.
        """
        catalogue.add_course("1", chunks=["电路" * 5000] * 5)
        with catalogue.session() as session:
            session.execute(text(f"UPDATE chunk SET text = {invalid_text} WHERE id = '4'"))
        read_ids: list[str] = []
        with pytest.raises(UnreadableDataError), catalogue.session() as session:  # noqa: PT012
            for page in chunks.chunk_pages(session, "1", page_size=page_size):
                read_ids += [chunk.id for chunk in page]
        assert read_ids == ["1", "2", "3"][: 3 // page_size * page_size]
