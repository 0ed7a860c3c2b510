"""HTTP client of an embedding service, with timeouts, retries and translated errors.

The service is `course-search embedding-service` or any server with OpenAI's embeddings API, such as
text-embeddings-inference, vLLM or Infinity. A request is retried if the service is busy (429, 502, 503, 504) or
the connection fails. The pause before a retry grows exponentially and is at least the `Retry-After` of the response.
"""

import json
import logging
import math
import time
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_before_delay,
    wait_exponential,
)

from embedding.errors import EmbeddingServiceError, EmbeddingServiceUnreachableError
from embedding.http_client import UnusableProxyError, http_client
from embedding.model_settings import EmbeddingSettings
from models.settings import without_password
from models.text import one_line, without_excerpts

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
MIN_SECONDS = 0.001
"""Timeout of an attempt after the deadline; httpx needs one above 0."""
MODELS_SECONDS = 5.0
"""Timeout for listing the models, which needs no computation."""
_BUSY = (429, 502, 503, 504)
_REFUSED = (400, 413, 422)
_MAX_REASON_LENGTH = 300
"""Characters of the service's own error message that are quoted."""


class RequestRefusedError(EmbeddingServiceError):
    """The service rejects this request: it has too many texts, a text that is too long, or an unknown option."""


class ModelFailedError(EmbeddingServiceError):
    """The model of `course-search embedding-service` failed, perhaps because of one text of the request."""


class RequestTimeoutError(RequestRefusedError, EmbeddingServiceUnreachableError):
    """The request timed out. Repeating it would take as long; a smaller request may succeed."""


