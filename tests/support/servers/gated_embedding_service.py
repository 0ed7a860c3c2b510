"""The real embedding service, in a thread of the test, with a gate that can hold bulk work at an exact point."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from embedding.embedder import LocalEmbedder
from embedding.interface import Embeddings, Pause, no_pause
from embedding.model_settings import EmbeddingSettings
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.services import ModelServices, open_embedding
from tests.support.servers.asgi import serving


class Gate:
    """Holds batches of documents until it is opened. Queries always pass."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        """All texts that were embedded."""
        self._held_text = ""
        self._condition = threading.Condition()
        self._batches_left: int | None = None
        self._holding = False

    @property
    def holds(self) -> bool:
        """Whether a batch is being held."""
        return self._holding

    def close_after(self, batches: int, text: str = "") -> None:
        """Hold every batch after the next `batches`; if a text is given, of those whose first text contains it."""
        with self._condition:
            self._batches_left, self._held_text = batches, text

    def open(self) -> None:
        """Let every batch pass."""
        with self._condition:
            self._batches_left = None
            self._condition.notify_all()

    def wait(self, texts: Sequence[str]) -> None:
        """Called before each batch."""
        with self._condition:
            self.passed += texts
            if self._held_text not in texts[0]:
                return
            if self._batches_left:
                self._batches_left -= 1
                return
            self._holding = self._batches_left is not None
            self._condition.wait_for(lambda: self._batches_left is None)
            self._holding = False


class GatedEmbedder(LocalEmbedder):
    """A local model whose bulk work passes a gate."""

    gate: Gate

    def embed_documents(
        self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None, pause: Pause = no_pause
    ) -> Embeddings:
        self.gate.wait(texts)
        return super().embed_documents(texts, on_progress, pause)


@contextmanager
def gated_embedding_service(model: Path) -> Iterator[tuple[str, Gate]]:
    """The embedding app with the model in a directory; yields its URL and the gate."""
    embedder = GatedEmbedder.load(EmbeddingSettings(embedding_model_path=model, embedding_device="cpu"))
    embedder.gate = Gate()

    @contextmanager
    def services(settings: SearchSettings) -> Iterator[ModelServices]:
        with open_embedding(settings, lambda: embedder) as (embedding, caches):
            yield ModelServices(settings, embedding, caches)

    with serving(create_embedding_app(SearchSettings(), services)) as url:
        try:
            yield url, embedder.gate
        finally:
            embedder.gate.open()
