"""Errors → responses: the one place that turns whatever was raised into the API's error shape.

The packages below know nothing of HTTP, so their errors are mapped here; FastAPI's and Starlette's own errors too, so
that no answer of the app has another shape.
"""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import (
    BaseModel,
    Field,
)
from starlette.exceptions import HTTPException

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from models import database
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
    UnauthorizedError,
    UnsupportedMediaTypeError,
    VectorStoreFailedError,
)

logger = logging.getLogger(__name__)

_DEPENDENCY_ERRORS = (database.DatabaseUnavailableError, EmbeddingError, VectorStoreError)
_FRAMEWORK_ERRORS: dict[int, type[ApiError]] = {
    error.status: error for error in (NotFoundError, MethodNotAllowedError, RequestTooLargeError)
}
_NOT_JSON = "The body is not valid JSON"


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Fixed: decide by it.")
    message: str = Field(description="For people; its wording may change.")


class ErrorResponse(BaseModel):
    """The shape of every error."""

    error: ErrorDetail


def error_body(error: ApiError) -> dict[str, Any]:
    """The error as the API shows it."""
    return ErrorResponse(error=ErrorDetail(code=error.code, message=error.message)).model_dump()


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a call that failed."""
    return JSONResponse(error_body(error), error.status, headers={**error.headers, **(headers or {})})


def documented(*errors: type[ApiError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a route that may answer these errors, with an example body for each code."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        response = responses.setdefault(
            error.status, {"model": ErrorResponse, "description": "", "content": {"application/json": {"examples": {}}}}
        )
        response["description"] = f"{response['description']}\n\n`{error.code}`: {error.meaning()}".strip()
        response["content"]["application/json"]["examples"][error.code] = {"value": error_body(error())}
        for header in error.headers:
            headers = response.setdefault("headers", {})
            headers[header] = {"description": f"With `{error.code}`.", "schema": {"type": "string"}}
    return responses


GUARDED: dict[int | str, dict[str, Any]] = {
    **documented(UnauthorizedError, InternalError),
    "default": {"model": ErrorResponse, "description": "Every other error has the same shape."},
}
"""What every route but the probes may answer."""


def add_error_handlers(app: FastAPI) -> None:
    """Give every error of the app the API's shape.

    An unexpected one is logged with its traceback by the server: Starlette raises it again after the answer.
    """
    for raised in (ApiError, RequestValidationError, HTTPException, *_DEPENDENCY_ERRORS, Exception):
        app.add_exception_handler(raised, _answer)


async def _answer(request: Request, raised: Exception) -> JSONResponse:
    error = _api_error(raised)
    if error.status >= 500 and not isinstance(error, InternalError):
        logger.error("%s %s: %s", request.method, quoted(request.url.path), error)
    return error_response(error, raised.headers if isinstance(raised, HTTPException) else None)


def _api_error(raised: Exception) -> ApiError:
    error: ApiError
    match raised:
        case ApiError():
            error = raised
        case RequestValidationError(body=bytes()):  # left unread: it was not announced as JSON
            error = UnsupportedMediaTypeError()
        case RequestValidationError():
            error = InvalidRequestError(_what_is_wrong(raised))
        case HTTPException(status_code=400):  # FastAPI's for whatever reading the body raises
            error = InvalidRequestError(f"{_NOT_JSON}: it must be UTF-8 and not be nested too deeply")
        case HTTPException():
            error = _FRAMEWORK_ERRORS.get(raised.status_code, InternalError)()
        case database.DatabaseUnavailableError():
            error = DatabaseUnavailableError(str(raised))
        case EmbeddingError():
            error = EmbeddingServiceUnavailableError(str(raised))
        case VectorStoreError():
            error = VectorStoreFailedError(str(raised))
        case _:
            error = InternalError()
    return error


def _what_is_wrong(invalid: RequestValidationError) -> str:
    """Each field with its reason, and nothing of the values the caller sent."""
    problems = invalid.errors()
    if problems[0]["type"] == "json_invalid":
        return f"{_NOT_JSON}: {problems[0]['ctx']['error']} at character {problems[0]['loc'][-1]}"
    return "; ".join(f"{_field(problem['loc'], invalid.body)}: {problem['msg']}" for problem in problems)


def _field(location: tuple[str | int, ...], body: object) -> str:
    """`("body", "filters", "section_id")` → `filters.section_id`; no place in a list where the caller sent none."""
    parts = []
    for part in location[1:]:
        if isinstance(part, str) or isinstance(body, list):
            parts.append(str(part))
            body = body.get(part) if isinstance(body, dict) else None
    return ".".join(parts) or str(location[0])
