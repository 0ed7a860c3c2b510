"""Talking to an embedding service: the OpenAI form over HTTP, with time-outs, waiting and errors that say what to do.

The service may be our own (`course-search embedding-service`), text-embeddings-inference, vLLM or Infinity. What it has
no time for now (429, 503) or what a connection lost is asked again, after the time it names or ever longer pauses.
"""

import logging
import math
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
from embedding.model_settings import EmbeddingSettings

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
MODELS_SECONDS = 5.0
"""Naming its models is no work for a service."""
_BUSY = (429, 502, 503, 504)
_REFUSED = (400, 413, 422)
_SHOWN = 300


class RequestRefusedError(EmbeddingServiceError):
    """The service will never take this request as it is: too many texts, one too long, an unknown option."""


class RequestTimeoutError(RequestRefusedError, EmbeddingServiceUnreachableError):
    """No answer in time. The same request would take as long again, a smaller one may not."""


class ServiceClient:
    """The service at EMBEDDING_SERVICE_URL. Safe to share between threads; closed when it is garbage.

    Args:
        settings: Where the service is.
        patience_seconds: How long a call is repeated while the service is away or busy before it raises.
    """

    def __init__(self, settings: EmbeddingSettings, patience_seconds: float = 0.0) -> None:
        assert settings.embedding_service_url  # noqa: S101 - who asks for a service has set it
        self.url: str = settings.embedding_service_url.rstrip("/").removesuffix("/v1")
        self._patience = patience_seconds
        self._longest = settings.embedding_service_timeout_seconds
        token = settings.embedding_service_token
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else None,
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise EmbeddingServiceError(f"EMBEDDING_SERVICE_URL or _TOKEN cannot be used: {error}") from error
        weakref.finalize(self, self._http.close)

    def models(self) -> list[dict[str, Any]]:
        """What the service says it serves; nothing where it has no `GET /v1/models`, as text-embeddings-inference.

        Raises:
            EmbeddingServiceError: it does not answer, or not in the OpenAI form.
        """
        response = self._patiently("GET", "/v1/models", timeout=self._at_most(MODELS_SECONDS))
        if response.status_code in (404, 405):
            return []
        listed = self._json(response).get("data")
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise self.error("its list of models has another form than OpenAI's")
        return listed

    def embeddings(self, body: Mapping[str, Any], *, within: float = math.inf) -> dict[str, Any]:
        """The answer to `POST /v1/embeddings`, as it is; `within` so many seconds, if the setting allows more.

        Raises:
            RequestRefusedError: the service will not take this request.
            EmbeddingServiceUnreachableError: it is away or busy, and still is when patience ends.
            EmbeddingServiceError: it failed.
        """
        return self._json(self._patiently("POST", "/v1/embeddings", json=body, timeout=self._at_most(within)))

    def error(self, problem: str) -> EmbeddingServiceError:
        """An error about what the service answered, which names it."""
        return EmbeddingServiceError(f"The embedding service at {self.url} cannot be used: {problem}")

    def _at_most(self, seconds: float) -> httpx.Timeout:
        longest = min(seconds, self._longest)
        return httpx.Timeout(longest, connect=min(longest, CONNECT_SECONDS))

    def _patiently(self, method: str, path: str, **request: Any) -> httpx.Response:
        patiently = Retrying(
            retry=retry_if_exception_type(EmbeddingServiceUnreachableError)
            & retry_if_not_exception_type(RequestTimeoutError),
            stop=stop_before_delay(self._patience),
            wait=_pause,
            before_sleep=self._tell_of_waiting,
            reraise=True,
        )
        return patiently(self._once, method, path, **request)

    def _once(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.ReadTimeout as error:
            problem = "did not answer in time (EMBEDDING_SERVICE_TIMEOUT_SECONDS)"
            raise RequestTimeoutError(f"The embedding service at {self.url} {problem}") from error
        except httpx.TransportError as error:
            raise self._away(f"cannot be reached ({error}); start it, or correct EMBEDDING_SERVICE_URL") from error
        if response.status_code in _BUSY and not _has_failed(response):
            busy = self._away(f"answered {response.status_code}: {_complaint(response)}")
            busy.retry_after_seconds = _retry_after(response)
            raise busy
        return response

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        if status in (401, 403):
            raise self.error(f"it answered {status}; set EMBEDDING_SERVICE_TOKEN to a token it accepts")
        if status in _REFUSED:
            raise RequestRefusedError(
                f"The embedding service at {self.url} refused a request ({status}): {_complaint(response)}"
            )
        if not response.is_success:
            raise self.error(f"{response.request.url.path} answered {status}: {_complaint(response)}")
        try:
            answer = response.json()
        except ValueError as error:
            raise self.error(f"{response.request.url.path} did not answer JSON") from error
        if not isinstance(answer, dict):
            raise self.error(f"{response.request.url.path} answered another form than OpenAI's")
        return answer

    def _away(self, problem: str) -> EmbeddingServiceUnreachableError:
        return EmbeddingServiceUnreachableError(f"The embedding service at {self.url} {problem}")

    def _tell_of_waiting(self, attempts: RetryCallState) -> None:
        if attempts.attempt_number == 1 and attempts.outcome:
            logger.warning("%s. Waiting for it, %g s at most", attempts.outcome.exception(), self._patience)


_growing = wait_exponential(multiplier=0.1, max=5)


def _pause(attempts: RetryCallState) -> float:
    error = attempts.outcome.exception() if attempts.outcome else None
    asked = error.retry_after_seconds if isinstance(error, EmbeddingServiceUnreachableError) else 0.0
    return max(asked, _growing(attempts))


def _has_failed(response: httpx.Response) -> bool:
    """Whether a service of ours says that its model failed, as it would again on the same texts."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return False
    return response.request.method == "POST" and code == "embedding_service_unavailable"


def _retry_after(response: httpx.Response) -> float:
    """Seconds; the header names them, or a date."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _complaint(response: httpx.Response) -> str:
    """What the service says is wrong; every kind of service has a place of its own for it."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if key in body), str(body))
    return " ".join(str(body).split())[:_SHOWN] or response.reason_phrase
