"""Finds vectors of texts that were embedded before, in the collections of this course and of others.

The catalogue's index says where to look (`models.embedded_texts`). A vector is used only if its collection was made by
the same model, its record has the same hash and context, and it is sound. So whatever is wrong or missing, in the index
or in a collection, costs an embedding and never yields a wrong vector; a collection that cannot be read is no error.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from embedding.vector_store.collections import StoredVector, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Record
from embedding.vectors import Vectors, are_sound
from models import embedded_texts
from models.database import Session
from models.embedded_texts import TextSource, text_key

MAX_SOURCES = 50
"""Number of collections that are read for the texts of one call. Reading one costs Chroma some MB of memory."""
MAX_FAILURES = 3
"""After so many collections that could not be read, a pass looks for no more vectors: each takes up to the timeout."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Transact(Protocol):
    """Runs an operation in a transaction of the catalogue, and returns its result."""

    def __call__(self, operation: Callable[[Session], T], /) -> T:
        """Run the operation, which may be repeated."""


class FoundVector(NamedTuple):
    """The vector of a text that was embedded before."""

    vector: Vectors
    """(dimensions,)."""
    course_id: str
    """The course whose collection it is from."""


class EmbeddedTexts:
    """The texts that are embedded already, for one pass over a course.

    Args:
        course_id: The course of the pass.
        transact: Access to the catalogue.
        store: The vector store. It should wait for a server that is restarted, which takes less than embedding does.
        unreadable: Ids of courses whose collections are not read. Those that cannot be read are added.
        only_own: Take no vectors from other courses.
    """

    def __init__(
        self,
        course_id: str,
        transact: Transact,
        store: VectorStore,
        unreadable: set[str] | None = None,
        *,
        only_own: bool = False,
    ) -> None:
        self._course_id = course_id
        self._transact = transact
        self._store = store
        self._unreadable = set() if unreadable is None else unreadable
        self._only_own = only_own
        self._failures = 0

    def find(self, records: Sequence[Record], model_signature: str, dimensions: int) -> list[FoundVector | None]:
        """The vector of each text, or None if it was not embedded before.

        Args:
            records: Records with different texts.
            model_signature: The model that is needed.
            dimensions: Of its vectors.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        found: list[FoundVector | None] = [None] * len(records)
        wanted = {text_key(model_signature, record.text_hash): row for row, record in enumerate(records)}
        read: set[str] = set()
        while wanted and len(read) < MAX_SOURCES and self._failures < MAX_FAILURES:
            source = self._find_source(list(wanted), read | self._unreadable)
            if source is None:
                break
            read.add(source.course_id)
            for key, stored in self._read(source, model_signature).items():
                record = records[wanted[key]]
                is_same = (stored.text_hash, stored.context) == (record.text_hash, record.context)
                if is_same and are_sound(stored.vector[None], dimensions).all():
                    found[wanted.pop(key)] = FoundVector(stored.vector, source.course_id)
        return found

    def record(self, records: Sequence[Record], model_signature: str) -> None:
        """Record that the collection of the course has these records.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        keys = {record.chunk_id: text_key(model_signature, record.text_hash) for record in records}
        self._transact(lambda session: embedded_texts.record_texts(session, self._course_id, keys))

    def remove_deleted(self, chunks: int, deleted_of: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """Delete the entries of chunks that the course does not have any more.

        Args:
            chunks: Number of chunks of the course, which are all recorded.
            deleted_of: Returns those of the ids that no chunk of the course has.

        Raises:
            DatabaseUnavailableError: The catalogue is unavailable.
        """
        after = ""
        if self._transact(lambda session: embedded_texts.count_texts(session, self._course_id)) <= chunks:
            return
        while page := self._recorded_chunks(after):
            after = page[-1]
            self._remove(deleted_of(page))

    def _find_source(self, keys: Sequence[int], excluded: set[str]) -> TextSource | None:
        return self._transact(
            lambda session: embedded_texts.find_source(
                session, keys, self._course_id, excluded, only_own=self._only_own
            )
        )

    def _recorded_chunks(self, after: str) -> Sequence[str]:
        return self._transact(lambda session: embedded_texts.recorded_chunks(session, self._course_id, after))

    def _remove(self, chunk_ids: Sequence[str]) -> None:
        if chunk_ids:
            self._transact(lambda session: embedded_texts.remove_texts(session, self._course_id, chunk_ids))

    def _read(self, source: TextSource, model_signature: str) -> dict[int, StoredVector]:
        """The records that the collection of the source has, by the key of their text."""
        try:
            collection = self._store.open(source.course_id)
            if (collection.info.course_id, collection.info.model_signature) != (source.course_id, model_signature):
                return {}
            stored = collection.stored_vectors(list(source.chunk_ids.values()))
            now = collection.hashes(list(stored))
        except CollectionNotFoundError:
            return {}
        except VectorStoreUnreachableError as error:
            self._failures = MAX_FAILURES  # the store has waited for a minute; the next collection may be intact
            self._unreadable.add(source.course_id)
            logger.warning(
                "The vectors of course %s cannot be read, and the pass looks for no others: %s", source.course_id, error
            )
            return {}
        except VectorStoreError as error:
            self._failures += 1
            self._unreadable.add(source.course_id)
            logger.warning("The vectors of course %s cannot be used for another course: %s", source.course_id, error)
            return {}
        # Chroma reads hashes and vectors one after the other. A record that was written meanwhile has another hash now.
        return {
            key: stored[chunk_id]
            for key, chunk_id in source.chunk_ids.items()
            if chunk_id in now and now[chunk_id].text == stored[chunk_id].text_hash
        }
