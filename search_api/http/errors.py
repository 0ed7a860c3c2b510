"""All errors of the API: HTTP status, code and meaning.

Every error is sent as `{"error": {"code": …, "message": …}}`. Callers decide by the code, so a code never changes its
meaning or its status. The docstring of an error class is the default message, and the description of the code in the
documentation.
"""

import inspect
from collections.abc import Mapping
from typing import ClassVar

from embedding.model_names import is_same_model
from models.text import quoted


class ApiError(Exception):
    """Base class of all errors of the API."""

    status: ClassVar[int]
    code: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.meaning())

    @property
    def message(self) -> str:
        """The message that is sent to the caller."""
        return str(self)

    @classmethod
    def meaning(cls) -> str:
        """The meaning of the code in one sentence: the docstring of the class."""
        return " ".join(inspect.cleandoc(cls.__doc__ or "").split())


class EmbeddingNotReadyError(ApiError):
    """Nothing of the course can be searched: it is not published yet, or its snapshot and its collection are gone."""

    status, code = 400, "embedding_not_ready"


class UnauthorizedError(ApiError):
    """The token is missing or wrong: send INTERNAL_TOKEN in the header X-Internal-Token, or as a bearer token."""

    status, code = 401, "unauthorized"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="course-search"'}


class CorsRefusedError(ApiError):
    """A page of another origin may not send this request, or not with this method or header; see CORS_ORIGINS."""

    status, code = 403, "cors_refused"


class HostNotAllowedError(ApiError):
    """The request names a host, or comes from a page, that is not in MCP_ALLOWED_HOSTS (/mcp, or no INTERNAL_TOKEN)."""

    status, code = 403, "host_not_allowed"


class CourseNotFoundError(ApiError):
    """There is no course with this id."""

    status, code = 404, "course_not_found"


class ResourceNotFoundError(ApiError):
    """There is no uploaded file with this id."""

    status, code = 404, "resource_not_found"


class ChunkNotFoundError(ApiError):
    """The course has no chunk with this id, in the generation that is searched."""

    status, code = 404, "chunk_not_found"


class ModelNotFoundError(ApiError):
    """No model has this name; the message names the available one."""

    status, code = 404, "model_not_found"


def check_model(requested: str, available: str) -> None:
    """Check that a request names the available model; a prefix such as `Qwen/` and capitals do not matter.

    Raises:
        ModelNotFoundError: It names another model.
    """
    if not is_same_model(requested, available):
        raise ModelNotFoundError(f"There is no model {quoted(requested)}; the available model is {available}")


class NotFoundError(ApiError):
    """This path does not exist; GET /docs lists the paths that do."""

    status, code = 404, "not_found"


class MethodNotAllowedError(ApiError):
    """The path does not support this method; the header Allow names the supported methods."""

    status, code = 405, "method_not_allowed"


class CourseExistsError(ApiError):
    """There is a course with this id already; add the files to it, or choose another id."""

    status, code = 409, "course_exists"


class StageOneOwnsTablesError(ApiError):
    """The course tables of this database belong to stage one, so only stage one adds courses and resources."""

    status, code = 409, "stage_one_owns_tables"


class AlreadyRunningError(ApiError):
    """The course is being embedded now; it can be triggered again afterwards."""

    status, code = 409, "already_running"


class QueryLogOffError(ApiError):
    """Questions and feedback are not recorded here; QUERY_LOG=true switches that on."""

    status, code = 409, "query_log_off"


class RequestTooLargeError(ApiError):
    """The body is above MAX_REQUEST_BYTES or has too many values, or an uploaded file is above UPLOAD_MAX_BYTES."""

    status, code = 413, "request_too_large"


class UnsupportedMediaTypeError(ApiError):
    """The body must be JSON, with the header Content-Type: application/json; an upload must be multipart/form-data."""

    status, code = 415, "unsupported_media_type"


class InvalidRequestError(ApiError):
    """The body is not valid JSON, or does not match the schema; the message names the field and the reason."""

    status, code = 422, "invalid_request"


def check_at_most(limit: int, value: int, field: str) -> None:
    """Check a value against the limit from the settings.

    Raises:
        InvalidRequestError: The value is above the limit.
    """
    if value > limit:
        raise InvalidRequestError(f"{field}: at most {limit}")


class InternalError(ApiError):
    """An unexpected error occurred; the log of the app has the details."""

    status, code = 500, "internal_error"


class DatabaseUnavailableError(ApiError):
    """The course database is unavailable or has not been migrated."""

    status, code = 503, "database_unavailable"


class EmbeddingServiceUnavailableError(ApiError):
    """The embedding model is not loaded, the embedding service is unreachable, or embedding failed."""

    status, code = 503, "embedding_service_unavailable"


class NotReadyError(ApiError):
    """The app can answer nothing, because a dependency is unavailable; `components` shows which (GET /readyz only)."""

    status, code = 503, "not_ready"


class OverloadedError(ApiError):
    """Too many requests are waiting; try again after Retry-After seconds."""

    status, code = 503, "overloaded"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class RerankModelUnavailableError(ApiError):
    """The rerank model is not available, or scored no document in time; the message says why."""

    status, code = 503, "rerank_model_unavailable"


class UploadsUnavailableError(ApiError):
    """The directory of the uploaded files (UPLOAD_DIR) cannot be used, or its disk is full; the message says why."""

    status, code = 503, "uploads_unavailable"


class VectorStoreFailedError(ApiError):
    """The vector store is unreachable or failed."""

    status, code = 503, "vector_store_error"


ERRORS: dict[str, type[ApiError]] = {error.code: error for error in ApiError.__subclasses__()}
"""All error classes by code."""

BODY_ERRORS = (RequestTooLargeError, UnsupportedMediaTypeError, InvalidRequestError)
"""The errors that every route with a request body may answer with."""
