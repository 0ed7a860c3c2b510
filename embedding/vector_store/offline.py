"""A vector store that no server serves: a restore builds a directory by itself before any server may open it."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings

if TYPE_CHECKING:
    from chromadb.api.client import Client


class OfflineVectorStore(VectorStore):
    """The vector store of a Chroma directory that this process has for itself.

    Only with a lock on the directory: Chroma takes none, and a second process would damage it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(VectorStoreSettings(chroma_url=str(directory)))
        self._directory = directory

    def close(self) -> None:
        """Close every file of the directory; from then on it may be moved."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self) -> "Client":
        from chromadb import PersistentClient
        from chromadb.config import Settings as ChromaSettings

        return cast("Client", PersistentClient(self._directory, settings=ChromaSettings(anonymized_telemetry=False)))
