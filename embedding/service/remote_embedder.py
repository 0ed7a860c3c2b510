"""An `Embedder` that uses an embedding service over HTTP.

There are two kinds of services:

* A *native* service is `course-search embedding-service`. It reports its model's signature, so its vectors are known to
  be those of the same model loaded locally. It adds the query prompt, processes queries before bulk work, and reports
  the token count of every text.
* Any other server with OpenAI's embeddings API. `RemoteEmbedder` adds the prompts, or tells the server by `input_type`
  what a text is, if it is configured to. The signature is a digest of the model's name and dimensions only, and of what
  is configured for documents.
"""

import base64
import binascii
import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from cachetools import LRUCache

from embedding.errors import EmbeddingServiceError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from embedding.model_files.prompts import document_prompt, served_query_prompt
from embedding.model_names import base_name, is_same_model
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import RequestRefusedError, RequestTimeoutError, ServiceClient
from embedding.vectors import UNIT_TOLERANCE, Vectors
from models.text import is_blank, without_surrogates

logger = logging.getLogger(__name__)

MAX_TEXTS_PER_REQUEST = 64
"""Initial number of texts per request. It is reduced if the server accepts fewer."""
MIN_HALVED_CHARACTERS = 500
"""A rejected text with fewer characters is not halved, because its length cannot be the reason."""
_PROBE = "dimensions"
_LEGIBILITY_CACHE_SIZE = 1000


@dataclass(frozen=True)
class ServedModel:
    """The model that a service runs."""

    id: str
    dimensions: int
    max_tokens: int
    signature: str
    is_native: bool
    """Whether the service is `course-search embedding-service`."""


class _Call(NamedTuple):
    """What the requests of one call have in common."""

    served: ServedModel
    kind: Literal["document", "query"]
    deadline: float
    pause: Pause


