"""The two clients."""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar, Unpack

import httpx

from course_search_client import calls
from course_search_client.answers import (
    Course,
    CoursePage,
    CoursesSearchAnswer,
    EmbeddingState,
    EmbeddingStatus,
    PassageAnswer,
    Reranking,
    Resource,
    SearchAnswer,
    TextEmbeddings,
)
from course_search_client.exchange import Connection, Exchange, Outcome, Pause
from course_search_client.options import CourseScope, CoursesSearchOptions, Query, SearchOptions

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
EMBEDDING_TIMEOUT_SECONDS = 600.0
UPLOAD_TIMEOUT_SECONDS = 600.0


class CourseSearch:
    """Calls a search app. It may be used by several threads.

    Without `http`, the app is called directly, whatever the proxy variables of the environment contain.

    Args:
        base_url: The address of the app; by default, the environment variable COURSE_SEARCH_URL.
        token: The app's INTERNAL_TOKEN; by default, COURSE_SEARCH_TOKEN, if it is set.
        timeout: Seconds for a call with all its attempts. Each wait for the network is limited by what is left of them.
        attempts: How often a call is tried at most. Only what changes nothing, or was not processed, is tried again.
        http: Sends the requests, for example through a proxy or with another certificate. It is not closed.

    Raises:
        ValueError: There is no base URL, or it or the token cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        http: httpx.Client | None = None,
    ) -> None:
        url, token = _base_url(base_url), _token(token)
        self._http = http or httpx.Client(trust_env=False)
        self._closes_http = http is None
        self._connection = Connection(url, token, timeout, attempts, self._http.build_request)

    def search(self, course_id: str, query: Query, **options: Unpack[SearchOptions]) -> SearchAnswer:
        """Search one course."""
        return self._run(self._connection.send(calls.search(course_id, query, options)))

    def search_courses(
        self,
        query: Query,
        courses: Sequence[str | CourseScope] | None = None,
        **options: Unpack[CoursesSearchOptions],
    ) -> CoursesSearchAnswer:
        """Search several courses at once, by default all that can be searched."""
        return self._run(self._connection.send(calls.search_courses(query, courses, options)))

    def passage(self, course_id: str, chunk_id: str, *, context: int | None = None) -> PassageAnswer:
        """One chunk, with so many chunks before and after it."""
        return self._run(self._connection.send(calls.passage(course_id, chunk_id, context)))

    def courses(
        self, *, search: str | None = None, status: EmbeddingStatus | None = None, limit: int | None = None
    ) -> list[Course]:
        """Courses with their embedding state, by id: all, or the first `limit`.

        `search` is a part of the id, in any case.
        """
        return self._run(self._connection.send(calls.courses(search, status, limit)))

    def course_page(
        self,
        *,
        search: str | None = None,
        status: EmbeddingStatus | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> CoursePage:
        """The same with the number of all courses; `next_cursor` of the answer is the `cursor` of the next page."""
        return self._run(self._connection.send(calls.course_page(search, status, limit, cursor)))

    def create_course(self, course_id: str) -> Course:
        """Create a course without files.

        Raises:
            CourseExistsError: It exists already.
        """
        return self._run(self._connection.send(calls.create_course(course_id)))

    def add_resource(
        self,
        course_id: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
        timeout: float = UPLOAD_TIMEOUT_SECONDS,
    ) -> Resource:
        """Upload a file to a course; the pipeline turns it into chunks and embeds the course.

        A file of the same name is replaced. The content is read while it is sent, so it may be large.

        Args:
            course_id: The course.
            file: The path of the file, or the file opened in binary mode, which is not closed.
            name: The name of the file; by default, that of the path. An opened file without a name needs one.
            timeout: Seconds for the upload with all its attempts.

        Raises:
            OSError: The file cannot be read.
            RequestTooLargeError: The file is larger than the app accepts.
            ValueError: The name is not known.
        """
        with _opened(file, name) as (stream, file_name):
            return self._run(self._connection.send(calls.add_resource(course_id, file_name, stream), timeout))

    def resources(self, course_id: str) -> list[Resource]:
        """The files of a course, in the order in which they were added."""
        return self._run(self._connection.send(calls.resources(course_id)))

    def resource(self, resource_id: str) -> Resource:
        """Status, progress and error of a file."""
        return self._run(self._connection.send(calls.resource(resource_id)))

    def delete_resource(self, resource_id: str) -> Resource:
        """Delete a file and its chunks, and return its last state."""
        return self._run(self._connection.send(calls.delete_resource(resource_id)))

    def embedding_status(self, course_id: str) -> EmbeddingState:
        """Status and progress of the embedding of a course."""
        return self._run(self._connection.send(calls.embedding_status(course_id)))

    def embed(self, course_id: str) -> None:
        """Request an embedding; it runs in the background. The course remains searchable."""
        self._run(self._connection.send(calls.embed(course_id)))

    def wait_until_searchable(self, course_id: str, timeout: float = EMBEDDING_TIMEOUT_SECONDS) -> EmbeddingState:
        """Wait at most `timeout` seconds until the embedding of a course is done.

        Raises:
            EmbeddingFailedError: It failed; the message has the reason.
            TimedOutError: It is not done in time.
        """
        return self._run(self._connection.wait_until_searchable(course_id, timeout))

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Vectors of up to 64 texts, embedded as documents."""
        return self._run(self._connection.send(calls.embed_texts(texts)))

    def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> Reranking:
        """Score texts by the app's rerank model, the likely best first: if time is short, the first ones are scored."""
        return self._run(self._connection.send(calls.rerank(query, documents, top_n)))

    def feedback(self, course_id: str, query: str, *, helpful: bool, chunk_id: str | None = None) -> None:
        """Record whether a passage helped, or the answer as a whole if `chunk_id` is None.

        Raises:
            QueryLogOffError: The app does not record feedback.
        """
        self._run(self._connection.send(calls.feedback(course_id, query, chunk_id, helpful=helpful)))

    def close(self) -> None:
        """Close the connections, unless `http` was given."""
        if self._closes_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                outcome = None
            else:
                try:
                    outcome = self._http.send(step.request)
                except httpx.RequestError as error:
                    outcome = error


