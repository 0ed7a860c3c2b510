"""The interface of embedders: text → vector, by a local model or by an embedding service."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pause = Callable[[], None]
"""Called at intervals by the threads that do bulk work. It may block, to let queries go first, or raise, to stop."""


def no_pause() -> None:
    """Let bulk work run without interruption."""


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a list of texts, in the same order."""

    vectors: NDArray[np.float32]
    """(texts, dimensions), rows of unit length."""
    token_counts: tuple[int, ...]
    """Tokens per text after truncation, including the prompt and special tokens."""
    truncated: int
    """Number of truncated texts."""
    whole_token_counts: tuple[int, ...] | None = None
    """Tokens per text before truncation, including the prompt and special tokens; None if they are not known."""

    @property
    def truncated_share(self) -> float:
        """Truncated texts divided by all texts, 0.0 to 1.0."""
        return self.truncated / len(self.token_counts) if self.token_counts else 0.0


class Embedder:
    """An embedding model that is ready to use; thread-safe."""

    name: str
    dimensions: int
    max_tokens: int
    """Longer texts are truncated. The limit includes the prompt and special tokens."""
    device: str
    """`cuda`, `cpu` or `remote`."""
    dtype: str
    """Number format of the computation, like `bfloat16`; `remote` for a service."""
    signature: str
    """The model signature. Embedders with the same signature may write to the same collection."""

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Embed any number of passages.

        Args:
            texts: The passages, without a prompt.
            on_progress: Called at intervals with the number of texts that are done.
            pause: See `Pause`.

        Raises:
            EmbeddingError: The model failed, or a vector is not finite.
        """
        raise NotImplementedError

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Embed queries; the embedder adds the query prompt. Raises the same errors as `embed_documents`."""
        raise NotImplementedError

    def legibility(self, text: str) -> float:
        """Return the share of a query's letters that the model can read, 0.0 to 1.0 (`embedding.engine.legibility`)."""
        raise NotImplementedError


def concatenate_embeddings(parts: Sequence[Embeddings], dimensions: int) -> Embeddings:
    """Concatenate embeddings in order. Without parts, the result has the shape (0, dimensions)."""
    whole = [part.whole_token_counts for part in parts]
    return Embeddings(
        np.concatenate([np.empty((0, dimensions), dtype=np.float32), *(part.vectors for part in parts)]),
        tuple(count for part in parts for count in part.token_counts),
        sum(part.truncated for part in parts),
        None if None in whole else tuple(count for counts in whole if counts for count in counts),
    )
