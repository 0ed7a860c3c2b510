"""Courses of prose for examinations, and an embedder whose vectors are sums of a random direction for each word."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random

import numpy as np

from embedding.interface import Embedder, Embeddings, Pause, no_pause
from embedding.vectors import Vectors
from tests.support.indexed_course import vector_of

WORDS = re.findall(
    r"\w+",
    "copper thickness measured micrometer lecture explains gradient descent learning rate scales every step slope loss "
    "neural network trained examples back propagation errors photosynthesis turns light water carbon dioxide sugar "
    "oxygen inside chloroplast plant cell database keeps index query read transaction committed rolled matrix "
    "multiplication eigenvalue vector space probability variance hypothesis test treaty ended drew borders",
)
"""Known to the tokenizers of `tests.support.tiny_models`."""


def prose(number: int) -> str:
    """A text of two sentences, which hardly resembles those of other numbers."""
    random = Random(number)
    return " ".join(" ".join(random.sample(WORDS, 12)).capitalize() + "." for _ in range(2))


class WordEmbedder(Embedder):
    """Texts with common words have similar vectors. Reads every language."""

    def __init__(self) -> None:
        self.name, self.signature, self.dimensions = "words", "signature", 64

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        return Embeddings(np.array([_vector(text) for text in texts]), tuple(map(len, texts)), truncated=0)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self.embed_documents(texts)

    def legibility(self, text: str) -> float:
        return 1.0


def _vector(text: str) -> Vectors:
    vector: Vectors = np.sum([_direction(word) for word in re.findall(r"\w+", text.lower()) or [""]], axis=0)
    return vector / np.linalg.norm(vector)


@cache
def _direction(word: str) -> Vectors:
    return np.concatenate([vector_of(f"{word} {part}") for part in range(8)])
