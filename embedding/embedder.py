"""Text → vector by a model that is loaded here. The one place that uses the loader.

A text is tokenized with the model's own special tokens and cut by token. An encoder (`embedding.engine.encoders`) turns
batches of token ids into vectors of length one: a dot product of two is their cosine. Documents are many, and what
counts is how many are done in a second; so on the CPU every processor computes batches of its own. A query is one, and
somebody waits for it; so all processors compute it together, and what the model makes of the prompt before it is kept.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from embedding.engine.compute_threads import Workers, bulk_workers, spreading_worker
from embedding.engine.encoders import Encoder, Starts, Tokens, create_encoder
from embedding.engine.legibility import Legibility
from embedding.engine.packing import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, batches, packs
from embedding.engine.precision import Precision
from embedding.errors import EmbeddingError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from embedding.loader import load_embedding_model
from embedding.model_files.directory import ModelDirectory, read_model_directory
from embedding.model_settings import EmbeddingSettings
from models.text import without_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TokenizersBackend

logger = logging.getLogger(__name__)

TEXTS_AHEAD = 1024
"""Texts that are tokenized at a time, however many there are: their tokens take memory, too."""


_Compute = Callable[[Sequence[Tokens]], NDArray[np.float32]]
"""Token ids of some texts → their vectors."""


class _Engine(NamedTuple):
    """What computes, and what it has kept of the prompt."""

    encoder: Encoder
    prompt: list[int]
    """The tokens of the query prompt that no query can change."""
    starts: Starts | None


class LocalEmbedder(Embedder):
    """A loaded model. Several threads may use one instance."""

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
        self.dtype: str = _name(model)
        self.signature: str = directory.signature(settings.embedding_max_tokens)
        self._settings = settings
        self._pooling = directory.pooling
        self._lower_case = directory.lower_case
        self._query_prompt = directory.query_prompt(settings)
        self._document_prompt = directory.document_prompt
        self._batch_tokens = settings.embedding_batch_tokens or (
            CUDA_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS
        )
        self._filler = next((id_ for id_ in (tokenizer.pad_token_id, tokenizer.eos_token_id) if id_ is not None), 0)
        # The backend is set up once and only read afterwards. transformers' own call sets truncation anew each time,
        # which fails with "Already borrowed" when another thread is encoding.
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        overhead = max(
            len(self._tokenizer.encode(prompt).ids) for prompt in (self._query_prompt, self._document_prompt)
        )
        if overhead >= self.max_tokens:
            raise EmbeddingError(
                f"EMBEDDING_MAX_TOKENS allows {self.max_tokens} tokens, and the model's prompt and special tokens "
                f"take {overhead}: nothing would be left of a text. Raise it."
            )
        self._tokenizer.enable_truncation(self.max_tokens, direction="right")
        self._reader = Legibility(self._tokenizer, tokenizer.unk_token_id, lower_case=self._lower_case)
        self._changing = Lock()
        self._engine = self._create_engine(model)

    @classmethod
    def load(cls, settings: EmbeddingSettings | None = None) -> Self:
        """Load the configured model; seconds for the real one.

        Raises:
            ModelUnavailableError: the model directory is missing, incomplete, broken or of an unsupported kind.
            EmbeddingError: EMBEDDING_MAX_TOKENS leaves no room for text.
        """
        settings = settings or EmbeddingSettings()
        directory = read_model_directory(settings.embedding_model_path)
        load = lambda: cls(*load_embedding_model(settings), directory, settings)  # noqa: E731
        return spreading_worker().run(load)  # it spreads work, too

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Vectors of passages, of any number of them.

        After each batch `on_progress` hears how many of the texts are done. `pause` is called before each layer of the
        model, and before each batch where they are padded.

        Raises:
            EmbeddingError: the model failed, or gave a text a vector that is not finite.
        """
        compute = partial(self._compute, queries=False, pause=pause)
        workers = bulk_workers() if self.device == "cpu" else bulk_workers(1)
        return self._embed_all([self._document_prompt + text for text in texts], compute, workers, on_progress)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of searches: each text follows the model's query prompt.

        Raises:
            EmbeddingError: the model failed, or gave a text a vector that is not finite.
        """
        compute = partial(self._compute, queries=True)
        return self._embed_all([self._query_prompt + text for text in texts], compute, spreading_worker())

    def legibility(self, text: str) -> float:
        """The share of the text's letters that the model can read, 0.0 to 1.0; see `embedding.engine.legibility`."""
        return self._reader.of(without_surrogates(text))

    def _embed_all(
        self,
        texts: list[str],
        compute: _Compute,
        workers: Workers,
        on_progress: Callable[[int], None] | None = None,
    ) -> Embeddings:
        parts = []
        for start in range(0, len(texts), TEXTS_AHEAD):
            report = (lambda done, before=start: on_progress(before + done)) if on_progress else None
            parts.append(self._embed_some(texts[start : start + TEXTS_AHEAD], start, compute, workers, report))
        return concatenate_embeddings(parts, self.dimensions)

    def _embed_some(
        self,
        texts: list[str],
        before: int,
        compute: _Compute,
        workers: Workers,
        on_progress: Callable[[int], None] | None,
    ) -> Embeddings:
        """Of texts that are tokenized together; `before` them there were others."""
        tokens, truncated = self._tokenize(texts)
        counts = tuple(map(len, tokens))
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        budget = min(self._batch_tokens, -(-sum(counts) // workers.count))
        groups = [*(packs if self._engine.encoder.packed else batches)(counts, budget)]
        work = ([tokens[index] for index in group] for group in groups)
        with closing(workers.map(compute, work)) as results:
            for group, result in zip(groups, results, strict=True):
                vectors[group] = result
                for index in group:
                    if not np.isfinite(vectors[index]).all():
                        raise EmbeddingError(
                            f"text {before + index} ({texts[index][:80]!r}) got a vector that is not finite, in "
                            f"{self.dtype} on {self.device}"
                        )
                done += len(group)
                if on_progress:
                    on_progress(done)
        embeddings = Embeddings(vectors, counts, truncated)
        if truncated:
            logger.warning(
                "%d of %d texts (%.1f %%) were longer than %d tokens and were cut.",
                truncated,
                len(texts),
                100 * embeddings.truncated_share,
                self.max_tokens,
            )
        return embeddings

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """The token ids of each text, cut but with the tokenizer's closing token, and how many texts were cut."""
        clean = [without_surrogates(text.lower() if self._lower_case else text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(clean)
        # an empty text has no token at all where the tokenizer adds none of its own
        tokens = [encoding.ids or [self._filler] for encoding in encodings]
        return tokens, sum(bool(encoding.overflowing) for encoding in encodings)

    def _compute(self, batch: Sequence[Tokens], *, queries: bool, pause: Pause = no_pause) -> NDArray[np.float32]:
        """Unit vectors of a batch of token ids; float16 is left for good when a number does not fit in it."""
        import torch

        engine = self._engine
        try:
            vectors = _encode(engine, batch, queries, pause)
            if engine.encoder.dtype == torch.float16 and not np.isfinite(vectors).all():
                vectors = _encode(self._without_float16(engine), batch, queries, pause)
        except RuntimeError as error:  # torch's errors, a full GPU among them
            raise EmbeddingError(f"the embedding model failed on {self.device}: {error}") from error
        return vectors

    def _without_float16(self, engine: _Engine) -> _Engine:
        """The same in bfloat16, which has the range of float32; loaded once, whoever asks for it first."""
        with self._changing:
            if self._engine is engine:
                logger.warning(
                    "A number did not fit in float16: %s goes on in bfloat16, whose steps are coarser. "
                    "EMBEDDING_DTYPE=bfloat16 spares the time of finding out.",
                    self.name,
                )
                _, model = load_embedding_model(self._settings, precision="bfloat16")
                self._engine, self.dtype = self._create_engine(model, "bfloat16"), _name(model)
            return self._engine

    def _create_engine(self, model: "PreTrainedModel", precision: Precision | None = None) -> _Engine:
        encoder = create_encoder(
            model,
            lambda: load_embedding_model(self._settings, precision=precision)[1],
            self._pooling,
            filler=self._filler,
        )
        # The last token of the prompt may become another one, together with the beginning of a query.
        prompt = self._tokenizer.encode(self._query_prompt, add_special_tokens=False).ids[:-1]
        return _Engine(encoder, prompt, encoder.start(prompt) if prompt else None)


def _encode(engine: _Engine, batch: Sequence[Tokens], queries: bool, pause: Pause) -> NDArray[np.float32]:
    """Unit vectors of a batch of token ids; a batch that the GPU has no memory for is halved."""
    import torch

    read = len(engine.prompt) if queries and engine.starts else 0
    if any(ids[:read] != engine.prompt for ids in batch if read):
        read = 0
    try:
        vectors = engine.encoder.encode([ids[read:] for ids in batch], engine.starts if read else None, pause)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    else:
        return vectors.cpu().numpy()
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return np.concatenate([_encode(engine, part, queries, pause) for part in (batch[:half], batch[half:])])


def _name(model: "PreTrainedModel") -> str:
    return str(model.dtype).removeprefix("torch.")
