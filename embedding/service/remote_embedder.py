"""Text → vector by a service elsewhere: what `Embedder` does, over HTTP.

A service of ours names its model's signature, so its vectors and those of the same model loaded here are known to be
the same; it puts the query prompt itself, takes queries before bulk work, and tells of every text how many tokens it
has. Other servers know nothing of that: for them the prompt is put here, and their model is known by its name and its
dimensions alone.
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
from embedding.interface import Embedder, Embeddings, Pause, joined, no_pause
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import RequestRefusedError, RequestTimeoutError, ServiceClient
from embedding.vectors import ROUNDING, Vectors
from models.text import without_surrogates

logger = logging.getLogger(__name__)

MAX_TEXTS_PER_REQUEST = 64
"""Texts of a request, to begin with; a server that takes fewer is asked for fewer from then on."""
MAX_QUERY_SECONDS = 10.0
"""How long a query is waited for at most: so does somebody who searches."""
SHORTEST_CUT = 500
"""Characters. A shorter text is not refused for its length."""
_PROBE = "dimensions"
_REMEMBERED = 1000


@dataclass(frozen=True)
class ServedModel:
    """What a service says of the model it runs."""

    id: str
    dimensions: int
    max_tokens: int
    signature: str
    is_ours: bool
    """The service is one of this product, and understands more than OpenAI's form."""


