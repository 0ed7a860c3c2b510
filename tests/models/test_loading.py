import json
import sqlite3
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import pytest
from sqlalchemy import event, text

from models.chunks import chunk_pages
from models.courses import get_course
from models.ingestion import Ingestion, ingestion_of_course
from models.loading import LoadedCourse, LoadError, load
from tests.support.catalogue import Catalogue

Line = dict[str, Any]


def line(chunk_id: str | int = "1", course_id: str | int = "1", content: str = "text", **changes: Any) -> Line:
    """A line with ids that are valid for every type of id column."""
    return {
        "id": chunk_id,
        "course_id": course_id,
        "lecture_id": "3",
        "section_id": "4",
        "order_in_section": 0,
        "text": content,
        "language": "en",
        "source_type": "pdf",
        **changes,
    }


def source(lines: Iterable[Line | str], name: str = "f") -> tuple[str, BytesIO]:
    return name, BytesIO("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines).encode())


def load_lines(catalogue: Catalogue, *lines: Line | str, replace: bool = False) -> list[str]:
    with catalogue.session() as session:
        return [str(course) for course in load(session, [source(lines)], replace=replace)]


def load_errors(catalogue: Catalogue, *lines: Line | str, replace: bool = False) -> list[str]:
    """The error messages of a load that must fail without writing anything."""
    before = contents(catalogue)
    with pytest.raises(LoadError) as error:
        load_lines(catalogue, *lines, replace=replace)
    assert contents(catalogue) == before
    return str(error.value).splitlines()


def contents(catalogue: Catalogue) -> list[list[tuple[Any, ...]]]:
    with catalogue.session() as session:
        return [
            sorted(tuple(map(str, row)) for row in session.execute(text(f"SELECT * FROM {table}")))
            for table in ("course", "resource", "chunk")
        ]


class TestUnreadableChunks:
    """A load replaces chunks that are stored with bytes that cannot be decoded."""

    def check(self, catalogue: Catalogue, invalid_text: str) -> None:
        lines = [line(str(number), content=f"text {number}") for number in range(1, 8)]
        load_lines(catalogue, *lines, line("8", "2"))
        with catalogue.session() as session:
            session.execute(text(f"UPDATE chunk SET text = {invalid_text} WHERE id IN ('3', '6', '8')"))
        with pytest.raises(LoadError, match="id '8' already belongs to course '2'"):
            load_lines(catalogue, line("8"))
        assert load_lines(catalogue, *lines, line("9"), replace=True) == ["1: 8 chunks (1 new, 2 changed, 0 removed)"]
        with catalogue.session() as session:
            [page] = chunk_pages(session, "1")
        assert [chunk.text for chunk in page] == [*(f"text {number}" for number in range(1, 8)), "text"]

    @pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids="-".join)
    @pytest.mark.parametrize("invalid_text", ["CAST(X'636166e9' AS TEXT)", "X'636166e9'"])
    def test_sqlite(self, text_catalogue: Catalogue, invalid_text: str) -> None:
        self.check(text_catalogue, invalid_text)

    @pytest.mark.postgres
    def test_postgres_database_without_encoding(self, sql_ascii_catalogue: Catalogue) -> None:
        self.check(sql_ascii_catalogue, r"E'caf\xe9'")


