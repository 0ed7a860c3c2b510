"""Errors of the vector store."""


class VectorStoreError(Exception):
    """A call to the vector store failed: server unreachable, timeout, damaged index."""


class VectorStoreUnreachableError(VectorStoreError):
    """The server at CHROMA_URL does not answer, or not in time. The same call may succeed later."""


class CollectionNotFoundError(VectorStoreError):
    """The course has no collection: it was never embedded, or its collection was deleted."""
