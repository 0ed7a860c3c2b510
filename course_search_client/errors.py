"""The errors of the app, one exception per code, and those of the client itself.

A code that this version does not know is a plain `CourseSearchError`.
"""

from typing import ClassVar


class CourseSearchError(Exception):
    """A call failed.

    Attributes:
        code: The app's error code, or one of the client's own: `unreachable`, `timed_out`, `unexpected_answer`,
            `embedding_failed`. Programs decide by it, or by the class of the exception.
        message: What went wrong, for people.
        status: The HTTP status, or None if there was no answer.
    """

    code: str = ""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class EmbeddingNotReadyError(CourseSearchError):
    """Nothing of the course can be searched yet."""

    code = "embedding_not_ready"


class UnauthorizedError(CourseSearchError):
    """The token is missing or wrong."""

    code = "unauthorized"


class CorsRefusedError(CourseSearchError):
    """The request looks like one of a web page, whose origin the app does not allow."""

    code = "cors_refused"


class HostNotAllowedError(CourseSearchError):
    """The app refuses the host name of the address."""

    code = "host_not_allowed"


class CourseNotFoundError(CourseSearchError):
    """There is no course with this id."""

    code = "course_not_found"


class ResourceNotFoundError(CourseSearchError):
    """There is no uploaded file with this id."""

    code = "resource_not_found"


class ChunkNotFoundError(CourseSearchError):
    """The course has no chunk with this id, in the generation that is searched."""

    code = "chunk_not_found"


class ModelNotFoundError(CourseSearchError):
    """No model has this name."""

    code = "model_not_found"


class NotFoundError(CourseSearchError):
    """The app does not have this path: it may be older than the client, or the base URL is wrong."""

    code = "not_found"


class MethodNotAllowedError(CourseSearchError):
    """The path does not support this method."""

    code = "method_not_allowed"


class CourseExistsError(CourseSearchError):
    """There is a course with this id already."""

    code = "course_exists"


class StageOneOwnsTablesError(CourseSearchError):
    """Only stage one adds courses and resources to the database of the app."""

    code = "stage_one_owns_tables"


class AlreadyRunningError(CourseSearchError):
    """The course is being embedded now."""

    code = "already_running"


class QueryLogOffError(CourseSearchError):
    """The app records neither questions nor feedback."""

    code = "query_log_off"


class RequestTooLargeError(CourseSearchError):
    """The request, or an uploaded file, is larger than the app accepts."""

    code = "request_too_large"


class UnsupportedMediaTypeError(CourseSearchError):
    """The body was not sent as it should be; something between the client and the app may have changed it."""

    code = "unsupported_media_type"


class InvalidRequestError(CourseSearchError):
    """A value is not accepted; the message names the field and the reason."""

    code = "invalid_request"


class InternalError(CourseSearchError):
    """An unexpected error occurred in the app; its log has the details."""

    code = "internal_error"


class DatabaseUnavailableError(CourseSearchError):
    """The course database is unavailable."""

    code = "database_unavailable"


class EmbeddingServiceUnavailableError(CourseSearchError):
    """The embedding model is not available."""

    code = "embedding_service_unavailable"


class NotReadyError(CourseSearchError):
    """A dependency of the app is unavailable."""

    code = "not_ready"


class OverloadedError(CourseSearchError):
    """Too many requests are waiting, also after the client has tried again."""

    code = "overloaded"


class RerankModelUnavailableError(CourseSearchError):
    """The rerank model is not available, or was too slow."""

    code = "rerank_model_unavailable"


class UploadsUnavailableError(CourseSearchError):
    """The app cannot keep files now: its disk is full, or permissions are missing."""

    code = "uploads_unavailable"


class VectorStoreFailedError(CourseSearchError):
    """The vector store is unreachable or failed."""

    code = "vector_store_error"


APP_ERRORS: dict[str, type[CourseSearchError]] = {error.code: error for error in CourseSearchError.__subclasses__()}
"""The exceptions of the app's error codes."""


class _ClientError(CourseSearchError):
    """An error that the app did not send."""

    own_code: ClassVar[str]

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(self.own_code, message, status)
        self.args = (message, status)  # what the constructor takes, for pickle


class UnreachableError(_ClientError):
    """There was no connection to the app, or it was lost. A call that changes something may have been processed."""

    own_code = "unreachable"


class TimedOutError(_ClientError):
    """The app did not answer in time, or the course was not searchable in time."""

    own_code = "timed_out"


class UnexpectedAnswerError(_ClientError):
    """The answer is not of this API: of a proxy, or of another server."""

    own_code = "unexpected_answer"


class EmbeddingFailedError(_ClientError):
    """The course that was waited for could not be embedded; the message has the reason."""

    own_code = "embedding_failed"
