"""Both clients against the app behind a real HTTP server."""

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import pytest

from course_search_client import answers, errors, exchange, options
from models.database import transaction
from models.tables import Course, EmbeddingStatus
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.search.schemas import CoursesSearchRequest, SearchedCourseRequest, SearchRequest
from tests.course_search_client.clients import connect
from tests.course_search_client.conftest import TOKEN
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness

pytestmark = pytest.mark.integration


@pytest.fixture
def client(kind: str, url: str) -> Iterator[Any]:
    with connect(kind, url, token=TOKEN, timeout=LIMIT_SECONDS) as client:
        yield client


def test_search(harness: AppHarness, client: Any) -> None:
    metadata = [{"chunk_id": str(n), "section_id": str(n)} for n in range(3)]
    harness.add_searchable_course("a/b 课", "copper foil", "solder mask", "prepreg", metadata=metadata)
    answer = client.search("a/b 课", ["solder mask", "阻焊"], top_k=2, filters={"section_id": [0, "1"]}, explain=True)
    assert {result["text"] for result in answer["results"]} == {"copper foil", "solder mask"}
    assert answer["results"][0]["explanation"] is not None
    assert get_type_hints(answers.SearchAnswer).keys() <= answer.keys()
    assert get_type_hints(answers.SearchResult).keys() <= answer["results"][0].keys()


def test_search_several_courses(harness: AppHarness, client: Any) -> None:
    """Each course has its own outcome; one that cannot be searched does not fail the others."""
    harness.add_searchable_course("a", "copper foil", "solder mask")
    harness.add_searchable_course("b", "solder paste")
    harness.add_course("new", EmbeddingStatus.NOT_STARTED)
    answer = client.search_courses("solder", ["a", {"course_id": "b"}, "new", "none"], per_course=1)
    outcomes = {outcome["course_id"]: outcome for outcome in answer["courses"]}
    assert [outcomes[course_id]["results"] for course_id in ("a", "b")] == [1, 1]
    assert [outcomes[course_id]["state"] for course_id in ("new", "none")] == ["not_ready", "not_found"]
    assert outcomes["none"]["error"]["code"] == errors.CourseNotFoundError.code
    assert {result["citation"]["course_id"] for result in answer["results"]} == {"a", "b"}
    of_all = client.search_courses("solder", group_by="course")
    assert {group["course_id"] for group in of_all["groups"]} == {"a", "b"}


def test_passage(harness: AppHarness, client: Any) -> None:
    metadata = [{"section_id": "1", "order_in_section": n} for n in range(3)]
    harness.add_searchable_course("a/b", "copper foil", "solder mask", "prepreg", metadata=metadata)
    passage = client.passage("a/b", "chunk-1", context=1)
    assert (passage["chunk_id"], passage["text"]) == ("chunk-1", "solder mask")
    assert [[near["text"] for near in passage["context"][side]] for side in ("before", "after")] == [
        ["copper foil"],
        ["prepreg"],
    ]
    with pytest.raises(errors.ChunkNotFoundError):
        client.passage("a/b", "../chunk")


def test_feedback(harness: AppHarness, client: Any) -> None:
    harness.add_course("c")
    with pytest.raises(errors.QueryLogOffError):
        client.feedback("c", "q", helpful=True)


def test_courses_and_their_embedding(harness: AppHarness, client: Any) -> None:
    harness.add_course("c", EmbeddingStatus.FAILED, embedding_error="no disk space")
    state = {"embedding_status": "failed", "embedding_progress": 0.0, "embedding_error": "no disk space"}
    assert client.courses() == [{"course_id": "c", **state, "dagster_url": None}]
    with pytest.raises(errors.EmbeddingFailedError, match="no disk space"):
        client.wait_until_searchable("c")
    client.embed("c")
    state = {"course_id": "c", "status": "pending", "progress": 0.0, "error": None, "due": True}
    assert client.embedding_status("c") == state


def test_pages_of_courses(harness: AppHarness, client: Any) -> None:
    for course_id in ("a1", "a2", "a3", "b"):
        harness.add_course(course_id)
    first = client.course_page(search="A", limit=2)
    second = client.course_page(search="A", limit=2, cursor=first["next_cursor"])
    assert [course["course_id"] for page in (first, second) for course in page["courses"]] == ["a1", "a2", "a3"]
    assert (first["total"], second["next_cursor"]) == (3, None)
    assert [course["course_id"] for course in client.courses(search="b", limit=1)] == ["b"]


def test_files_of_a_course(harness: AppHarness, client: Any, tmp_path: Path) -> None:
    path = tmp_path / '课 "1".md'
    path.write_bytes(b"# Title")
    assert client.create_course("a/b")["embedding_status"] == "not_started"
    with pytest.raises(errors.CourseExistsError):
        client.create_course("a/b")
    added = client.add_resource("a/b", path)
    assert (added["name"], added["size"], added["status"]) == (path.name, 7, "pending")
    assert client.add_resource("a/b", str(path)) == added
    with path.open("rb") as stream:
        stream.read(2)
        named = client.add_resource("a/b", stream, name="other.md")
        assert not stream.closed
    assert (named["name"], named["size"]) == ("other.md", 7)
    assert client.add_resource("a/b", io.BytesIO(b"x" * 3_000_000), name="large.md")["size"] == 3_000_000
    assert client.resources("a/b")[:2] == [added, named]
    assert client.resource(named["resource_id"]) == named
    assert client.delete_resource(named["resource_id"]) == named
    with pytest.raises(errors.ResourceNotFoundError):
        client.resource(named["resource_id"])
    with pytest.raises(errors.CourseNotFoundError):
        client.add_resource("none", path)
    with pytest.raises(ValueError, match="name of the file"):
        client.add_resource("a/b", io.BytesIO(b"text"))
    with pytest.raises(FileNotFoundError):
        client.add_resource("a/b", tmp_path / "none.md")