class TestLoad:
    def test_load_creates_ingested_courses(self, catalogue: Catalogue) -> None:
        assert load_lines(catalogue, line("1"), line("2"), line("3", "2")) == [
            "1: 2 chunks (2 new, 0 changed, 0 removed)",
            "2: 1 chunks (1 new, 0 changed, 0 removed)",
        ]
        with catalogue.session() as session:
            course = get_course(session, "1")
            assert course is not None
            assert course.embedding_status == "not_started"
            assert ingestion_of_course(session, "1") == Ingestion(resources=1, succeeded=1, chunks=2)
            assert ingestion_of_course(session, "2").finished

    def test_load_stores_all_fields_of_a_chunk(self, catalogue: Catalogue) -> None:
        load_lines(catalogue, line(7, 1, "电路\n", order_in_section=5, metadata={"标题": [1, 2.5, None]}))
        with catalogue.session() as session:
            [[chunk]] = chunk_pages(session, "1")
        assert chunk.model_dump() == {
            "id": "7",
            "course_id": "1",
            "lecture_id": "3",
            "section_id": "4",
            "text": "电路\n",
            "language": "en",
            "source_type": "pdf",
            "extra": {"标题": [1, 2.5, None], "order_in_section": 5},
        }

    def test_repeated_load_writes_nothing(self, catalogue: Catalogue) -> None:
        lines = [line(str(number), metadata={"page": number}) for number in range(1, 4)]
        load_lines(catalogue, *lines)
        before = contents(catalogue)
        writes: list[str] = []

        def record(*arguments: Any) -> None:
            if "chunk" in arguments[2] and not arguments[2].startswith(("SELECT", "PRAGMA")):
                writes.append(arguments[2])

        event.listen(catalogue.engine, "before_cursor_execute", record)
        assert load_lines(catalogue, *lines) == ["1: 3 chunks (0 new, 0 changed, 0 removed)"]
        assert contents(catalogue) == before
        assert writes == []

    def test_load_updates_changed_chunks_and_keeps_missing_ones(self, catalogue: Catalogue) -> None:
        load_lines(catalogue, line("1"), line("2"), line("3"))
        changed = [line("2", content="new"), line("3", metadata={"page": 1}), line("4")]
        assert load_lines(catalogue, *changed) == ["1: 4 chunks (1 new, 2 changed, 0 removed)"]
        with catalogue.session() as session:
            stored = {chunk.id: (chunk.text, chunk.extra) for page in chunk_pages(session, "1") for chunk in page}
        assert stored["2"] == ("new", {"order_in_section": 0})
        assert stored["3"] == ("text", {"page": 1, "order_in_section": 0})

    def test_replace_removes_missing_chunks_of_the_loaded_courses_only(self, catalogue: Catalogue) -> None:
        load_lines(catalogue, line("1"), line("2"), line("3"), line("4", "2"))
        assert load_lines(catalogue, line("2"), line("5"), replace=True) == [
            "1: 2 chunks (1 new, 0 changed, 2 removed)"
        ]
        with catalogue.session() as session:
            assert {chunk.id for page in chunk_pages(session, "1") for chunk in page} == {"2", "5"}
            assert ingestion_of_course(session, "2").chunks == 1

    def test_load_combines_several_sources(self, catalogue: Catalogue) -> None:
        with catalogue.session() as session:
            assert load(session, [source([line("1")]), source([line("2"), line("3", "2")])]) == [
                LoadedCourse("1", new=2, chunks=2),
                LoadedCourse("2", new=1, chunks=1),
            ]

    def test_load_sets_existing_resources_to_succeeded(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["processing", "failed", "succeeded"])
        catalogue.add_course("2", resources=["processing"])
        load_lines(catalogue, line("1"))
        with catalogue.session() as session:
            assert ingestion_of_course(session, "1") == Ingestion(3, 3, 1)
            assert ingestion_of_course(session, "2").succeeded == 0

    def test_new_resources_get_unused_ids(self, catalogue: Catalogue) -> None:
        catalogue.add_course("9", resources=["processing"] * 3)  # resources 1, 2 and 3 of course 9
        load_lines(catalogue, line("1", "1"), line("2", "2"))
        with catalogue.session() as session:
            assert [ingestion_of_course(session, course).resources for course in ("1", "2", "9")] == [1, 1, 3]

    @pytest.mark.postgres
    @pytest.mark.parametrize("column", ["SERIAL", "INTEGER GENERATED ALWAYS AS IDENTITY"])
    @pytest.mark.parametrize("integer_catalogue", [("postgres", "integer")], indirect=True, ids="-".join)
    def test_new_resources_get_generated_ids_from_the_database(self, integer_catalogue: Catalogue, column: str) -> None:
        """Otherwise stage one's next insert would use an existing id."""
        with integer_catalogue.session() as session:
            session.execute(text("ALTER TABLE resource DROP COLUMN id"))
            session.execute(text(f"ALTER TABLE resource ADD COLUMN id {column} PRIMARY KEY"))
        load_lines(integer_catalogue, line("1"))
        with integer_catalogue.session() as session:
            session.execute(text("INSERT INTO resource (course_id, status) VALUES (1, 'processing')"))
            assert ingestion_of_course(session, "1").resources == 2

    @pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids="-".join)
    def test_load_locks_sqlite_before_the_first_read(self, text_catalogue: Catalogue) -> None:
        path = text_catalogue.url.removeprefix("sqlite:///")
        lock_errors: list[str] = []

        class ConcurrentWrites(BytesIO):
            def __next__(self) -> bytes:
                other = sqlite3.connect(path, timeout=0)
                try:
                    other.execute("INSERT INTO course (id) VALUES ('1')")
                except sqlite3.OperationalError as error:
                    lock_errors.append(str(error))
                other.close()
                return super().__next__()

        with text_catalogue.session() as session:
            load(session, [("f", ConcurrentWrites(json.dumps(line()).encode()))])
        assert set(lock_errors) == {"database is locked"}

    def test_load_of_several_batches(self, text_catalogue: Catalogue) -> None:
        lines = [line(f"c{number}", f"k{number % 3}") for number in range(1201)]
        assert [course.split(" ", 1)[0] for course in load_lines(text_catalogue, *lines)] == ["k0:", "k1:", "k2:"]
        lines = [line(f"c{number}", f"k{number % 3}", "new") for number in range(600, 1201)]
        assert load_lines(text_catalogue, *lines, replace=True) == [
            "k0: 201 chunks (0 new, 201 changed, 200 removed)",
            "k1: 200 chunks (0 new, 200 changed, 200 removed)",
            "k2: 200 chunks (0 new, 200 changed, 200 removed)",
        ]


