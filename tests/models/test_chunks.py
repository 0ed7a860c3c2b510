from sqlalchemy import text

from models import chunks
from models.tables import Chunk
from tests.support.catalogue import Catalogue


class TestChunkPages:
    def test_in_the_order_of_ids_whole_and_once(self, catalogue: Catalogue) -> None:
        catalogue.add_course("2", chunks=["not mine"])
        catalogue.add_course("1", chunks=[str(number) for number in range(25)])
        with catalogue.session() as session:
            pages = list(chunks.chunk_pages(session, "1", page_size=10))
            assert list(session.identity_map.values()) == []
        assert [len(page) for page in pages] == [10, 10, 5]
        ids = [chunk.id for page in pages for chunk in page]
        assert ids == sorted(ids, key=int if catalogue.ids == "integer" else str)
        assert sorted(int(chunk.text) for page in pages for chunk in page) == list(range(25))

    def test_a_last_page_that_is_full(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 20)
        with text_catalogue.session() as session:
            assert [len(page) for page in chunks.chunk_pages(session, "1", page_size=10)] == [10, 10]

    def test_under_a_collation_of_its_own(self, text_catalogue: Catalogue) -> None:
        """Pages go on where the last one ended in the *column's* order, which may ignore case."""
        ids = ["b", "A", "c", "D", "a-1", "a1", "é", "_", "10", "9", "电", "路"]
        with text_catalogue.session() as session:
            if text_catalogue.is_postgres:
                linguistic = "SELECT collname FROM pg_collation WHERE collname LIKE 'en%' AND collencoding IN (-1, 6)"
                collation = session.scalar(text(linguistic)) or "C"
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
            found = [chunk.id for page in chunks.chunk_pages(session, "1", page_size=2) for chunk in page]
        assert len(found) == len(ids)
        assert set(found) == set(ids)

    def test_chunks_that_come_and_go_meanwhile_shift_no_other(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 9)
        seen: list[str] = []
        for after in (None, "3", "6"):
            with text_catalogue.session() as session:
                seen += [chunk.id for chunk in chunks.chunk_page(session, "1", after=after, limit=3)]
            with text_catalogue.session() as session:
                session.execute(text("DELETE FROM chunk WHERE id = '1'"))
        assert seen == list("123456789")

    def test_a_chunk_that_says_little(self, integer_catalogue: Catalogue) -> None:
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
