"""Embeds texts with a local model. This is the only module that loads the embedding model (`embedding.loader`).

A text is tokenized with special tokens and truncated to the token limit. An encoder (`embedding.engine.encoders`) turns
batches of token ids into unit vectors, so that the dot product of two vectors is their cosine. On the CPU, documents
are embedded for throughput: each core computes a separate batch. Queries are embedded for latency: all cores compute
one batch, and the KV cache of the query prompt is reused.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedding.engine.compute_threads import Workers, bulk_workers, multithreaded_worker
from embedding.engine.encoders import Encoder, KVCache, Tokens, create_encoder
from embedding.engine.fallbacks import Float16Fallback, halve_if_out_of_memory
from embedding.engine.gpu_streams import GpuStreams
from embedding.engine.legibility import LegibilityScorer
from embedding.engine.packing import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, packed_batches, padded_batches
from embedding.engine.precision import Precision
from embedding.errors import EmbeddingError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from embedding.loader import load_embedding_model
from embedding.model_files.model_directory import ModelDirectory, read_model_directory
from embedding.model_settings import EmbeddingSettings
from models.text import without_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TokenizersBackend

logger = logging.getLogger(__name__)

TEXTS_PER_TOKENIZATION = 1024
"""Texts that are tokenized at a time; it limits the memory for token ids."""

_Compute = Callable[[Sequence[Tokens]], NDArray[np.float32]]
"""Computes the vectors of a batch of token ids."""


class _Engine(NamedTuple):
    """An encoder with its cached query prompt."""

    encoder: Encoder
    prefix: list[int]
    """Token ids of the query prompt without the last one, which can change together with the start of a query."""
    prefix_cache: KVCache | None


class LocalEmbedder(Embedder):
    """A model that is loaded in this process; thread-safe."""

    def __init__(
        self,
        tokenizer: "TokenizersBackend",
        model: "PreTrainedModel",
        directory: ModelDirectory,
        settings: EmbeddingSettings,
    ) -> None:
        self.name: str = settings.embedding_model_name
        self.dimensions: int = model.config.hidden_size
        self.max_tokens: int = min(settings.embedding_max_tokens, directory.max_tokens)
        self.device: str = model.device.type
        self.dtype: str = _dtype_name(model)
        self.signature: str = directory.signature(settings)
        self._settings = settings
        self._pooling = directory.pooling
        self._lower_case = directory.lower_case
        self._query_prompt = directory.query_prompt(settings)
        self._document_prompt = directory.document_prompt(settings)
        self._batch_tokens = settings.embedding_batch_tokens or (
            CUDA_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS
        )
        self._pad_id = next((id_ for id_ in (tokenizer.pad_token_id, tokenizer.eos_token_id) if id_ is not None), 0)
        # The backend tokenizer is configured once and only read afterwards. A call of transformers' tokenizer sets the
        # truncation again, which raises "Already borrowed" if another thread is encoding.
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        overhead = max(
            len(self._tokenizer.encode(prompt).ids) for prompt in (self._query_prompt, self._document_prompt)
        )
        if overhead >= self.max_tokens:
            raise EmbeddingError(
                f"EMBEDDING_MAX_TOKENS allows {self.max_tokens} tokens, but the model's prompt and special tokens "
                f"take {overhead}, which leaves none for a text. Raise it."
            )
        self._tokenizer.enable_truncation(self.max_tokens, direction="right")
        self._legibility_scorer = LegibilityScorer(self._tokenizer, tokenizer.unk_token_id, lower_case=self._lower_case)
        self._streams = GpuStreams(model.device) if self.device == "cuda" else None
        self._engine = Float16Fallback(
            self._create_engine(model),
            lambda engine: _dtype_name(engine.encoder),
            self._load_bfloat16,
            self.name,
            " Set EMBEDDING_DTYPE=bfloat16 to use it from the start.",
        )

    @classmethod
    def load(cls, settings: EmbeddingSettings | None = None) -> Self:
        """Load the configured model, which takes seconds for Qwen3-Embedding-0.6B.

        Raises:
            ModelUnavailableError: The model directory is missing, incomplete or broken, or its model is not supported.
            EmbeddingError: EMBEDDING_MAX_TOKENS leaves no room for text.
        """
        settings = settings or EmbeddingSettings()
        directory = read_model_directory(settings.embedding_model_path)
        load = lambda: cls(*load_embedding_model(settings), directory, settings)  # noqa: E731
        return multithreaded_worker().run(load)  # loading computes on all cores, too

    @property
    def encoder(self) -> Encoder:
        """The encoder in use. If float16 fails, a bfloat16 encoder replaces it."""
        return self._engine.model.encoder

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Embed any number of passages.

        Args:
            texts: The passages, without a prompt.
            on_progress: Called after each batch with the number of texts that are done.
            pause: Called before each layer of the model, or before each batch if batches are padded.

        Raises:
            EmbeddingError: The model failed, or a vector is not finite.
        """
        compute = partial(self._compute, queries=False, pause=pause)
        workers = bulk_workers() if self.device == "cpu" else bulk_workers(1)
        return self._embed_all([self._document_prompt + text for text in texts], compute, workers, on_progress)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries, each with the model's query prompt before it.

        Raises:
            EmbeddingError: The model failed, or a vector is not finite.
        """
        compute = partial(self._compute, queries=True)
        return self._embed_all([self._query_prompt + text for text in texts], compute, multithreaded_worker())

    def legibility(self, text: str) -> float:
        """Return the share of a text's letters that the model can read, 0.0 to 1.0 (`embedding.engine.legibility`)."""
        return self._legibility_scorer.score(without_surrogates(text))

    def _embed_all(
        self,
        texts: list[str],
        compute: _Compute,
        workers: Workers,
        on_progress: Callable[[int], None] | None = None,
    ) -> Embeddings:
        parts = []
        for start in range(0, len(texts), TEXTS_PER_TOKENIZATION):
            part = texts[start : start + TEXTS_PER_TOKENIZATION]
            report = (lambda done, offset=start: on_progress(offset + done)) if on_progress else None
            parts.append(self._embed_part(part, start, compute, workers, report))
        return concatenate_embeddings(parts, self.dimensions)

    def _embed_part(
        self,
        texts: list[str],
        offset: int,
        compute: _Compute,
        workers: Workers,
        on_progress: Callable[[int], None] | None,
    ) -> Embeddings:
        """Tokenize and embed `texts`; `offset` is the index of the first one in the whole call."""
        tokens, whole_counts = self._tokenize(texts)
        counts = tuple(map(len, tokens))
        truncated = sum(whole > count for whole, count in zip(whole_counts, counts, strict=True))
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        if self.encoder.packed:
            batches = packed_batches(counts, self._batch_tokens, workers.count)
        else:
            batches = [*padded_batches(counts, min(self._batch_tokens, -(-sum(counts) // workers.count)))]
        batch_tokens = ([tokens[index] for index in batch] for batch in batches)
        with closing(workers.map(compute, batch_tokens)) as results:
            for batch, batch_vectors in zip(batches, results, strict=True):
                vectors[batch] = batch_vectors
                for index in batch:
                    if not np.isfinite(vectors[index]).all():
                        raise EmbeddingError(
                            f"the vector of text {offset + index} ({len(texts[index])} characters) is not finite, in "
                            f"{self.dtype} on {self.device}"
                        )
                done += len(batch)
                if on_progress:
                    on_progress(done)
        embeddings = Embeddings(vectors, counts, truncated, whole_counts)
        if truncated:
            logger.warning(
                "%d of %d texts (%.1f %%) were longer than %d tokens and were truncated.",
                truncated,
                len(texts),
                100 * embeddings.truncated_share,
                self.max_tokens,
            )
        return embeddings

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], tuple[int, ...]]:
        """Return the token ids of each text, truncated before its closing token, and its tokens before truncation."""
        clean = [without_surrogates(text.lower() if self._lower_case else text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(clean)
        # an empty text has no tokens if the tokenizer adds no special tokens
        tokens = [encoding.ids or [self._pad_id] for encoding in encodings]
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)  # each overflowing part has them, too
        whole_counts = tuple(
            len(ids) + sum(len(part.ids) - special for part in encoding.overflowing)
            for ids, encoding in zip(tokens, encodings, strict=True)
        )
        return tokens, whole_counts

    def _compute(self, batch: Sequence[Tokens], *, queries: bool, pause: Pause = no_pause) -> NDArray[np.float32]:
        """Return the unit vectors of a batch; switch to bfloat16 permanently if float16 fails."""
        stream: AbstractContextManager[Pause] = nullcontext(pause)
        if self._streams:
            stream = self._streams.for_queries() if queries else self._streams.for_bulk(pause)
        try:
            with stream as pause_of_stream:
                return self._engine.run(lambda engine: _encode(engine, batch, queries, pause_of_stream))
        except RuntimeError as error:  # torch's errors, including GPU out of memory
            raise EmbeddingError(f"the embedding model failed on {self.device}: {error}") from error

    def _load_bfloat16(self) -> _Engine:
        _, model = load_embedding_model(self._settings, precision="bfloat16")
        engine = self._create_engine(model, "bfloat16")
        self.device, self.dtype = model.device.type, _dtype_name(model)
        return engine

    def _create_engine(self, model: "PreTrainedModel", precision: Precision | None = None) -> _Engine:
        import torch

        encoder = create_encoder(
            model,
            lambda: load_embedding_model(self._settings, precision=precision)[1],
            self._pooling,
            pad_id=self._pad_id,
        )
        prefix = self._tokenizer.encode(self._query_prompt, add_special_tokens=False).ids[:-1]
        prefix_cache = encoder.compute_prefix(prefix) if prefix else None
        if encoder.device.type == "cuda":
            torch.cuda.synchronize()  # other streams use the prefix
        return _Engine(encoder, prefix, prefix_cache)


def _encode(engine: _Engine, batch: Sequence[Tokens], queries: bool, pause: Pause) -> NDArray[np.float32]:
    """Return the unit vectors of a batch. A batch that does not fit in the memory of the GPU is halved.

    The prefix cache is not used if the tokenization of a query changed the tokens of the prefix.
    """
    cached = len(engine.prefix) if queries and engine.prefix_cache else 0
    if any(ids[:cached] != engine.prefix for ids in batch if cached):
        cached = 0
    prefix_cache = engine.prefix_cache if cached else None

    def encode(part: Sequence[Tokens]) -> NDArray[np.float32]:
        return engine.encoder.encode([ids[cached:] for ids in part], prefix_cache, pause).cpu().numpy()

    return halve_if_out_of_memory(encode, batch)


def _dtype_name(model: "PreTrainedModel | Encoder") -> str:
    return str(model.dtype).removeprefix("torch.")