class TestLoadErrors:
    def test_error_names_every_invalid_line(self, catalogue: Catalogue) -> None:
        assert load_errors(catalogue, line("1"), "{", "", line("2", content=""), line("3"), "[]") == [
            "f:2: not JSON: Expecting property name enclosed in double quotes at column 2",
            "f:4: text is blank",
            "f:6: not a JSON object but an array",
        ]

    def test_error_names_twenty_lines_and_counts_the_others(self, text_catalogue: Catalogue) -> None:
        reasons = load_errors(text_catalogue, line("1"), *["{"] * 1000)
        assert len(reasons) == 21
        assert reasons[-1] == "and 980 more invalid lines"

    def test_invalid_line_after_written_batches_rolls_them_back(self, text_catalogue: Catalogue) -> None:
        reasons = load_errors(text_catalogue, *[line(f"c{number}") for number in range(1100)], "{")
        assert reasons == ["f:1101: not JSON: Expecting property name enclosed in double quotes at column 2"]

    def test_repeated_id_with_different_content_is_rejected(self, catalogue: Catalogue) -> None:
        lines = [line("1"), line("1"), line("1", content="other"), line("1", "2")]
        assert load_errors(catalogue, *lines) == [
            "f:3: id '1' is on an earlier line with different content",
            "f:4: id '1' is on an earlier line with different content",
        ]
        assert load_lines(catalogue, *lines[:2]) == ["1: 1 chunks (1 new, 0 changed, 0 removed)"]

    def test_chunk_of_another_course_is_rejected(self, catalogue: Catalogue) -> None:
        load_lines(catalogue, line("1", "1"), line("2", "1"))
        reasons = load_errors(catalogue, line("3", "2"), line("1", "2"), "{", line("2", "2"), replace=True)
        assert reasons == [
            "f:2: id '1' already belongs to course '1'",
            "f:3: not JSON: Expecting property name enclosed in double quotes at column 2",
            "f:4: id '2' already belongs to course '1'",
        ]

    @pytest.mark.parametrize("padded", [" c1", "c1 ", "\tc1", "c1\u00a0", "\u3000c1"])
    def test_id_with_white_space_around_it_is_rejected(self, text_catalogue: Catalogue, padded: str) -> None:
        """It would be another course or chunk than `c1`, which people and tools take for the same."""
        assert load_errors(text_catalogue, line("c1", "c1"), line(padded, "c1"), line("c2", " c1 ")) == [
            f"f:2: id {padded!r} must not begin or end with white space",
            "f:3: course_id ' c1 ' must not begin or end with white space",
        ]
        assert load_lines(text_catalogue, line("c 1", "a  b")) == ["a  b: 1 chunks (1 new, 0 changed, 0 removed)"]

    def test_key_that_occurs_twice_in_a_row_is_rejected(self, catalogue: Catalogue) -> None:
        twice = json.dumps(line("2")).replace('"text": "text"', '"text": "first", "text": "second"')
        nested = json.dumps(line("3", metadata={"a": [{"b": 1}]})).replace('{"b": 1}', '{"b": 1, "b": 2}')
        assert load_errors(catalogue, line("1"), twice, nested) == [
            "f:2: the key 'text' occurs more than once in an object",
            "f:3: the key 'b' occurs more than once in an object",
        ]

    @pytest.mark.parametrize("empty", ["", "\n  \n"])
    def test_empty_source_is_rejected(self, text_catalogue: Catalogue, empty: str) -> None:
        assert load_errors(text_catalogue, empty) == ["f: contains no chunks"]

    @pytest.mark.parametrize("chunk_id", ["c1", "01", " 1", "1.0", "１", "9" * 30])
    def test_text_id_is_rejected_by_an_integer_column(self, integer_catalogue: Catalogue, chunk_id: str) -> None:
        assert load_errors(integer_catalogue, line("1"), line(chunk_id)) == [
            f"f:2: {chunk_id!r} cannot be stored: chunk.id is an integer in this database"
        ]

    @pytest.mark.parametrize(
        ("changes", "column"),
        [
            ({"course_id": "a"}, "course.id"),
            ({"lecture_id": "l1"}, "chunk.lecture_id"),
            ({"section_id": "s1"}, "chunk.section_id"),
        ],
    )
    def test_every_id_column_is_checked(self, integer_catalogue: Catalogue, changes: Line, column: str) -> None:
        [reason] = load_errors(integer_catalogue, line("1", **changes))
        assert f"{column} is an integer" in reason

    def test_integer_id_out_of_range_is_rejected(self, integer_catalogue: Catalogue) -> None:
        largest = 2**31 - 1 if integer_catalogue.is_postgres else 2**63 - 1
        load_lines(integer_catalogue, line(largest))
        assert len(load_errors(integer_catalogue, line(largest + 1))) == 1

    def test_row_rejected_by_the_database_is_one_line(self, catalogue: Catalogue) -> None:
        with catalogue.session() as session:
            session.execute(text("ALTER TABLE course ADD COLUMN subject VARCHAR CHECK (subject IS NOT NULL)"))
        [reason] = load_errors(catalogue, line("1"))
        assert reason.startswith("The database rejects the rows: ")
        assert "subject" in reason

    @pytest.mark.postgres
    @pytest.mark.parametrize("integer_catalogue", [("postgres", "integer")], indirect=True, ids="-".join)
    def test_id_in_an_always_generated_column_is_rejected(self, integer_catalogue: Catalogue) -> None:
        with integer_catalogue.session() as session:
            session.execute(text("ALTER TABLE chunk ALTER id ADD GENERATED ALWAYS AS IDENTITY"))
        [reason] = load_errors(integer_catalogue, line("1"))
        assert reason.startswith("The database rejects the rows: ")
