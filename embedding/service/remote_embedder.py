"""An `Embedder` that uses an embedding service over HTTP.

There are two kinds of services:

* A *native* service is `course-search embedding-service`. It reports its model's signature, so its vectors are known to
  be those of the same model loaded locally. It adds the query prompt, processes queries before bulk work, and reports
  the token count of every text.
* Any other server with OpenAI's embeddings API. `RemoteEmbedder` adds the query prompt, and the signature is a digest
  of the model's name and dimensions only.
"""

import base64
import binascii
import hashlib
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache

from embedding.errors import EmbeddingServiceError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from embedding.model_files.prompts import qwen3_query_prompt
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import RequestRefusedError, RequestTimeoutError, ServiceClient
from embedding.vectors import UNIT_TOLERANCE, Vectors
from models.text import is_blank, without_surrogates

logger = logging.getLogger(__name__)

MAX_TEXTS_PER_REQUEST = 64
"""Initial number of texts per request. It is reduced if the server accepts fewer."""
MAX_QUERY_SECONDS = 10.0
"""Upper limit of the timeout for queries, because a user waits for the search."""
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


class RemoteEmbedder(Embedder):
    """The model of the service at EMBEDDING_SERVICE_URL. Threads may share an instance.

    If the service restarts with another model, the next call fails. If the new model has the expected name, the
    call also updates `signature`.

    Args:
        settings: The address of the service, and the name of the model that it must run.
        patience_seconds: How long a call is retried while the service is unreachable or busy.

    Raises:
        EmbeddingServiceError: The service is unreachable, or runs another model than EMBEDDING_MODEL_NAME.
    """

    sends_input_type = False
    """Whether a service that is not native is told that texts are queries or documents, too."""

    def __init__(self, settings: EmbeddingSettings, patience_seconds: float = 0.0) -> None:
        self.name = settings.embedding_model_name
        self.device = self.dtype = "remote"
        self._settings = settings
        self._service = ServiceClient(settings, patience_seconds)
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
        return self._embed(texts, "document", on_progress, pause)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of queries with the query prompt; raises the same errors as `embed_documents`."""
        if self._served.is_native:
            return self._embed(texts, "query")
        prompt = _query_prompt(self._served.id, self._settings)
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
        self._served = served = self._served_model()
        self.dimensions, self.max_tokens, self.signature = served.dimensions, served.max_tokens, served.signature
        logger.info("The embedding service at %s runs %s (%s)", self.url, served.id, served.signature)

    def _served_model(self) -> ServedModel:
        listed = {str(model.get("id")): model for model in self._service.models()}
        name = next((id_ for id_ in listed if _is_same_model(id_, self.name)), None)
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
        return self._probe(name or self.name, entry.get("max_model_len"))

    def _probe(self, name: str, max_tokens: object) -> ServedModel:
        """Embed one text to learn the dimensions, and the model's name if the service does not list its models."""
        request = {"model": name, "input": [_PROBE]}
        try:
            answer = self._service.embeddings(request | self._encoding)
        except RequestRefusedError:
            self._encoding = {}
            answer = self._service.embeddings(request)
        served_name = str(answer.get("model") or name)
        if not _is_same_model(served_name, self.name):
            raise self._other_model_error(served_name)
        dimensions = len(self._vectors(answer, 1)[0])
        identity = json.dumps([_base_name(name), dimensions])
        return ServedModel(
            id=name,
            dimensions=dimensions,
            max_tokens=max_tokens if isinstance(max_tokens, int) else self._settings.embedding_max_tokens,
            signature=hashlib.sha256(identity.encode()).hexdigest()[:16],
            is_native=False,
        )

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
        # Some servers reject a blank text, and JSON cannot contain an unpaired surrogate.
        clean = [" " if is_blank(text) and not served.is_native else without_surrogates(text) for text in texts]
        parts: list[Embeddings] = []
        done = 0
        while done < len(clean):
            pause()
            part = self._request(served, clean[done : done + self._texts_per_request], kind)
            parts.append(part)
            done += len(part.token_counts)
            if on_progress:
                on_progress(done)
        return concatenate_embeddings(parts, served.dimensions)

    def _request(self, served: ServedModel, texts: list[str], kind: str) -> Embeddings:
        """Embed texts in one request, or in several smaller ones if the server rejects it."""
        request = {
            "model": served.id,
            "input": texts,
            **self._encoding,
            **({"input_type": kind} if served.is_native or self.sends_input_type else {}),
        }
        try:
            answer = self._service.embeddings(request, max_seconds=MAX_QUERY_SECONDS if kind == "query" else math.inf)
        except RequestRefusedError as refusal:
            if len(texts) == 1:
                return self._request_halved(served, texts[0], kind, refusal)
        else:
            return self._embeddings(served, answer, texts)
        fewer = 1 << (len(texts) - 1).bit_length() - 1  # the largest power of two below len(texts)
        parts = [self._request(served, part, kind) for part in (texts[:fewer], texts[fewer:])]
        if not any(part.truncated for part in parts):  # all texts were accepted, so their number was the reason
            self._texts_per_request = min(self._texts_per_request, fewer)
        return concatenate_embeddings(parts, served.dimensions)

    def _request_halved(self, served: ServedModel, text: str, kind: str, refusal: RequestRefusedError) -> Embeddings:
        """Embed the first half of a text that is too long for the service; a native service truncates texts itself."""
        if served.is_native or isinstance(refusal, RequestTimeoutError) or len(text) < MIN_HALVED_CHARACTERS:
            raise refusal
        logger.warning(
            "A text of %d characters is too long for the embedding service: only its first half is embedded.", len(text)
        )
        return replace(self._request(served, [text[: len(text) // 2]], kind), truncated=1)

    def _embeddings(self, served: ServedModel, answer: dict[str, Any], texts: list[str]) -> Embeddings:
        """The embeddings in an answer of the service, after checking its model, dimensions and vectors."""
        if answer.get("signature", served.signature) != served.signature or not _is_same_model(
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


def _query_prompt(model: str, settings: EmbeddingSettings) -> str:
    """The published prompt for Qwen3 models; no prompt for others, unless EMBEDDING_QUERY_INSTRUCTION is set."""
    has_prompt = "qwen3" in model.casefold() or "embedding_query_instruction" in settings.model_fields_set
    return qwen3_query_prompt(settings.embedding_query_instruction) if has_prompt else ""


def _is_same_model(name: str, other_name: str) -> bool:
    """Whether two names are of one model, like `Qwen/Qwen3-Embedding-0.6B` and `qwen3-embedding-0.6b`."""
    return _base_name(name) == _base_name(other_name)


def _base_name(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].casefold()