def test_wait_until_searchable(harness: AppHarness, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The course is done after the client has seen it once."""
    harness.add_course("c", EmbeddingStatus.RUNNING)
    monkeypatch.setattr(exchange, "FIRST_POLL_SECONDS", 0.001)
    read = exchange.Connection.send

    def publish_after_the_first_look(connection: exchange.Connection, call: Any, timeout: float | None = None) -> Any:
        state = yield from read(connection, call, timeout)
        with transaction(harness.engine) as session:
            course = session.get(Course, "c")
            assert course is not None
            course.embedding_status = EmbeddingStatus.DONE
        return state

    monkeypatch.setattr(exchange.Connection, "send", publish_after_the_first_look)
    assert client.wait_until_searchable("c", timeout=LIMIT_SECONDS)["status"] == "done"


def test_embed_texts(client: Any) -> None:
    answer = client.embed_texts(["copper", "锡"])
    assert (answer["dimensions"], len(answer["embeddings"]), answer["model"]) == (3, 2, "stub-model")


def test_errors_of_the_app(kind: str, harness: AppHarness, client: Any, url: str) -> None:
    harness.add_course("new", EmbeddingStatus.NOT_STARTED)
    harness.add_course("busy", EmbeddingStatus.RUNNING)
    with pytest.raises(errors.EmbeddingNotReadyError) as raised:
        client.search("new", "q")
    assert (raised.value.code, raised.value.status) == ("embedding_not_ready", 400)
    with pytest.raises(errors.CourseNotFoundError):
        client.search("none", "q")
    with pytest.raises(errors.RerankModelUnavailableError):
        client.rerank("q", ["a text"])
    with pytest.raises(errors.AlreadyRunningError):
        client.embed("busy")
    with pytest.raises(errors.InvalidRequestError, match="top_k"):
        client.search("new", "q", top_k=1000)
    with pytest.raises(errors.InvalidRequestError, match="unknown field 'topk'"):
        client.search("new", "q", topk=3)
    with connect(kind, url, token="wrong") as stranger, pytest.raises(errors.UnauthorizedError):
        stranger.courses()
    with connect(kind, f"{url}/prefix", token=TOKEN) as lost, pytest.raises(errors.NotFoundError):
        lost.courses()


def test_unreachable_app(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.001)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with (
        connect(kind, f"http://127.0.0.1:{port}") as client,
        pytest.raises(errors.UnreachableError, match=f"127.0.0.1:{port}.*cannot be reached") as raised,
    ):
        client.courses()
    assert isinstance(raised.value.__cause__, httpx.ConnectError)


def test_app_that_does_not_answer(kind: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        connect(kind, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2) as client,
        pytest.raises(errors.TimedOutError, match=r"did not answer within 0\.2 s"),
    ):
        client.courses()


def test_connection_that_the_app_closes_is_no_error_of_a_search(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the app restarts: the first connection is closed without an answer, the second one is answered."""
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.001)
    body = b'{"results": []}'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)):
                connection, _ = server.accept()
                with connection:
                    while b"}" not in connection.recv(65536):  # the end of the request
                        pass
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with connect(kind, f"http://127.0.0.1:{server.getsockname()[1]}", timeout=LIMIT_SECONDS) as client:
            assert client.search("c", "q") == {"results": []}
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive()


def test_options_are_the_fields_of_a_request() -> None:
    """If this fails, `course_search_client/options.py` lacks a field, or has one that the app does not know."""
    assert get_type_hints(options.SearchOptions).keys() == SearchRequest.model_fields.keys() - {"query"}
    in_each_course = get_type_hints(options.CourseScope).keys() - {"course_id"}
    of_several = CoursesSearchRequest.model_fields.keys() - {"query", "courses", "diversity", *in_each_course}
    assert get_type_hints(options.CoursesSearchOptions).keys() == of_several
    assert get_type_hints(options.CourseScope).keys() == SearchedCourseRequest.model_fields.keys()


ANSWERS = {
    "SearchResponse": answers.SearchAnswer,
    "SearchResult": answers.SearchResult,
    "Passage": answers.ContextPassage,
    "Neighbours": answers.Neighbours,
    "ChunkResponse": answers.PassageAnswer,
    "Citation": answers.Citation,
    "CoursesSearchResponse": answers.CoursesSearchAnswer,
    "SearchedCourse": answers.CourseOutcome,
    "ResultGroup": answers.Group,
    "FacetValue": answers.Facet,
    "EmbeddingState": answers.EmbeddingState,
    "CourseSummary": answers.Course,
    "CourseList": answers.CoursePage,
    "Resource": answers.Resource,
    "RerankResponse": answers.Reranking,
    "RerankResult": answers.RerankResult,
    "EmbedResponse": answers.TextEmbeddings,
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    schemas: dict[str, Any] = create_app(SearchSettings()).openapi()["components"]["schemas"]
    return schemas


@pytest.mark.parametrize("schema", ANSWERS)
def test_answers_have_the_fields_of_the_documentation(schemas: dict[str, Any], schema: str) -> None:
    """If this fails, `course_search_client/answers.py` is not what the app sends."""
    fields = get_type_hints(ANSWERS[schema])
    documented = schemas[schema]["properties"]
    assert fields.keys() == documented.keys()
    may_be_none = {name for name, kind in fields.items() if type(None) in get_args(kind)}
    may_be_null = {name for name, kind in documented.items() if {"type": "null"} in kind.get("anyOf", [])}
    assert may_be_none == may_be_null
