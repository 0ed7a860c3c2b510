import pytest
from sqlalchemy import event, text

from models import ingestion
from models.ingestion import Ingestion
from tests.support.catalogue import Catalogue


class TestIngestion:
    def test_counts_of_every_course(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded", "succeeded"], chunks=["ab", "电路板"])
        catalogue.add_course("2", resources=["succeeded", "processing"], chunks=["abc"])
        catalogue.add_course("3", resources=["succeeded"])
        catalogue.add_course("4", chunks=["x"])
        catalogue.add_course("5")
        with catalogue.session() as session:
            counts = ingestion.ingestion_by_course(session)
            assert counts == {
                "1": Ingestion(2, 2, 2),
                "2": Ingestion(2, 1, 1),
                "3": Ingestion(1, 1, 0),
                "4": Ingestion(0, 0, 1),
                "5": Ingestion(),
            }
            assert {course_id for course_id, ingested in counts.items() if ingested.finished} == {"1", "3"}
            assert {course_id: ingestion.ingestion_of_course(session, course_id) for course_id in counts} == counts
            assert ingestion.ingestion_by_course(session, ["2", "5"]) == {"2": counts["2"], "5": counts["5"]}

    @pytest.mark.postgres
    @pytest.mark.parametrize("text_catalogue", [("postgres", "text")], indirect=True, ids="-".join)
    def test_columns_may_have_different_collations(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", resources=["succeeded"], chunks=["x"])
        with text_catalogue.session() as session:
            session.execute(text('ALTER TABLE course ALTER id TYPE VARCHAR COLLATE "POSIX"'))
            for table in ("resource", "chunk"):
                session.execute(text(f'ALTER TABLE {table} ALTER course_id TYPE VARCHAR COLLATE "C"'))
            assert ingestion.ingestion_by_course(session) == {"1": Ingestion(1, 1, 1)}

    @pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids="-".join)
    def test_undecodable_course_ids_in_sqlite_are_ignored(self, text_catalogue: Catalogue) -> None:
        self.check_undecodable_course_ids(text_catalogue, "CAST(X'636166e9' AS TEXT)")

    @pytest.mark.postgres
    def test_undecodable_course_ids_in_postgres_are_ignored(self, sql_ascii_catalogue: Catalogue) -> None:
        self.check_undecodable_course_ids(sql_ascii_catalogue, r"E'caf\xe9'")

    def check_undecodable_course_ids(self, catalogue: Catalogue, course_id: str) -> None:
        catalogue.add_course("1", resources=["succeeded", "failed"], chunks=["x", "y"])
        with catalogue.session() as session:
            session.execute(text(f"UPDATE resource SET course_id = {course_id} WHERE status = 'failed'"))
            session.execute(text(f"UPDATE chunk SET course_id = {course_id} WHERE text = 'y'"))
        with catalogue.session() as session:
            assert ingestion.ingestion_by_course(session) == {"1": Ingestion(1, 1, 1)}

    def test_number_of_queries_is_independent_of_the_number_of_courses(self, text_catalogue: Catalogue) -> None:
        for number in range(20):
            text_catalogue.add_course(f"c{number}", resources=["succeeded"], chunks=["x"])
        statements: list[str] = []
        event.listen(text_catalogue.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        with text_catalogue.session() as session:
            assert len(ingestion.ingestion_by_course(session)) == 20
        assert len([statement for statement in statements if not statement.startswith("SET LOCAL")]) == 4
