"""The files of courses: their rows in the catalogue and their content in UPLOAD_DIR, for the app and the commands."""

import unicodedata
from datetime import datetime

from documents.uploads import Upload, Uploads
from models.courses import get_course
from models.database import Engine, transaction
from models.resources import MAX_NAME_CHARACTERS, NoSuchCourseError, delete_resource, lock_resource, put_resource
from models.tables import UploadedResource
from models.text import one_line, without_surrogates

MAX_SUFFIX_CHARACTERS = 20


def file_name(sent: str) -> str:
    """The name under which a file is shown, of the name or path that a program sent.

    Without directories and control characters, in Unicode's form NFC, and cut before its suffix if it is too long.

    Raises:
        ValueError: Nothing is left of it.
    """
    base = sent.replace("\\", "/").rpartition("/")[2]
    name = unicodedata.normalize("NFC", one_line(without_surrogates(base)))
    if not name.strip("."):
        raise ValueError("is not the name of a file")
    stem, dot, suffix = name.rpartition(".")
    if len(name) <= MAX_NAME_CHARACTERS or not stem or len(suffix) > MAX_SUFFIX_CHARACTERS:
        return name[:MAX_NAME_CHARACTERS]
    return stem[: MAX_NAME_CHARACTERS - len(dot + suffix)] + dot + suffix


def add_file(
    engine: Engine, uploads: Uploads, course_id: str, name: str, upload: Upload, *, now: datetime
) -> UploadedResource:
    """Make a received file a resource of the course, or the new content of its resource with this name.

    Args:
        engine: The catalogue.
        uploads: UPLOAD_DIR.
        course_id: The course.
        name: See `file_name`.
        upload: The file, complete; it is kept unless an error is raised.
        now: The current time.

    Raises:
        models.resources.NoSuchCourseError: There is no such course.
        models.resources.NotOurTablesError: Stage one owns the tables.
        documents.uploads.UploadsUnavailableError: The file cannot be kept.
        ValueError: The name is not allowed.
    """
    upload.finish()
    with transaction(engine) as session:
        if get_course(session, course_id) is None:
            raise NoSuchCourseError(course_id)
        resource = put_resource(session, course_id, name, size=upload.size, sha256=upload.sha256, now=now)
        uploads.keep(upload, resource.resource_id)  # before the row can be read, so that its file is always there
    if resource.created_at != now:
        with transaction(engine) as session:
            # Locked, so that no one puts an earlier content back between the look at the row and the deletion.
            if current := lock_resource(session, resource.resource_id):
                uploads.remove_others(current.resource_id, current.sha256)
    return resource


def remove_file(engine: Engine, uploads: Uploads, resource_id: str) -> UploadedResource | None:
    """Delete a resource: its rows, its chunks and its file.

    Returns:
        Its last state; None if there is no such resource.
    """
    with transaction(engine) as session:
        resource = delete_resource(session, resource_id)
    if resource is not None:
        uploads.remove(resource.resource_id, resource.sha256)
    return resource
