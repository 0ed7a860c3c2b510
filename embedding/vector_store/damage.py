"""Decides when a collection is damaged, so that it may be deleted and built again.

An error while reading a collection is weak evidence, because a sick server fails in the same way. Measured with Chroma
1.5.9: without free file handles the error of an intact collection is exactly that of a damaged one ("Error loading hnsw
index"), while the collections that the server holds in memory are read without an error. What fails then is a write.
So a collection is damaged only if all of this holds:

* Reading it fails twice, with a pause in between, and the error does not blame Chroma's database or the system.
* Before and after the second attempt, a scratch collection can be created, written, read and deleted. This needs file
  handles and disk space.
* The collections that cannot be read are few, or not more than those that can; a sample is read.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from uuid import uuid4

from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import (
    CollectionNotFoundError,
    VectorStoreError,
    VectorStoreUnhealthyError,
    VectorStoreUnreachableError,
)

PAUSE_SECONDS = 2.0
"""Pause between the two attempts to read, in seconds."""
MAX_DAMAGED = 3
"""Up to this many collections may be damaged at once, even if fewer can be read. More are a fault of the server."""
SAMPLE_SIZE = 10
"""Number of other collections that are read for comparison."""
SCRATCH_PREFIX = "scratch-"
"""Prefix of the names of scratch collections. No collection of a course begins like this."""
_SERVER_ERRORS = ("error returned from database", "os error")
"""Parts of messages of errors that Chroma's database or the system has, for example a malformed or missing file."""


def find_damaged(store: VectorStore, course_ids: Sequence[str]) -> list[str]:
    """Those of the courses whose collection is certainly damaged: only deleting it helps.

    Takes a few seconds if a collection cannot be read.

    Raises:
        VectorStoreUnreachableError: The server does not answer.
        VectorStoreUnhealthyError: A collection cannot be read, but the server seems to be the cause.
    """
    failed = _unreadable(store, course_ids)
    if not failed:
        return []
    _check_server(store, failed)
    time.sleep(PAUSE_SECONDS)
    failed = _unreadable(store, list(failed))
    if failed:
        _check_server(store, failed)
        _check_number(store, failed)
    return list(failed)


def _unreadable(store: VectorStore, course_ids: Sequence[str]) -> dict[str, VectorStoreError]:
    """The error of each collection that exists and cannot be read."""
    return {course_id: error for course_id in course_ids if (error := _read_error(store, course_id))}


def _read_error(store: VectorStore, course_id: str) -> VectorStoreError | None:
    error = _error_of(lambda: store.open(course_id).dimensions())
    if error and any(part in str(error) for part in _SERVER_ERRORS):
        raise _unhealthy(error, "the error is one of its database or its machine") from error
    return error


def _error_of(read: Callable[[], object]) -> VectorStoreError | None:
    """The error of reading a collection. None if there is none, or if the collection does not exist (any more)."""
    try:
        read()
    except VectorStoreUnreachableError:
        raise
    except CollectionNotFoundError:
        return None
    except VectorStoreError as error:
        return error
    return None


def _check_server(store: VectorStore, failed: dict[str, VectorStoreError]) -> None:
    """Check that the server works apart from these collections."""
    try:
        store.check()
        store.write_scratch(f"{SCRATCH_PREFIX}{uuid4()}")
    except VectorStoreUnreachableError:
        raise
    except VectorStoreError as error:
        raise _unhealthy(next(iter(failed.values())), f"a scratch collection cannot be written ({error})") from error


def _check_number(store: VectorStore, failed: dict[str, VectorStoreError]) -> None:
    """Check that only a few collections cannot be read, or fewer than can; reads a sample of the others."""
    names = {collection_name(course_id) for course_id in failed}
    others = (collection for collection in store.collections() if collection.name not in names)
    sample = [_error_of(collection.dimensions) for collection in islice(others, max(SAMPLE_SIZE, 2 * len(names)))]
    readable = sample.count(None)
    unreadable = len(names) + len(sample) - readable
    if unreadable > max(MAX_DAMAGED, readable):
        reason = f"{unreadable} collections cannot be read, and only {readable} can"
        raise _unhealthy(next(iter(failed.values())), reason)


def _unhealthy(error: VectorStoreError, reason: str) -> VectorStoreUnhealthyError:
    return VectorStoreUnhealthyError(
        f"{error}. Nothing is deleted, because the server seems to be the cause: {reason}. Check the free disk space, "
        "the limit of open files (ulimit -n) and the permissions of the Chroma server, restart it, and try again"
    )
