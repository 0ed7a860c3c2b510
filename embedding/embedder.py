"""Text → vector. The one place that uses the loader.

A text is tokenized with the model's own special tokens and cut by token. Texts of like length share a batch, so that
little of it is padding; the model's token vectors are pooled into one vector a text (its last token, its first, or
their mean, as the model directory says), which is scaled to length one: a dot product of two is their cosine.
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from embedding.errors import EmbeddingError
from embedding.loader import load_embedding_model
from embedding.model_files import ModelDirectory, Pooling, read_model_directory
from embedding.settings import EmbeddingSettings
from models.unicode import without_surrogates

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TokenizersBackend

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 1024
"""Tokens of a batch, padding included. Larger batches leave the processor's cache and are slower."""
CUDA_BATCH_TOKENS = 16384
"""Fills a GPU; the activations of the 0.6B model stay under 1 GB."""


@dataclass(frozen=True)
class Embeddings:
    """The vectors of some texts, in the order of the texts."""

    vectors: NDArray[np.float32]
    """(texts, dimensions), each row of length one."""
    token_counts: tuple[int, ...]
    """Tokens the model read of each text, prompt and special tokens included."""
    truncated: int
    """How many texts were cut."""

    @property
    def truncated_share(self) -> float:
        """The cut texts among all, 0.0 to 1.0."""
        return self.truncated / len(self.token_counts) if self.token_counts else 0.0


class Embedder:
    """A loaded model. Several threads may use one instance: nothing in it changes after its construction."""

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
        self.signature: str = directory.signature(settings.embedding_max_tokens)
        self._model = model
        self._pooling = directory.pooling
        self._lower_case = directory.lower_case
        self._query_prompt = directory.query_prompt(settings)
        self._document_prompt = directory.document_prompt
        self._batch_tokens = CUDA_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS
        self._unknown: int | None = tokenizer.unk_token_id
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

    @classmethod
    def load(cls, settings: EmbeddingSettings | None = None) -> Self:
        """Load the configured model; seconds for the real one.

        Raises:
            ModelUnavailableError: the model directory is missing, incomplete, broken or of an unsupported kind.
            EmbeddingError: EMBEDDING_MAX_TOKENS leaves no room for text.
        """
        settings = settings or EmbeddingSettings()
        directory = read_model_directory(settings.embedding_model_path)
        tokenizer, model = load_embedding_model(settings)
        return cls(tokenizer, model, directory, settings)

    def embed_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Embeddings:
        """Vectors of passages, of any number of them.

        After each batch `on_progress` hears how many of the texts are done.

        Raises:
            EmbeddingError: the model failed, or gave a text a vector that is not finite.
        """
        return self._embed([self._document_prompt + text for text in texts], on_progress)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of searches: each text follows the model's query prompt.

        Raises:
            EmbeddingError: the model failed, or gave a text a vector that is not finite.
        """
        return self._embed([self._query_prompt + text for text in texts])

    def legibility(self, text: str) -> float:
        """The share of the text's letters that the model can read, 0.0 to 1.0; 1.0 where there are none.

        A model's vocabulary is made of what it was trained on. What it has not seen is an unknown token, or falls apart
        into letters or bytes, and the vector of such a text is noise. A Chinese character, or a syllable, may stand
        alone.
        """
        letters = sum(map(str.isalpha, text))
        if not letters:
            return 1.0
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        times = Counter(encoding.offsets)
        read = sum(
            sum(map(str.isalpha, text[start:end]))
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token != self._unknown and times[start, end] == 1 and not _is_torn(text, start, end)
        )
        return min(1.0, read / letters)

    def _embed(self, texts: list[str], on_progress: Callable[[int], None] | None = None) -> Embeddings:
        tokens, truncated = self._tokenize(texts)
        counts = tuple(map(len, tokens))
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for batch in batches(counts, self._batch_tokens):
            try:
                vectors[batch] = self._encode([tokens[index] for index in batch])
            except RuntimeError as error:  # torch's errors, a full GPU among them
                raise EmbeddingError(f"the embedding model failed on {self.device}: {error}") from error
            for index in batch:
                if not np.isfinite(vectors[index]).all():
                    raise EmbeddingError(self._describe_failure(index, texts[index]))
            done += len(batch)
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

    def _encode(self, batch: list[list[int]]) -> NDArray[np.float32]:
        """Unit vectors of a batch of token ids; a batch that the GPU has no memory for is halved."""
        import torch

        try:
            return self._forward(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(batch) // 2
        return np.concatenate([self._encode(batch[:half]), self._encode(batch[half:])])

    def _forward(self, batch: list[list[int]]) -> NDArray[np.float32]:
        import torch

        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.full((len(batch), int(lengths.max())), self._filler)
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        ids[mask] = torch.tensor([token for text in batch for token in text])
        with torch.inference_mode():
            ids, mask, lengths = (tensor.to(self._model.device) for tensor in (ids, mask, lengths))
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            pooled = _pool(hidden, mask, lengths, self._pooling)
            unit = pooled / pooled.norm(dim=1, keepdim=True)  # a zero vector becomes NaN, and is refused as such
            vectors: NDArray[np.float32] = unit.cpu().numpy()
        return vectors

    def _describe_failure(self, index: int, text: str) -> str:
        advice = " in float16 on the GPU; EMBEDDING_DEVICE=cpu computes in float32" if self.device == "cuda" else ""
        return f"text {index} ({text[:80]!r}) got a vector that is not finite{advice}"


def _is_torn(text: str, start: int, end: int) -> bool:
    """Whether it is one letter out of a word, in a script whose letters mean nothing alone."""
    if end - start != 1 or not text[start].isalpha() or unicodedata.east_asian_width(text[start]) in "WF":
        return False
    return text[start - 1 : start].isalpha() or text[end : end + 1].isalpha()


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of the texts, longest first, in groups of at most `budget` tokens once padded to their longest.

    A text longer than the budget is a group of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _pool(hidden: "torch.Tensor", mask: "torch.Tensor", lengths: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """(texts, tokens, d) right-padded token vectors → (texts, d), in float32."""
    if pooling == "mean":
        return hidden.float().masked_fill(~mask.unsqueeze(2), 0.0).sum(dim=1) / lengths.unsqueeze(1)
    position = lengths - 1 if pooling == "lasttoken" else lengths * 0
    return hidden[range(len(hidden)), position].float()
