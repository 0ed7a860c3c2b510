"""The vector store: one Chroma collection per course, accessed over HTTP.

Two processes must never open Chroma's directory at the same time: readers would see deleted documents, and writers
would lose vectors without an error. So the pipeline and the search app use one Chroma server. Every failure is raised
as a `VectorStoreError`.

All operations are idempotent, so they can be retried while the server is unreachable (`patience_seconds`). A writer
that may lose ownership of its course passes `before_write`, which is called before every attempt to write and raises if
ownership is lost.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from embedding.vector_store.collection_names import COPY_PREFIX, collection_name, copy_name, retired_name
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Hashes, Record, from_chroma, matches_stored, to_chroma
from embedding.vector_store.server import ChromaConnection, no_check
from embedding.vectors import UNIT_TOLERANCE, Vectors
from models.text import without_excerpts, without_surrogates

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection as ChromaCollection
    from chromadb.api.types import GetResult, Include

WRITE_BATCH = 500
"""Records per request: far below Chroma's limits (5461 records, 40 MB), and enough to hide the round trip."""
READ_BATCH = 2500
"""Ids or collections per request, if their contents are not read."""


@dataclass(frozen=True)
class CollectionInfo:
    """The course and the embedding model of a collection, as its metadata records them."""

    course_id: str
    model_name: str
    model_signature: str
    """Identity of the weights and of all settings that affect the vectors. Queries need the same signature."""


class StoredVector(NamedTuple):
    """The vector of a record, and what it was made from."""

    vector: Vectors
    """(dimensions,)."""
    text_hash: str
    """See `Record.text_hash`; empty as in `Hashes`."""
    context: str


