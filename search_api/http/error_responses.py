"""Turns every exception into a response in the API's error shape.

The other packages do not know HTTP, so their errors are mapped to API errors in this module. FastAPI's and Starlette's
errors are mapped too, so every error response of the app has the same shape.
"""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import (
    BaseModel,
    Field,
)
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from documents import uploads
from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from models import database
from models.json_values import DuplicateKeyError
from models.resources import NotOurTablesError
from models.text import quoted
from search_api.http.errors import (
    ApiError,
    DatabaseUnavailableError,
    EmbeddingServiceUnavailableError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    RequestTooLargeError,
    StageOneOwnsTablesError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
    UploadsUnavailableError,
    VectorStoreFailedError,
)

logger = logging.getLogger(__name__)

_FOREIGN_ERRORS: Mapping[type[Exception], type[ApiError]] = {
    database.DatabaseUnavailableError: DatabaseUnavailableError,
    EmbeddingError: EmbeddingServiceUnavailableError,
    NotOurTablesError: StageOneOwnsTablesError,
    VectorStoreError: VectorStoreFailedError,
    uploads.FileTooLargeError: RequestTooLargeError,
    uploads.ImportRefusedError: InvalidRequestError,
    uploads.UploadsUnavailableError: UploadsUnavailableError,
}
"""The errors of the other packages, whose messages are for callers too."""
_FRAMEWORK_ERRORS: dict[int, type[ApiError]] = {
    error.status: error for error in (NotFoundError, MethodNotAllowedError, RequestTooLargeError)
}
CLIENT_GONE = 499
"""Status, in the metrics only, of a request whose client has gone before its end. Nginx uses the same number."""
ERROR_CODE = "course_search.error_code"
"""Key of the scope of a request: the code of the error that was sent."""
_NOT_JSON = "The body is not valid JSON"


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="A fixed identifier; programs should rely on this field.")
    message: str = Field(description="An explanation for people; the wording may change.")


class ErrorResponse(BaseModel):
    """The shape of every error."""

    error: ErrorDetail


def error_body(error: ApiError) -> dict[str, Any]:
    """The response body of an error."""
    return ErrorResponse(error=ErrorDetail(code=error.code, message=error.message)).model_dump()


def error_response(
    error: ApiError, headers: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
) -> JSONResponse:
    """The response to a failed request.

    Args:
        error: The error.
        headers: Headers in addition to those of the error.
        more: Fields of the body in addition to `error`.
    """
    return _ErrorJson(error, headers or {}, more or {})


class _ErrorJson(JSONResponse):
    """Leaves the code in the scope of the request, where the metrics find it."""

    def __init__(self, error: ApiError, headers: Mapping[str, str], more: Mapping[str, Any]) -> None:
        super().__init__({**error_body(error), **more}, error.status, headers={**error.headers, **headers})
        self._code = error.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ERROR_CODE] = self._code
        await super().__call__(scope, receive, send)


def openapi_responses(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a route that may answer with these errors, with an example body per code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        response = responses.setdefault(
            error.status, {"model": ErrorResponse, "description": "", "content": {"application/json": {"examples": {}}}}
        )
        response["description"] = f"{response['description']}\n\n`{error.code}`: {error.meaning()}".strip()
        response["content"]["application/json"]["examples"][error.code] = {"value": error_body(error())}
        for header in error.headers:
            headers = response.setdefault("headers", {})
            headers[header] = {"description": f"Sent with `{error.code}`.", "schema": {"type": "string"}}
    return responses


GUARDED_RESPONSES: dict[int | str, dict[str, Any]] = {
    **openapi_responses(UnauthorizedError, InternalError),
    "default": {"model": ErrorResponse, "description": "Every other error has the same shape."},
}
"""OpenAPI's `responses` of all routes that require the token."""


def add_error_handlers(app: FastAPI) -> None:
    """Register handlers that give the answers to expected errors the API's shape.

    For other exceptions, the app needs a `ServerErrorMiddleware` with the handler `answer_error`. It raises them again
    after the answer, so the server logs them with their traceback.
    """
    for raised in (ApiError, RequestValidationError, HTTPException, ClientDisconnect, *_FOREIGN_ERRORS):
        app.add_exception_handler(raised, answer_error)


async def answer_error(request: Request, raised: Exception) -> Response:
    """The answer to a request that failed with this exception."""
    if isinstance(raised, ClientDisconnect) or isinstance(raised.__cause__, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    error = _api_error(raised)
    if error.status >= 500 and not isinstance(error, InternalError):
        logger.error("%s %s: %s", request.method, quoted(request.url.path), error)
    return error_response(error, {"Allow": _allowed_methods(request)} if error.status == 405 else None)


def _allowed_methods(request: Request) -> str:
    """The value of `Allow`: the methods of all routes of the path. Starlette names only those of the first."""
    path = {key: request.scope[key] for key in ("type", "path", "root_path", "headers") if key in request.scope}
    allowed = {
        method
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT")
        if any(route.matches({**path, "method": method})[0] is Match.FULL for route in request.app.routes)
    }
    if "GET" in allowed or not allowed:  # no route has the path of a static file
        allowed |= {"GET", "HEAD"}
    return ", ".join(sorted(allowed))


def _api_error(raised: Exception) -> ApiError:
    error: ApiError
    match raised:
        case ApiError():
            error = raised
        case RequestValidationError(body=bytes()):  # FastAPI does not parse a body without a JSON content type
            error = UnsupportedMediaTypeError()
        case RequestValidationError():
            error = InvalidRequestError(_validation_message(raised))
        case HTTPException(__cause__=ApiError() as cause):
            error = cause
        case HTTPException(status_code=400, __cause__=DuplicateKeyError() as cause):
            error = InvalidRequestError(f"The body is ambiguous: {cause}")
        case HTTPException(status_code=400):  # FastAPI's answer to any exception while it parses the body
            error = InvalidRequestError(f"{_NOT_JSON}: it must be UTF-8 and must not be nested too deeply")
        case HTTPException():
            error = _FRAMEWORK_ERRORS.get(raised.status_code, InternalError)()
        case _:
            known = (api_error for foreign, api_error in _FOREIGN_ERRORS.items() if isinstance(raised, foreign))
            api_error = next(known, None)
            error = InternalError() if api_error is None else api_error(str(raised))
    return error


def _validation_message(error: RequestValidationError) -> str:
    """Each invalid field and the reason, without the values that the caller sent."""
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return f"{_NOT_JSON}: {problems[0]['ctx']['error']} at character {problems[0]['loc'][-1]}"
    return "; ".join(f"{_field(_location(problem), error.body)}: {problem['msg']}" for problem in problems)


def _location(problem: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where the problem is; a validator of a whole structure tells where in it."""
    path: str = problem.get("ctx", {}).get("path", "")
    return (*problem["loc"], *filter(None, [path]))


def _field(location: tuple[str | int, ...], body: object) -> str:
    """`("body", "filters", "section_id")` → `filters.section_id`.

    A list index is left out if the caller sent a single value, which validation wraps in a list.
    """
    parts = []
    for part in location[1:]:
        if isinstance(part, str) or isinstance(body, list):
            parts.append(str(part))
            body = body.get(part) if isinstance(body, dict) else None
    return ".".join(parts) or str(location[0])