class RemoteEmbedder(Embedder):
    """The model behind EMBEDDING_SERVICE_URL. Several threads may use one instance.

    A service that comes back with another model is noticed by the next call, which fails; from then on `signature` is
    the new model's.

    Args:
        settings: Where the service is, and which model it should run.
        patience_seconds: How long a call waits for a service that is away or busy.

    Raises:
        EmbeddingServiceError: the service is away, or runs another model than EMBEDDING_MODEL_NAME.
    """

    def __init__(self, settings: EmbeddingSettings, patience_seconds: float = 0.0) -> None:
        self.name = settings.embedding_model_name
        self.device = self.dtype = "remote"
        self._settings = settings
        self._service = ServiceClient(settings, patience_seconds)
        self._most_texts = MAX_TEXTS_PER_REQUEST
        self._encoding = {"encoding_format": "base64"}
        self._legibility: LRUCache[str, float] = LRUCache(_REMEMBERED)
        self._lock = threading.Lock()
        self._meet()

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._service.url

    def check(self) -> None:
        """Ask whether the service is there.

        Raises:
            EmbeddingServiceError: it is not.
        """
        self._service.models()

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Vectors of passages, of any number of them.

        After each request `on_progress` hears how many of the texts are done; `pause` is called before each. A service
        that is not ours tells neither how many tokens each text has nor which were cut: its sum of tokens is shared out
        by the texts' lengths, and `truncated` counts those that it refused and that were cut here.

        Raises:
            EmbeddingServiceError: the service is away, refuses, or gave something else than one sound vector a text.
        """
        return self._ask(texts, "document", on_progress, pause)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of searches, the query prompt included; errors as `embed_documents`."""
        if self._served.is_ours:
            return self._ask(texts, "query")
        prompt = _query_prompt(self._served.id, self._settings)
        return self._ask([prompt + text for text in texts], "query")

    def legibility(self, text: str) -> float:
        """The share of the letters of a query that the model can read; asked right after `embed_queries`.

        Only a service of ours tells; any other is taken to read everything.
        """
        with self._lock:
            return self._legibility.get(text, 1.0)

    # What the service runs

    def _meet(self) -> None:
        """Learn what the service runs: the first time, and when it seems to have changed."""
        self._served = served = self._ask_what_it_runs()
        self.dimensions, self.max_tokens, self.signature = served.dimensions, served.max_tokens, served.signature
        logger.info("The embedding service at %s runs %s (%s)", self.url, served.id, served.signature)

    def _ask_what_it_runs(self) -> ServedModel:
        listed = {str(model.get("id")): model for model in self._service.models()}
        name = next((id_ for id_ in listed if _is_same(id_, self.name)), None)
        if listed and name is None:
            raise self._other_model(" and ".join(listed))
        told = listed.get(name or "", {})
        if isinstance(signature := told.get("signature"), str):
            try:
                return ServedModel(str(name), int(told["dimensions"]), int(told["max_tokens"]), signature, is_ours=True)
            except (KeyError, TypeError, ValueError) as error:
                raise self._service.error("its list of models is incomplete") from error
        return self._probe(name or self.name, told.get("max_model_len"))

    def _probe(self, name: str, max_tokens: object) -> ServedModel:
        """Other servers tell the dimensions, and some even the model's name, only with a vector."""
        request = {"model": name, "input": [_PROBE]}
        try:
            answer = self._service.embeddings(request | self._encoding)
        except RequestRefusedError:
            self._encoding = {}
            answer = self._service.embeddings(request)
        answered = str(answer.get("model") or name)
        if not _is_same(answered, self.name):
            raise self._other_model(answered)
        dimensions = len(self._vectors(answer, 1)[0])
        identity = json.dumps([_base_name(name), dimensions])
        return ServedModel(
            id=name,
            dimensions=dimensions,
            max_tokens=max_tokens if isinstance(max_tokens, int) else self._settings.embedding_max_tokens,
            signature=hashlib.sha256(identity.encode()).hexdigest()[:16],
            is_ours=False,
        )

    def _other_model(self, runs: str) -> EmbeddingServiceError:
        return self._service.error(
            f"it runs {runs}, not {self.name}; start it with that one, or set EMBEDDING_MODEL_NAME to the one you want"
        )

    # Texts and vectors

    def _ask(
        self,
        texts: Sequence[str],
        kind: Literal["document", "query"],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        served = self._served
        # some servers take no empty text, and JSON no half of a surrogate pair
        clean = [without_surrogates(text) if served.is_ours else without_surrogates(text) or " " for text in texts]
        parts: list[Embeddings] = []
        done = 0
        while done < len(clean):
            pause()
            part = self._request(served, clean[done : done + self._most_texts], kind)
            parts.append(part)
            done += len(part.token_counts)
            if on_progress:
                on_progress(done)
        return joined(parts, served.dimensions)

    def _request(self, served: ServedModel, texts: list[str], kind: str) -> Embeddings:
        """One request, or as many as it takes where the server refuses so many texts at once."""
        request = {
            "model": served.id,
            "input": texts,
            **self._encoding,
            **({"input_type": kind} if served.is_ours else {}),
        }
        try:
            answer = self._service.embeddings(request, within=MAX_QUERY_SECONDS if kind == "query" else math.inf)
        except RequestRefusedError as refusal:
            if len(texts) == 1:
                return self._shortened(served, texts[0], kind, refusal)
        else:
            return self._checked(served, answer, texts)
        fewer = 1 << (len(texts) - 1).bit_length() - 1  # the largest power of two below
        halves = [self._request(served, half, kind) for half in (texts[:fewer], texts[fewer:])]
        if not any(half.truncated for half in halves):  # nor have they failed: it was their number, not one of them
            self._most_texts = min(self._most_texts, fewer)
        return joined(halves, served.dimensions)

    def _shortened(self, served: ServedModel, text: str, kind: str, refusal: RequestRefusedError) -> Embeddings:
        """Half of a text that is too long for a server which does not cut texts itself, as ours does."""
        if served.is_ours or isinstance(refusal, RequestTimeoutError) or len(text) < SHORTEST_CUT:
            raise refusal
        logger.warning("A text of %d characters is too long for the embedding service and is cut in half.", len(text))
        return replace(self._request(served, [text[: len(text) // 2]], kind), truncated=1)

    def _checked(self, served: ServedModel, answer: dict[str, Any], texts: list[str]) -> Embeddings:
        if answer.get("signature", served.signature) != served.signature or not _is_same(
            str(answer.get("model") or served.id), served.id
        ):
            self._meet()
            raise self._service.error("it runs another model since this call began; try again")
        vectors = self._vectors(answer, len(texts))
        if vectors.shape[1] != served.dimensions:
            raise self._service.error(f"it gave vectors of {vectors.shape[1]} dimensions, not {served.dimensions}")
        counts = answer.get("token_counts")
        if not served.is_ours or not isinstance(counts, list) or len(counts) != len(texts):
            usage = answer.get("usage")
            tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
            return Embeddings(vectors, _shared_out(tokens if isinstance(tokens, int) else 0, texts), truncated=0)
        with self._lock:
            self._legibility.update(zip(texts, answer.get("legibility") or (), strict=False))
        return Embeddings(vectors, tuple(map(int, counts)), int(answer.get("truncated", 0)))

    def _vectors(self, answer: dict[str, Any], number: int) -> Vectors:
        """The vectors in the order of the texts, of length one: (texts, dimensions)."""
        try:
            items = sorted(answer["data"], key=lambda item: int(item["index"]))
            places = [item["index"] for item in items]
            vectors = np.stack([_numbers(item["embedding"]) for item in items]) if items else np.empty((0, 0))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise self._service.error("it did not give one vector of numbers a text, all of one size") from error
        if places != list(range(number)):
            raise self._service.error(f"it gave {len(places)} vectors for {number} texts, or numbered them wrongly")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            wrong = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise self._service.error(f"it gave text {wrong} of a request a vector that is zero or not finite")
        if (np.abs(lengths - 1) > ROUNDING).any():  # else they stay bit for bit what they were
            vectors = vectors / lengths
        return vectors.astype(np.float32)


def _numbers(given: object) -> Vectors:
    """A vector in either encoding: base64 of little-endian float32, or a list."""
    if isinstance(given, str):
        return np.frombuffer(base64.b64decode(given, validate=True), dtype="<f4")
    vector = np.array(given, dtype=np.float32)
    if vector.ndim != 1:
        raise ValueError("a vector is a list of numbers")
    return vector


def _shared_out(tokens: int, texts: Sequence[str]) -> tuple[int, ...]:
    """Estimates that add up to `tokens`."""
    ends = np.cumsum([len(text) + 1 for text in texts])
    bounds = np.rint(tokens * ends / ends[-1]).astype(int)
    return tuple(np.diff(bounds, prepend=0).tolist())


def _query_prompt(model: str, settings: EmbeddingSettings) -> str:
    """As for a model directory that says nothing of prompts: the published one for Qwen3, none for others."""
    is_wanted = "qwen3" in model.casefold() or "embedding_query_instruction" in settings.model_fields_set
    return f"Instruct: {settings.embedding_query_instruction}\nQuery:" if is_wanted else ""


def _is_same(one: str, other: str) -> bool:
    """`Qwen/Qwen3-Embedding-0.6B` and `qwen3-embedding-0.6b` are."""
    return _base_name(one) == _base_name(other)


def _base_name(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].casefold()
