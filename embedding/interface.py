"""Text → vector: what an embedder does, be it a model loaded here or a service that is asked over HTTP."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pause = Callable[[], None]
"""Called again and again by the threads that do bulk work; it may wait, and it may raise to end the work."""


def no_pause() -> None:
    """For bulk work that gives way to nothing."""


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
    """A model that is ready to embed. Several threads may use one instance."""

    name: str
    dimensions: int
    max_tokens: int
    """What a text is cut to, its prompt and special tokens included."""
    device: str
    dtype: str
    signature: str
    """Of whatever decides the vectors: those of two embedders with the same signature may stand in one collection."""

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Vectors of passages, of any number of them.

        Now and then `on_progress` hears how many of the texts are done.

        Raises:
            EmbeddingError: the model failed, or gave a text a vector that is not finite.
        """
        raise NotImplementedError

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of searches, the model's query prompt included; errors as `embed_documents`."""
        raise NotImplementedError

    def legibility(self, text: str) -> float:
        """The share of a query's letters that the model can read, 0.0 to 1.0; see `embedding.engine.legibility`."""
        raise NotImplementedError


def joined(parts: Sequence[Embeddings], dimensions: int) -> Embeddings:
    """One after the other, as if they had been made at once; of no parts, no vectors of so many dimensions."""
    return Embeddings(
        np.concatenate([np.empty((0, dimensions), dtype=np.float32), *(part.vectors for part in parts)]),
        tuple(count for part in parts for count in part.token_counts),
        sum(part.truncated for part in parts),
    )
