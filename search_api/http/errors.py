"""Every error the API answers, in one place: its HTTP status, its code and what it means.

All of them reach the caller as `{"error": {"code": …, "message": …}}`. Callers choose what to do by the code, so a code
never changes its meaning or its status. The docstring of an error is what a caller is told unless the place that
raises it knows better, and what the documentation says of its code.
"""

import inspect
from collections.abc import Mapping
from typing import ClassVar


class ApiError(Exception):
    """What all errors of the API share."""

    status: ClassVar[int]
    code: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.meaning())

    @property
    def message(self) -> str:
        """What the caller reads."""
        return str(self)

    @classmethod
    def meaning(cls) -> str:
        """What the code stands for, in a sentence."""
        return " ".join(inspect.cleandoc(cls.__doc__ or "").split())


class EmbeddingNotReadyError(ApiError):
    """The course cannot be searched yet: its embedding is not done, or its collection is missing or outdated."""

    status, code = 400, "embedding_not_ready"


class UnauthorizedError(ApiError):
    """The header X-Internal-Token is missing or wrong."""

    status, code = 401, "unauthorized"


class CourseNotFoundError(ApiError):
    """There is no course with this id."""

    status, code = 404, "course_not_found"


class ModelNotFoundError(ApiError):
    """There is no model of this name here; GET /v1/models names the one there is."""

    status, code = 404, "model_not_found"


class NotFoundError(ApiError):
    """There is nothing at this path; GET /docs shows what there is."""

    status, code = 404, "not_found"


class MethodNotAllowedError(ApiError):
    """The path does not answer this method; the header Allow names the one it does."""

    status, code = 405, "method_not_allowed"


class AlreadyRunningError(ApiError):
    """The course is being embedded now; it can be triggered again when that is over."""

    status, code = 409, "already_running"


class RequestTooLargeError(ApiError):
    """The request's body is larger than MAX_REQUEST_BYTES."""

    status, code = 413, "request_too_large"


class UnsupportedMediaTypeError(ApiError):
    """The body must be JSON, announced by the header Content-Type: application/json."""

    status, code = 415, "unsupported_media_type"


class InvalidRequestError(ApiError):
    """The body is not valid JSON, or does not fit the schema; the message names the field and the reason."""

    status, code = 422, "invalid_request"


def at_most(limit: int, given: int, field: str, unit: str = "") -> None:
    """Check what a setting limits.

    Raises:
        InvalidRequestError: it is more.
    """
    if given > limit:
        raise InvalidRequestError(f"{field}: at most {limit} {unit}".rstrip())


class InternalError(ApiError):
    """Something unexpected went wrong; the app's log has the details."""

    status, code = 500, "internal_error"


class DatabaseUnavailableError(ApiError):
    """The course database does not answer, or is not migrated."""

    status, code = 503, "database_unavailable"


class EmbeddingServiceUnavailableError(ApiError):
    """The embedding model is not loaded, or failed."""

    status, code = 503, "embedding_service_unavailable"


class NotReadyError(ApiError):
    """Something the app depends on does not answer; `components` says what (GET /readyz only)."""

    status, code = 503, "not_ready"


class OverloadedError(ApiError):
    """Too many calls wait for the embedding model; try again after Retry-After seconds."""

    status, code = 503, "overloaded"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class VectorStoreFailedError(ApiError):
    """The vector store does not answer, or failed."""

    status, code = 503, "vector_store_error"


ERRORS: dict[str, type[ApiError]] = {error.code: error for error in ApiError.__subclasses__()}
"""Code → error: the whole table."""

BODY_ERRORS = (RequestTooLargeError, UnsupportedMediaTypeError, InvalidRequestError)
"""What may be wrong with any body."""
