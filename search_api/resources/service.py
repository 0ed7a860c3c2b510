"""Creates courses, and receives and deletes their files.

An upload goes to the disk while it arrives, a piece at a time and on threads of its own: a full queue, or a slow disk,
must not take the threads that searches use.
"""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from documents.settings import DocumentSettings
from documents.uploads import PIECE_BYTES, Upload, Uploads, open_import
from maintenance.resources import add_file, file_name, remove_file
from models.courses import get_course
from models.database import Engine
from models.messages import not_found_message
from models.resources import NoSuchCourseError, create_course, get_resource, resources_of
from models.tables import Course, UploadedResource
from models.text import quoted
from search_api.http.errors import (
    CourseExistsError,
    CourseNotFoundError,
    InvalidRequestError,
    ResourceNotFoundError,
)
from search_api.http.waits import transaction, using_catalogue, waiting
from search_api.resources.upload_form import UploadForm

T = TypeVar("T")

THREADS = 4


class Resources:
    """The uploaded files. Threads may share it.

    Every method may raise `DatabaseUnavailableError`, and those that change something `NotOurTablesError`; those that
    write a file, or delete one, `UploadsUnavailableError`.

    Args:
        engine: The catalogue.
        settings: Where the files are, and how large one may be.
    """

    def __init__(self, engine: Engine, settings: DocumentSettings) -> None:
        self._engine = engine
        self._uploads = Uploads(settings.upload_dir)
        self._max_bytes = settings.upload_max_bytes
        self._import_dir = settings.import_dir
        self._threads = anyio.CapacityLimiter(THREADS)

    def create_course(self, course_id: str) -> Course:
        """Create a course without files.

        Raises:
            CourseExistsError: It exists already.
            InvalidRequestError: The id is not allowed.
        """
        try:
            with transaction(self._engine) as session:
                is_new = create_course(session, course_id)
                course = get_course(session, course_id)
        except ValueError as error:
            raise InvalidRequestError(f"course_id: {error}") from None
        if not is_new or course is None:
            raise CourseExistsError(f"There is a course {quoted(course_id)} already")
        return course

    async def receive(self, content_type: str, body: AsyncIterator[bytes]) -> UploadedResource:
        """Add the file of a form to a course. Unless it is added as a whole, nothing is left of it.

        Raises:
            FileTooLargeError: The file is larger than it may be.
            CourseNotFoundError: No course has this id.
            InvalidRequestError: The form is not that of an upload.
        """
        form = UploadForm(content_type)
        upload = await self._on_thread(partial(self._uploads.receive, self._max_bytes))
        try:
            async for piece in body:
                form.feed(piece)
                if form.waiting >= PIECE_BYTES:
                    await self._on_thread(partial(upload.write, form.take()))
            course_id, name = form.finish()
            return await self._on_thread(partial(self._add, course_id, name, upload, form.take()))
        finally:
            with anyio.CancelScope(shield=True):
                await self._on_thread(upload.discard)

    async def take(self, course_id: str, path: str) -> UploadedResource:
        """Add a file that is below IMPORT_DIR; it is copied.

        Raises:
            ImportRefusedError: There is no such file.
            FileTooLargeError: It is larger than it may be.
            CourseNotFoundError: No course has this id.
            InvalidRequestError: Paths are not allowed, or the file is empty.
        """
        if self._import_dir is None:
            raise InvalidRequestError(
                "path: is not allowed here, because IMPORT_DIR is not set; upload the file instead"
            )
        return await self._on_thread(partial(self._take, self._import_dir, course_id, path))

    def of_course(self, course_id: str) -> list[UploadedResource]:
        """The files of a course, in their order.

        Raises:
            CourseNotFoundError: No course has this id.
        """
        with transaction(self._engine) as session:
            if get_course(session, course_id) is None:
                raise CourseNotFoundError(not_found_message(course_id))
            return resources_of(session, course_id)

    def get(self, resource_id: str) -> UploadedResource:
        """One file.

        Raises:
            ResourceNotFoundError: No file has this id.
        """
        with transaction(self._engine) as session:
            resource = get_resource(session, resource_id)
        return _existing(resource, resource_id)

    def delete(self, resource_id: str) -> UploadedResource:
        """Delete a file and its chunks, and return its last state.

        Raises:
            ResourceNotFoundError: No file has this id.
        """
        with using_catalogue():
            removed = remove_file(self._engine, self._uploads, resource_id)
        return _existing(removed, resource_id)

    def _take(self, directory: Path, course_id: str, path: str) -> UploadedResource:
        with open_import(directory, path) as stream, self._uploads.save(stream, self._max_bytes) as upload:
            return self._add(course_id, PurePosixPath(path).name, upload)

    def _add(self, course_id: str, name: str, upload: Upload, rest: bytes = b"") -> UploadedResource:
        upload.write(rest)
        if not upload.size:
            raise InvalidRequestError("file: is empty")
        try:
            return add_file(self._engine, self._uploads, course_id, file_name(name), upload, now=datetime.now(UTC))
        except NoSuchCourseError:
            raise CourseNotFoundError(not_found_message(course_id)) from None
        except ValueError as error:
            raise InvalidRequestError(f"file: its name {error}") from None

    async def _on_thread(self, call: Callable[[], T]) -> T:
        with waiting():
            return await run_sync(call, limiter=self._threads)


def _existing(resource: UploadedResource | None, resource_id: str) -> UploadedResource:
    if resource is None:
        raise ResourceNotFoundError(f"There is no uploaded file {quoted(resource_id)}")
    return resource