class AsyncCourseSearch:
    """Calls a search app from asyncio. The methods, arguments and errors are those of `CourseSearch`.

    `timeout` limits a call as a whole.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        url, token = _base_url(base_url), _token(token)
        self._http = http or httpx.AsyncClient(trust_env=False)
        self._closes_http = http is None
        self._connection = Connection(url, token, timeout, attempts, self._http.build_request)

    async def search(self, course_id: str, query: Query, **options: Unpack[SearchOptions]) -> SearchAnswer:
        """Search one course."""
        return await self._run(self._connection.send(calls.search(course_id, query, options)))

    async def search_courses(
        self,
        query: Query,
        courses: Sequence[str | CourseScope] | None = None,
        **options: Unpack[CoursesSearchOptions],
    ) -> CoursesSearchAnswer:
        """Search several courses at once, by default all that can be searched."""
        return await self._run(self._connection.send(calls.search_courses(query, courses, options)))

    async def passage(self, course_id: str, chunk_id: str, *, context: int | None = None) -> PassageAnswer:
        """One chunk, with so many chunks before and after it."""
        return await self._run(self._connection.send(calls.passage(course_id, chunk_id, context)))

    async def courses(
        self, *, search: str | None = None, status: EmbeddingStatus | None = None, limit: int | None = None
    ) -> list[Course]:
        """Courses with their embedding state, by id: all, or the first `limit`.

        `search` is a part of the id, in any case.
        """
        return await self._run(self._connection.send(calls.courses(search, status, limit)))

    async def course_page(
        self,
        *,
        search: str | None = None,
        status: EmbeddingStatus | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> CoursePage:
        """The same with the number of all courses; `next_cursor` of the answer is the `cursor` of the next page."""
        return await self._run(self._connection.send(calls.course_page(search, status, limit, cursor)))

    async def create_course(self, course_id: str) -> Course:
        """Create a course without files.

        Raises:
            CourseExistsError: It exists already.
        """
        return await self._run(self._connection.send(calls.create_course(course_id)))

    async def add_resource(
        self,
        course_id: str,
        file: str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
        timeout: float = UPLOAD_TIMEOUT_SECONDS,
    ) -> Resource:
        """Upload a file to a course; the pipeline turns it into chunks and embeds the course.

        A file of the same name is replaced. The content is read while it is sent, so it may be large.

        Args:
            course_id: The course.
            file: The path of the file, or the file opened in binary mode, which is not closed.
            name: The name of the file; by default, that of the path. An opened file without a name needs one.
            timeout: Seconds for the upload with all its attempts.

        Raises:
            OSError: The file cannot be read.
            RequestTooLargeError: The file is larger than the app accepts.
            ValueError: The name is not known.
        """
        with _opened(file, name) as (stream, file_name):
            return await self._run(self._connection.send(calls.add_resource(course_id, file_name, stream), timeout))

    async def resources(self, course_id: str) -> list[Resource]:
        """The files of a course, in the order in which they were added."""
        return await self._run(self._connection.send(calls.resources(course_id)))

    async def resource(self, resource_id: str) -> Resource:
        """Status, progress and error of a file."""
        return await self._run(self._connection.send(calls.resource(resource_id)))

    async def delete_resource(self, resource_id: str) -> Resource:
        """Delete a file and its chunks, and return its last state."""
        return await self._run(self._connection.send(calls.delete_resource(resource_id)))

    async def embedding_status(self, course_id: str) -> EmbeddingState:
        """Status and progress of the embedding of a course."""
        return await self._run(self._connection.send(calls.embedding_status(course_id)))

    async def embed(self, course_id: str) -> None:
        """Request an embedding; it runs in the background. The course remains searchable."""
        await self._run(self._connection.send(calls.embed(course_id)))

    async def wait_until_searchable(self, course_id: str, timeout: float = EMBEDDING_TIMEOUT_SECONDS) -> EmbeddingState:
        """Wait at most `timeout` seconds until the embedding of a course is done.

        Raises:
            EmbeddingFailedError: It failed; the message has the reason.
            TimedOutError: It is not done in time.
        """
        return await self._run(self._connection.wait_until_searchable(course_id, timeout))

    async def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Vectors of up to 64 texts, embedded as documents."""
        return await self._run(self._connection.send(calls.embed_texts(texts)))

    async def rerank(self, query: str, documents: Sequence[str], *, top_n: int | None = None) -> Reranking:
        """Score texts by the app's rerank model, the likely best first: if time is short, the first ones are scored."""
        return await self._run(self._connection.send(calls.rerank(query, documents, top_n)))

    async def feedback(self, course_id: str, query: str, *, helpful: bool, chunk_id: str | None = None) -> None:
        """Record whether a passage helped, or the answer as a whole if `chunk_id` is None.

        Raises:
            QueryLogOffError: The app does not record feedback.
        """
        await self._run(self._connection.send(calls.feedback(course_id, query, chunk_id, helpful=helpful)))

    async def close(self) -> None:
        """Close the connections, unless `http` was given."""
        if self._closes_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = exchange.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                try:
                    async with asyncio.timeout(step.seconds):
                        outcome = await self._http.send(step.request)
                except httpx.RequestError as error:
                    outcome = error
                except TimeoutError:
                    outcome = httpx.ReadTimeout("", request=step.request)


@contextmanager
def _opened(file: str | os.PathLike[str] | BinaryIO, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """The content of a file, and its name."""
    if isinstance(file, str | os.PathLike):
        with Path(file).open("rb") as stream:
            yield stream, name or Path(file).name
        return
    name = name or getattr(file, "name", None)
    if not isinstance(name, str):
        raise ValueError("What is the name of the file? Pass it as name")
    yield file, Path(name).name


def _base_url(given: str | None) -> str:
    url = given or os.environ.get("COURSE_SEARCH_URL")
    if not url:
        raise ValueError("Where is the search app? Pass base_url, or set COURSE_SEARCH_URL, to its address")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("The address of the search app must be a URL that begins with http:// or https://")
    if parsed.userinfo:  # httpx would log it
        raise ValueError("The address of the search app contains a password: pass http=httpx.Client(auth=…) instead")
    return url.rstrip("/")


def _token(given: str | None) -> str | None:
    token = (given or os.environ.get("COURSE_SEARCH_TOKEN") or "").strip()
    if not token.isprintable():
        raise ValueError("The token contains a line break or another character that cannot be sent")
    return token or None