class VectorStore(ChromaConnection):
    """The collections of all courses on the Chroma server."""

    def open(self, course_id: str, before_write: Callable[[], None] = no_check) -> "CourseCollection":
        """The course's collection.

        Raises:
            CollectionNotFoundError: The course has no collection.
            VectorStoreError: The vector store failed.
        """
        name = collection_name(course_id)
        collection = self.call(lambda: self.connect().get_collection(name, embedding_function=None))
        return CourseCollection(self, collection, before_write)

    def create(self, info: CollectionInfo, before_write: Callable[[], None] = no_check) -> "CourseCollection":
        """Create an empty collection for the course. If it has one, return that unchanged, with its previous `info`.

        Raises:
            VectorStoreError: The vector store failed.
        """
        return self._create(collection_name(info.course_id), info, before_write)

    def create_copy(self, course_id: str, info: CollectionInfo) -> "CourseCollection":
        """Create an empty collection that `replace_by_copy` makes the course's collection. An older copy is deleted.

        Raises:
            VectorStoreError: The vector store failed.
        """
        self.delete_copies(course_id)
        return self._create(copy_name(course_id), info, no_check)

    def open_copy(self, course_id: str) -> "CourseCollection":
        """The copy of the course's collection.

        Raises:
            CollectionNotFoundError: There is none.
            VectorStoreError: The vector store failed.
        """
        collection = self.call(lambda: self.connect().get_collection(copy_name(course_id), embedding_function=None))
        return CourseCollection(self, collection)

    def discard_copy(self, course_id: str, copy: "CourseCollection") -> None:
        """Delete this copy, unless it has replaced the collection or was replaced by another copy.

        Raises:
            VectorStoreError: The vector store failed.
        """
        with suppress(CollectionNotFoundError):
            if self.open_copy(course_id).id == copy.id:
                self._delete(copy_name(course_id), no_check)

    def delete_copies(self, course_id: str, before_write: Callable[[], None] = no_check) -> None:
        """Delete the copy of the course's collection, and the former collection that a copy has replaced.

        Raises:
            VectorStoreError: The vector store failed.
        """
        self._delete(copy_name(course_id), before_write)
        self._delete(retired_name(course_id), before_write)

    def replace_by_copy(self, course_id: str, before_write: Callable[[], None] = no_check) -> None:
        """Give the name of the course's collection to the copy. Takes milliseconds and can be repeated.

        The former collection is kept until `delete_copies`, because deleting a large one takes seconds. If the process
        is killed in between, the course has no collection, and `adopt_copy` completes the replacement.

        Raises:
            CollectionNotFoundError: There is neither a copy nor a collection that was a copy.
            VectorStoreError: The vector store failed.
        """

        def retire() -> None:
            # Without a copy, the collection with the course's name is the copy: this call is a repetition.
            self.connect().get_collection(copy_name(course_id), embedding_function=None)
            former = self.connect().get_collection(collection_name(course_id), embedding_function=None)
            former.modify(name=retired_name(course_id))

        with suppress(CollectionNotFoundError):
            self.call(retire, before_write)
        self.adopt_copy(course_id)

    def adopt_copy(self, course_id: str) -> None:
        """Give the name of the course's collection to the copy, if the course has no collection and there is a copy.

        Raises:
            CollectionNotFoundError: The course has no collection, and there is no copy.
            VectorStoreError: The vector store failed.
        """

        def rename() -> None:
            try:
                self.connect().get_collection(collection_name(course_id), embedding_function=None)
            except NotFoundError:
                copy = self.connect().get_collection(copy_name(course_id), embedding_function=None)
                copy.modify(name=collection_name(course_id))

        from chromadb.errors import NotFoundError

        self.call(rename)

    def _create(self, name: str, info: CollectionInfo, before_write: Callable[[], None]) -> "CourseCollection":
        collection = self.call(
            lambda: self.connect().get_or_create_collection(
                name,
                embedding_function=None,
                configuration={"hnsw": {"space": "cosine"}},
                metadata={
                    "course_id": info.course_id,
                    "embedding_model": info.model_name,
                    "embedding_signature": info.model_signature,
                },
            ),
            before_write,
        )
        return CourseCollection(self, collection, before_write)

    def delete(self, course_id: str, before_write: Callable[[], None] = no_check) -> None:
        """Delete the course's collection and its copies, if it has them.

        Raises:
            VectorStoreError: The vector store failed.
        """
        self.delete_copies(course_id, before_write)
        self._delete(collection_name(course_id), before_write)

    def _delete(self, name: str, before_write: Callable[[], None]) -> None:
        with suppress(CollectionNotFoundError):
            self.call(lambda: self.connect().delete_collection(name), before_write)

    @contextmanager
    def scratch(self, name: str) -> Iterator[None]:
        """Create an empty collection with a name that no other has, and delete it at the end of the block.

        Raises:
            VectorStoreError: The vector store failed.
        """
        try:
            self.call(lambda: self.connect().get_or_create_collection(name, embedding_function=None))
            yield
        finally:
            with suppress(VectorStoreError):
                self.call(lambda: self.connect().delete_collection(name))

    def write_scratch(self, name: str) -> None:
        """Create a collection, write and read one record, and delete the collection: the server can read and write.

        Args:
            name: A name that no other collection has.

        Raises:
            VectorStoreError: The vector store failed.
        """

        def write_and_read() -> None:
            collection = self.connect().get_or_create_collection(name, embedding_function=None)
            collection.upsert(["scratch"], embeddings=np.ones((1, 1), np.float32))
            collection.get(include=["embeddings"])

        try:
            self.call(write_and_read)
        except VectorStoreError:
            with suppress(VectorStoreError):
                self.call(lambda: self.connect().delete_collection(name))
            raise
        with suppress(CollectionNotFoundError):  # a first attempt may have succeeded although its response was lost
            self.call(lambda: self.connect().delete_collection(name))

    def collections(self) -> Iterator["CourseCollection"]:
        """All collections on the server, including those of other programs. Their contents are not read.

        Raises:
            VectorStoreError: The vector store failed.
        """
        for offset in itertools.count(step=READ_BATCH):
            page = self.call(partial(self._list, offset))
            yield from (CourseCollection(self, collection) for collection in page)
            if len(page) < READ_BATCH:
                return

    def version(self) -> str:
        """The version of the server's API.

        Raises:
            VectorStoreError: The vector store failed.
        """
        return self.call(lambda: self.connect().get_version())

    def _list(self, offset: int) -> "Sequence[ChromaCollection]":
        return self.connect().list_collections(limit=READ_BATCH, offset=offset)


