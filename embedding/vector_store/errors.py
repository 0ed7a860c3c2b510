"""TODO."""


class VectorStoreError(Exception):
    """The vector store failed: server away, time-out, broken index."""


class VectorStoreUnreachableError(VectorStoreError):
    """Nobody answers at CHROMA_URL, or not in time: what failed now may work when the server is back."""


class CollectionNotFoundError(VectorStoreError):
    """The course has no collection: it was never embedded, or its collection was deleted."""
