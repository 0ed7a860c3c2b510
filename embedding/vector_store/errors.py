"""Errors of the vector store."""


class VectorStoreError(Exception):
    """A call to the vector store failed: server unreachable, timeout, damaged index."""


class VectorStoreUnreachableError(VectorStoreError):
    """The server at CHROMA_URL does not answer, or not in time. The same call may succeed later."""


class VectorStoreUnhealthyError(VectorStoreError):
    """The server answers, but cannot read or write, for example because its disk is full. Collections may be intact.

    The same call may succeed when an operator has removed the cause.
    """


class CollectionNotFoundError(VectorStoreError):
    """The course has no collection: it was never embedded, or its collection was deleted."""