class RemoteEmbedder(Embedder):
    """The model of the service at EMBEDDING_SERVICE_URL. Threads may share an instance.

    If the service restarts with another model, the next call fails. If the new model has the expected name, the
    call also updates `signature`.

    Args:
        settings: The address of the service, and the name of the model that it must run.
        patience_seconds: How long a call is retried while the service is unreachable or busy.
        query_seconds: How long a call with queries takes at most, with its retries, because a user waits for it;
            also how long connecting takes.

    Raises:
        EmbeddingServiceError: The service is unreachable, or runs another model than EMBEDDING_MODEL_NAME.
    """

    def __init__(
        self, settings: EmbeddingSettings, patience_seconds: float = 0.0, query_seconds: float = math.inf
    ) -> None:
        self.name = settings.embedding_model_name
        self.device = self.dtype = "remote"
        self._settings = settings
        self._service = ServiceClient(settings, patience_seconds)
        self._query_seconds = query_seconds
        self._texts_per_request = MAX_TEXTS_PER_REQUEST
        self._encoding = {"encoding_format": "base64"}
        self._legibility: LRUCache[str, float] = LRUCache(_LEGIBILITY_CACHE_SIZE)
        self._lock = threading.Lock()
        self._update_model()

    @property
    def url(self) -> str:
        """URL of the service."""
        return self._service.url

    def check(self) -> None:
        """Check that the service answers.

        Raises:
            EmbeddingServiceError: The service does not answer.
        """
        self._service.models()

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Vectors of documents.

        A service that is not native reports only the sum of the tokens, and not which texts it truncated. So
        `token_counts` are estimates in proportion to the texts' lengths, and `truncated` counts only texts that the
        service rejected and `RemoteEmbedder` truncated.

        Args:
            texts: Any number of documents.
            on_progress: Called after each request with the number of texts that are done.
            pause: Called before each request.

        Raises:
            EmbeddingServiceError: The service is unreachable, rejects a text, or does not return one finite, non-zero
                vector per text.
        """
        prompt = "" if self._served.is_native else document_prompt(None, self._settings)
        return self._embed([prompt + text for text in texts], "document", on_progress, pause)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of queries with the query prompt; raises the same errors as `embed_documents`."""
        if self._served.is_native:
            return self._embed(texts, "query")
        prompt = served_query_prompt(self._served.id, self._settings)
        return self._embed([prompt + text for text in texts], "query")

    def legibility(self, text: str) -> float:
        """The share of a query's letters that the model can read, 0.0 to 1.0; see `embedding.engine.legibility`.

        Known only for recent queries to a native service; otherwise 1.0.
        """
        with self._lock:
            return self._legibility.get(without_surrogates(text), 1.0)

    # The model of the service

    def _update_model(self) -> None:
        """Read from the service which model it runs."""
        self._served = served = self._served_model(time.monotonic() + self._query_seconds)
        self.dimensions, self.max_tokens, self.signature = served.dimensions, served.max_tokens, served.signature
        logger.info("The embedding service at %s runs %s (%s)", self.url, served.id, served.signature)

    def _served_model(self, deadline: float) -> ServedModel:
        listed = {str(model.get("id")): model for model in self._service.models(deadline)}
        name = next((id_ for id_ in listed if is_same_model(id_, self.name)), None)
        if listed and name is None:
            raise self._other_model_error(" and ".join(listed))
        entry = listed.get(name or "", {})
        if isinstance(signature := entry.get("signature"), str):
            try:
                return ServedModel(
                    str(name), int(entry["dimensions"]), int(entry["max_tokens"]), signature, is_native=True
                )
            except (KeyError, TypeError, ValueError) as error:
                raise self._service.error("its list of models is incomplete") from error
        return self._probe(name or self.name, entry.get("max_model_len"), deadline)

    def _probe(self, name: str, max_tokens: object, deadline: float) -> ServedModel:
        """Embed one text to learn the dimensions, and the model's name if the service does not list its models."""
        request = {"model": name, "input": [_PROBE], **self._input_type("document")}
        try:
            answer = self._service.embeddings(request | self._encoding, deadline)
        except RequestTimeoutError:
            raise
        except RequestRefusedError:
            self._encoding = {}
            answer = self._service.embeddings(request, deadline)
        served_name = str(answer.get("model") or name)
        if not is_same_model(served_name, self.name):
            raise self._other_model_error(served_name)
        dimensions = len(self._vectors(answer, 1)[0])
        identity: list[object] = [base_name(name), dimensions]
        types = self._settings.input_types
        if (prompt := document_prompt(None, self._settings)) or types:
            identity += [prompt, types and types[1]]
        return ServedModel(
            id=name,
            dimensions=dimensions,
            max_tokens=max_tokens if isinstance(max_tokens, int) else self._settings.embedding_max_tokens,
            signature=hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
            is_native=False,
        )

    def _input_type(self, kind: str) -> dict[str, str]:
        """The field that tells a server that is not native what the texts are; empty if it does not know the field."""
        types = self._settings.input_types
        return {"input_type": types[kind == "document"]} if types else {}

    def _other_model_error(self, served_name: str) -> EmbeddingServiceError:
        return self._service.error(
            f"it runs {served_name}, not {self.name}; start it with {self.name}, or correct EMBEDDING_MODEL_NAME"
        )

    # Texts and vectors

    def _embed(
        self,
        texts: Sequence[str],
        kind: Literal["document", "query"],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        served = self._served
        deadline = time.monotonic() + self._query_seconds if kind == "query" else math.inf
        call = _Call(served, kind, deadline, pause)
        # Some servers reject a blank text, and JSON cannot contain an unpaired surrogate.
        clean = [" " if is_blank(text) and not served.is_native else without_surrogates(text) for text in texts]
        parts: list[Embeddings] = []
        done = 0
        while done < len(clean):
            part = self._request(call, clean[done : done + self._texts_per_request])
            parts.append(part)
            done += len(part.token_counts)
            if on_progress:
                on_progress(done)
        return concatenate_embeddings(parts, served.dimensions)

    def _request(self, call: "_Call", texts: list[str]) -> Embeddings:
        """Embed texts in one request, or in several smaller ones if the server rejects it.

        A request with documents is also divided if it times out, because the server may be slow. For queries there is
        no time for that.
        """
        served, kind = call.served, call.kind
        call.pause()
        request = {
            "model": served.id,
            "input": texts,
            **self._encoding,
            **({"input_type": kind} if served.is_native else self._input_type(kind)),
        }
        try:
            answer = self._service.embeddings(request, call.deadline)
        except RequestRefusedError as refusal:
            is_late = isinstance(refusal, RequestTimeoutError) and (kind == "query" or len(texts) == 1)
            if is_late or time.monotonic() > call.deadline:
                raise
            if len(texts) == 1:
                return self._request_halved(call, texts[0], refusal)
        else:
            return self._embeddings(served, answer, texts)
        fewer = 1 << (len(texts) - 1).bit_length() - 1  # the largest power of two below len(texts)
        parts = [self._request(call, part) for part in (texts[:fewer], texts[fewer:])]
        if not any(part.truncated for part in parts):  # all texts were accepted, so their number was the reason
            self._texts_per_request = min(self._texts_per_request, fewer)
        return concatenate_embeddings(parts, served.dimensions)

    def _request_halved(self, call: "_Call", text: str, refusal: RequestRefusedError) -> Embeddings:
        """Embed the first half of a text that is too long for the service; a native service truncates texts itself."""
        if call.served.is_native or len(text) < MIN_HALVED_CHARACTERS:
            raise refusal
        logger.warning(
            "A text of %d characters is too long for the embedding service: only its first half is embedded.", len(text)
        )
        return replace(self._request(call, [text[: len(text) // 2]]), truncated=1)

    def _embeddings(self, served: ServedModel, answer: dict[str, Any], texts: list[str]) -> Embeddings:
        """The embeddings in an answer of the service, after checking its model, dimensions and vectors."""
        if answer.get("signature", served.signature) != served.signature or not is_same_model(
            str(answer.get("model") or served.id), served.id
        ):
            self._update_model()
            raise self._service.error("its model has changed since this call began; try again")
        vectors = self._vectors(answer, len(texts))
        if vectors.shape[1] != served.dimensions:
            raise self._service.error(f"it returned vectors of {vectors.shape[1]} dimensions, not {served.dimensions}")
        counts = answer.get("token_counts")
        if not served.is_native or not isinstance(counts, list) or len(counts) != len(texts):
            usage = answer.get("usage")
            tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
            return Embeddings(vectors, _estimated_counts(tokens if isinstance(tokens, int) else 0, texts), truncated=0)
        with self._lock:
            self._legibility.update(zip(texts, answer.get("legibility") or (), strict=False))
        whole = answer.get("whole_token_counts")  # older services do not report them
        whole_counts = tuple(map(int, whole)) if isinstance(whole, list) and len(whole) == len(texts) else None
        return Embeddings(vectors, tuple(map(int, counts)), int(answer.get("truncated", 0)), whole_counts)

    def _vectors(self, answer: dict[str, Any], number: int) -> Vectors:
        """The unit vectors in the order of the texts: (texts, dimensions)."""
        try:
            items = sorted(answer["data"], key=lambda item: int(item["index"]))
            indexes = [item["index"] for item in items]
            vectors = np.stack([_vector(item["embedding"]) for item in items]) if items else np.empty((0, 0))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise self._service.error("it did not return one vector per text, all of the same dimensions") from error
        if indexes != list(range(number)):
            raise self._service.error(f"it returned {len(indexes)} vectors for {number} texts, or wrong indexes")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            index = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise self._service.error(f"it returned a vector that is zero or not finite, for text {index} of a request")
        if (np.abs(lengths - 1) > UNIT_TOLERANCE).any():  # otherwise the vectors stay bit for bit as returned
            vectors = vectors / lengths
        return vectors.astype(np.float32)


def _vector(encoded: object) -> Vectors:
    """The vector (dimensions,) from either of its encodings: base64 of little-endian float32, or a list."""
    if isinstance(encoded, str):
        return np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
    vector = np.array(encoded, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError("a vector must be a list of numbers")
    return vector


def _estimated_counts(tokens: int, texts: Sequence[str]) -> tuple[int, ...]:
    """Estimates of the texts' token counts, in proportion to their lengths; they add up to `tokens`."""
    ends = np.cumsum([len(text) + 1 for text in texts])
    bounds = np.rint(tokens * ends / ends[-1]).astype(int)
    return tuple(np.diff(bounds, prepend=0).tolist())
