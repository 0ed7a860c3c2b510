"""The vector store without a server: a restore builds a new Chroma directory in its process."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings

if TYPE_CHECKING:
    from chromadb.api.client import Client


class OfflineVectorStore(VectorStore):
    """The vector store in a Chroma directory that this process opens directly.

    The caller must hold the lock on the directory: Chroma does not lock it, and two processes would damage it.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(VectorStoreSettings(chroma_url=str(directory)))
        self._directory = directory

    def close(self) -> None:
        """Close all files of the directory, which can be moved then. The next call opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self) -> "Client":
        from chromadb import PersistentClient
        from chromadb.config import Settings as ChromaSettings

        return cast("Client", PersistentClient(self._directory, settings=ChromaSettings(anonymized_telemetry=False)))