class CourseCollection:
    """The vectors, texts and metadata of one course. Every method may raise `VectorStoreError`."""

    def __init__(
        self, connection: ChromaConnection, collection: "ChromaCollection", before_write: Callable[[], None] = no_check
    ) -> None:
        self._call = connection.call
        self._collection = collection
        self._before_write = before_write

    @property
    def name(self) -> str:
        """The collection's name in Chroma."""
        return self._collection.name

    @property
    def id(self) -> str:
        """The collection's id in Chroma, which no other collection ever has."""
        return str(self._collection.id)

    @property
    def is_of_course(self) -> bool:
        """Whether this product created it as the collection of a course, which it still is: it is no copy."""
        course_id = self.info.course_id
        return bool(course_id) and self.name == collection_name(course_id)

    @property
    def is_copy(self) -> bool:
        """Whether it is a copy of a course's collection, or a former collection, that was not deleted."""
        return bool(self.info.course_id) and self.name.startswith(COPY_PREFIX)

    @property
    def info(self) -> CollectionInfo:
        """The course and the embedding model; empty strings if another program created the collection."""
        metadata = self._collection.metadata or {}
        return CollectionInfo(
            course_id=str(metadata.get("course_id", "")),
            model_name=str(metadata.get("embedding_model", "")),
            model_signature=str(metadata.get("embedding_signature", "")),
        )

    def count(self) -> int:
        """The number of chunks."""
        return self._call(self._collection.count)

    def dimensions(self) -> int:
        """The dimensions of the vectors; 0 if the collection is empty."""
        first = self._call(lambda: self._collection.get(include=["embeddings"], limit=1))
        return np.asarray(first["embeddings"]).shape[-1] if first["ids"] else 0

    def chunk_ids(self) -> Iterator[list[str]]:
        """All chunk ids, in pages. The last page comes first, so that the caller may remove chunks of a page."""
        for offset in reversed(range(0, self.count(), READ_BATCH)):
            page = self._call(partial(self._collection.get, include=[], limit=READ_BATCH, offset=offset))
            yield page["ids"]

    def hashes(self, chunk_ids: Sequence[str]) -> dict[str, Hashes]:
        """The stored hashes by chunk id, for those of the chunks that are in the collection."""
        return {
            chunk_id: Hashes(str(metadata.get("text_hash", "")), str(metadata.get("content_hash", "")))
            for page in self._get(chunk_ids, ["metadatas"])
            for chunk_id, metadata in zip(page["ids"], page["metadatas"] or [], strict=True)
        }

    def stored_vectors(self, chunk_ids: Sequence[str]) -> dict[str, StoredVector]:
        """The vectors by chunk id, for chunks that are in the collection."""
        return {
            chunk_id: StoredVector(vector, str(metadata.get("text_hash", "")), str(metadata.get("context") or ""))
            for page in self._get(chunk_ids, ["metadatas", "embeddings"])
            for chunk_id, metadata, vector in zip(
                page["ids"],
                page["metadatas"] or [],
                np.asarray(page["embeddings"], dtype=np.float32),
                strict=True,
            )
        }

    def find_mismatches(self, records: Sequence[Record], vectors: Vectors | None = None) -> list[str]:
        """Read records back and return the ids of those that are missing or differ.

        Args:
            records: The records as they were written.
            vectors: The vectors as they were written, (records, dimensions); None does not compare vectors.
        """
        unmatched = {
            record.chunk_id: (record, vector)
            for record, vector in zip(records, itertools.repeat(None) if vectors is None else vectors, strict=False)
        }
        for page in self._get(list(unmatched), ["documents", "metadatas", "embeddings"]):
            vectors_read = np.asarray(page["embeddings"], dtype=np.float32)
            rows = zip(page["ids"], page["documents"] or [], page["metadatas"] or [], vectors_read, strict=True)
            for chunk_id, text, metadata, vector in rows:
                record, vector_written = unmatched[chunk_id]
                is_close = vector_written is None or np.allclose(vector, vector_written, rtol=0, atol=UNIT_TOLERANCE)
                if is_close and matches_stored(record, text, metadata):
                    del unmatched[chunk_id]
        return list(unmatched)

    def contents(self, page_size: int = WRITE_BATCH) -> Iterator[tuple[list[Record], Vectors]]:
        """All records with their vectors (records, dimensions), in pages, as `upsert` accepts them.

        The response for a page of the default size is about 10 MB. If the collection changes during the iteration,
        records may be missing or repeated.
        """
        read = partial(self._collection.get, include=["documents", "metadatas", "embeddings"], limit=page_size)
        for offset in itertools.count(step=page_size):
            page = self._call(partial(read, offset=offset))
            if not page["ids"]:
                return
            rows = zip(page["ids"], page["documents"] or [], page["metadatas"] or [], strict=True)
            records = [
                Record(
                    chunk_id,
                    text or "",
                    from_chroma(metadata),
                    str(metadata.get("content_hash", "")),
                    str(metadata.get("context") or ""),
                )
                for chunk_id, text, metadata in rows
            ]
            yield records, np.asarray(page["embeddings"], dtype=np.float32)

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Write records with their unit vectors (records, dimensions); replace records of the same chunk ids."""
        for start in range(0, len(records), WRITE_BATCH):
            self._write(records[start : start + WRITE_BATCH], vectors[start : start + WRITE_BATCH])

    def update(self, records: Sequence[Record]) -> None:
        """Replace the metadata of records in the collection. Their texts and vectors do not change."""
        for start in range(0, len(records), WRITE_BATCH):
            self._write(records[start : start + WRITE_BATCH])

    def remove(self, chunk_ids: Sequence[str]) -> None:
        """Delete chunks by id."""
        for start in range(0, len(chunk_ids), WRITE_BATCH):
            ids = list(chunk_ids[start : start + WRITE_BATCH])
            self._call(partial(self._collection.delete, ids=ids), self._before_write)

    def _write(self, records: Sequence[Record], vectors: Vectors | None = None) -> None:
        """Write records in one request. If Chroma rejects it, write one by one, so that the error names the chunk."""
        content: dict[str, Any] = {
            "ids": [record.chunk_id for record in records],
            "metadatas": [to_chroma(record) for record in records],
        }
        if vectors is None:
            write = partial(self._collection.update, **content)
        else:
            texts = [without_surrogates(record.text) for record in records]
            write = partial(self._collection.upsert, **content, documents=texts, embeddings=vectors)
        try:
            self._call(write, self._before_write)
        except (VectorStoreUnreachableError, CollectionNotFoundError):
            raise
        except VectorStoreError as error:
            if len(records) == 1:
                reason = without_excerpts(
                    str(error), [records[0].text, json.dumps(dict(records[0].metadata), default=str)]
                )
                raise VectorStoreError(f"Chunk {records[0].chunk_id!r} cannot be stored: {reason}") from None
            for index, record in enumerate(records):
                self._write([record], None if vectors is None else vectors[index : index + 1])

    def _get(self, chunk_ids: Sequence[str], include: "Include") -> Iterator["GetResult"]:
        for start in range(0, len(chunk_ids), WRITE_BATCH):
            ids = list(chunk_ids[start : start + WRITE_BATCH])
            yield self._call(partial(self._collection.get, ids=ids, include=include))