class ServiceClient:
    """Client of the service at EMBEDDING_SERVICE_URL. Threads may share it; garbage collection closes it.

    Args:
        settings: The address of the service; EMBEDDING_SERVICE_URL must be set.
        patience_seconds: How long a call is retried while the service is unreachable or busy.

    Raises:
        EmbeddingServiceError: The URL is invalid, or the service needs a proxy that cannot be used.
    """

    def __init__(self, settings: EmbeddingSettings, patience_seconds: float = 0.0) -> None:
        assert settings.embedding_service_url  # noqa: S101 - a precondition
        url = settings.embedding_service_url.rstrip("/").removesuffix("/v1")
        self.url: str = without_password(url)
        self._patience = patience_seconds
        self._timeout_seconds = settings.embedding_service_timeout_seconds
        token = settings.embedding_service_token
        try:
            self._http = http_client(
                url,
                "embedding service",
                base_url=self.url,
                headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else None,
            )
        except httpx.InvalidURL:
            # Without the cause, which may quote a part of the password.
            raise EmbeddingServiceError("EMBEDDING_SERVICE_URL is not a URL, like http://10.0.0.7:9001") from None
        except UnusableProxyError as error:
            raise EmbeddingServiceError(str(error)) from error
        weakref.finalize(self, self._http.close)

    def models(self, deadline: float = math.inf) -> list[dict[str, Any]]:
        """The service's list of models; empty if it has no `GET /v1/models`, like text-embeddings-inference.

        Args:
            deadline: When to give up, by the monotonic clock.

        Raises:
            EmbeddingServiceError: The service does not answer, or the answer is not in OpenAI's format.
        """
        response = self._request_with_retries("GET", "/v1/models", min(MODELS_SECONDS, self._timeout_seconds), deadline)
        if response.status_code in (404, 405):
            return []
        listed = self._json(response).get("data")
        if not isinstance(listed, list) or not all(isinstance(model, dict) for model in listed):
            raise self.error("its list of models is not in OpenAI's format")
        return listed

    def embeddings(self, body: Mapping[str, Any], deadline: float = math.inf) -> dict[str, Any]:
        """The JSON answer to `POST /v1/embeddings`.

        Args:
            body: The JSON body of the request.
            deadline: When to give up, by the monotonic clock; each attempt has EMBEDDING_SERVICE_TIMEOUT_SECONDS.

        Raises:
            RequestRefusedError: The service rejects this request.
            ModelFailedError: The model failed.
            EmbeddingServiceUnreachableError: The service was unreachable or busy at every attempt, or timed out.
            EmbeddingServiceError: The service failed.
        """
        return self._json(
            self._request_with_retries("POST", "/v1/embeddings", self._timeout_seconds, deadline, json=body)
        )

    def error(self, problem: str) -> EmbeddingServiceError:
        """An error about an answer of the service, with its URL."""
        return EmbeddingServiceError(f"The embedding service at {self.url} cannot be used: {problem}")

    def _request_with_retries(
        self, method: str, path: str, seconds: float, deadline: float, **options: Any
    ) -> httpx.Response:
        retrying = Retrying(
            retry=retry_if_exception_type(EmbeddingServiceUnreachableError)
            & retry_if_not_exception_type(RequestTimeoutError),
            stop=stop_before_delay(min(self._patience, max(0.0, deadline - time.monotonic()))),
            wait=_wait_seconds,
            before_sleep=self._log_retrying,
            reraise=True,
        )
        return retrying(self._request, method, path, seconds, deadline, **options)

    def _request(self, method: str, path: str, seconds: float, deadline: float, **options: Any) -> httpx.Response:
        """One attempt, of at most `seconds` for connecting and again for the answer."""
        seconds = min(seconds, max(MIN_SECONDS, deadline - time.monotonic()))
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        try:
            response = self._http.request(method, path, timeout=timeout, **options)
        except httpx.ReadTimeout as error:
            problem = f"did not answer within {round(seconds, 1):g} s"
            if seconds == self._timeout_seconds:
                problem += " (EMBEDDING_SERVICE_TIMEOUT_SECONDS)"
            raise RequestTimeoutError(f"The embedding service at {self.url} {problem}") from error
        except httpx.TransportError as error:
            raise self._unreachable(
                f"cannot be reached ({error}); start it, or correct EMBEDDING_SERVICE_URL"
            ) from error
        if response.status_code in _BUSY and not _reports_model_failure(response):
            busy_error = self._unreachable(f"answered {response.status_code}: {_reason(response)}")
            busy_error.retry_after_seconds = _retry_after(response)
            raise busy_error
        return response

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        if status in (401, 403):
            raise self.error(f"it answered {status}; set EMBEDDING_SERVICE_TOKEN to a token it accepts")
        if status in _REFUSED:
            raise RequestRefusedError(
                f"The embedding service at {self.url} refused a request ({status}): {_reason(response)}"
            )
        if _reports_model_failure(response):
            raise ModelFailedError(f"The model of the embedding service at {self.url} failed: {_reason(response)}")
        if not response.is_success:
            raise self.error(f"{response.request.url.path} answered {status}: {_reason(response)}")
        try:
            answer = response.json()
        except ValueError as error:
            raise self.error(f"{response.request.url.path} did not answer with JSON") from error
        if not isinstance(answer, dict):
            raise self.error(f"{response.request.url.path} did not answer in OpenAI's format")
        return answer

    def _unreachable(self, problem: str) -> EmbeddingServiceUnreachableError:
        return EmbeddingServiceUnreachableError(f"The embedding service at {self.url} {problem}")

    def _log_retrying(self, attempts: RetryCallState) -> None:
        if attempts.attempt_number == 1 and attempts.outcome:
            logger.warning("%s. Retrying for up to %g s", attempts.outcome.exception(), self._patience)


_exponential_wait = wait_exponential(multiplier=0.1, max=5)


def _wait_seconds(attempts: RetryCallState) -> float:
    """The pause before the next attempt: exponential, but at least the `Retry-After` of the last response."""
    error = attempts.outcome.exception() if attempts.outcome else None
    retry_after = error.retry_after_seconds if isinstance(error, EmbeddingServiceUnreachableError) else 0.0
    return max(retry_after, _exponential_wait(attempts))


def _reports_model_failure(response: httpx.Response) -> bool:
    """Whether `course-search embedding-service` reports that its model failed, which a retry would not change."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return False
    return response.request.method == "POST" and code == "embedding_service_unavailable"


def _retry_after(response: httpx.Response) -> float:
    """The header `Retry-After` in seconds, which is a number or a date; 0.0 if it is missing or invalid."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _reason(response: httpx.Response) -> str:
    """The error message in the response, without the texts of the request. Its place depends on the kind of service."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if key in body), str(body))
    message = without_excerpts(one_line(str(body)), map(one_line, _texts(response.request)))
    return message[:_MAX_REASON_LENGTH] or response.reason_phrase


def _texts(request: httpx.Request) -> list[str]:
    """The texts of the request; empty if it asked for no embeddings."""
    texts: list[str] = json.loads(request.content).get("input", []) if request.content else []
    return texts
