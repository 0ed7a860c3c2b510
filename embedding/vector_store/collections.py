"""The vector store: one Chroma collection a course, reached over HTTP.

Chroma's directory must never be shared between processes (readers then see deleted documents and writers lose
vectors without an error), so the pipeline and the search app both talk to one Chroma server. Only this module knows
what lies there; `chroma` knows how to reach it, `records` what it takes. Whatever goes wrong is a `VectorStoreError`;
a course that has no collection is a `CollectionNotFoundError`.

All operations bear being done twice, so those of a patient store are tried again while the server is away. A writer
that may lose its right to write passes `before_write`: it is called right before every attempt to write, and raises.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Hashes, Record, equals, from_chroma, to_chroma
from embedding.vector_store.server import ChromaConnection, anybody
from embedding.vectors import ROUNDING, Vectors
from models.text import without_surrogates

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection as ChromaCollection
    from chromadb.api.types import GetResult, Include

WRITE_BATCH = 500
"""Records a request: far below Chroma's limits (5461 records, 40 MB) and large enough to hide the round trip."""
READ_BATCH = 2500
"""The same where nothing but names is read."""


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection says of its making."""

    course_id: str
    model_name: str
    model_signature: str
    """Identifies everything that shapes the vectors: queries must come from a model with the same signature."""


class VectorStore(ChromaConnection):
    """The courses' collections on the Chroma server."""

    def open(self, course_id: str, before_write: Callable[[], None] = anybody) -> "CourseCollection":
        """The course's collection, for reading or writing.

        Raises:
            CollectionNotFoundError: the course has none.
            VectorStoreError: the vector store failed.
        """
        name = collection_name(course_id)
        collection = self.call(lambda: self._connect().get_collection(name, embedding_function=None))
        return CourseCollection(self, collection, before_write)

    def create(self, info: CollectionInfo, before_write: Callable[[], None] = anybody) -> "CourseCollection":
        """A new, empty collection for the course; one that it has already is returned as it is: see its `info`.

        Raises:
            VectorStoreError: the vector store failed.
        """
        name = collection_name(info.course_id)
        collection = self.call(
            lambda: self._connect().get_or_create_collection(
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

    def delete(self, course_id: str, before_write: Callable[[], None] = anybody) -> None:
        """Remove the course's collection; removing one that is not there is no error.

        Raises:
            VectorStoreError: the vector store failed.
        """
        name = collection_name(course_id)
        with suppress(CollectionNotFoundError):
            self.call(lambda: self._connect().delete_collection(name), before_write)

    def is_broken(self, course_id: str) -> bool:
        """Whether the course has a collection that cannot be read though the server answers other questions.

        It happens when Chroma is killed while it writes, and nothing but deleting the collection helps. Chroma takes
        seconds to say so.

        Raises:
            VectorStoreError: the server answers nothing at all.
        """
        try:
            self.open(course_id).dimensions()
        except VectorStoreUnreachableError:
            raise
        except CollectionNotFoundError:
            return False
        except VectorStoreError:
            self.check()
            return True
        return False

    def collections(self) -> Iterator["CourseCollection"]:
        """All collections the server has, whoever made them; their contents are not read.

        Raises:
            VectorStoreError: the vector store failed.
        """
        for offset in itertools.count(step=READ_BATCH):
            page = self.call(partial(self._list, offset))
            yield from (CourseCollection(self, collection) for collection in page)
            if len(page) < READ_BATCH:
                return

    def version(self) -> str:
        """Which version of its API the server says it speaks.

        Raises:
            VectorStoreError: the vector store failed.
        """
        return self.call(lambda: self._connect().get_version())

    def _list(self, offset: int) -> "Sequence[ChromaCollection]":
        return self._connect().list_collections(limit=READ_BATCH, offset=offset)


class CourseCollection:
    """One course's vectors, texts and metadata. Every method may raise `VectorStoreError`."""

    def __init__(
        self, server: ChromaConnection, collection: "ChromaCollection", before_write: Callable[[], None] = anybody
    ) -> None:
        self._call = server.call
        self._collection = collection
        self._before_write = before_write

    @property
    def name(self) -> str:
        """What Chroma calls it."""
        return self._collection.name

    @property
    def info(self) -> CollectionInfo:
        """What the collection was made with; empty strings where it was not made by this product."""
        metadata = self._collection.metadata or {}
        return CollectionInfo(
            course_id=str(metadata.get("course_id", "")),
            model_name=str(metadata.get("embedding_model", "")),
            model_signature=str(metadata.get("embedding_signature", "")),
        )

    def count(self) -> int:
        """How many chunks it holds."""
        return self._call(self._collection.count)

    def dimensions(self) -> int:
        """Length of its vectors, read from one of them; 0 when it holds none."""
        one = self._call(lambda: self._collection.get(include=["embeddings"], limit=1))
        return np.asarray(one["embeddings"]).shape[-1] if one["ids"] else 0

    def chunk_ids(self) -> Iterator[list[str]]:
        """Ids of all it holds, a page at a time, the last page first: removing what was seen shifts nothing else."""
        for offset in reversed(range(0, self.count(), READ_BATCH)):
            page = self._call(partial(self._collection.get, include=[], limit=READ_BATCH, offset=offset))
            yield page["ids"]

    def hashes(self, chunk_ids: Sequence[str]) -> dict[str, Hashes]:
        """Chunk id → hashes of those of the chunks that it holds."""
        return {
            chunk_id: Hashes(str(metadata.get("text_hash", "")), str(metadata.get("content_hash", "")))
            for page in self._get(chunk_ids, ["metadatas"])
            for chunk_id, metadata in zip(page["ids"], page["metadatas"] or [], strict=True)
        }

    def differing(self, records: Sequence[Record], vectors: Vectors | None = None) -> list[str]:
        """Ids of the records that do not read back as they are; vectors (n × dimensions) are compared where given."""
        sent = {
            record.chunk_id: (record, vector)
            for record, vector in zip(records, itertools.repeat(None) if vectors is None else vectors, strict=False)
        }
        for page in self._get(list(sent), ["documents", "metadatas", "embeddings"]):
            vectors_read = np.asarray(page["embeddings"], dtype=np.float32)
            rows = zip(page["ids"], page["documents"] or [], page["metadatas"] or [], vectors_read, strict=True)
            for chunk_id, text, metadata, vector in rows:
                record, vector_sent = sent[chunk_id]
                is_near = vector_sent is None or np.allclose(vector, vector_sent, rtol=0, atol=ROUNDING)
                if is_near and equals(record, text, metadata):
                    del sent[chunk_id]
        return list(sent)

    def contents(self, page_size: int = WRITE_BATCH) -> Iterator[tuple[list[Record], Vectors]]:
        """All it holds, a page of records and their vectors (rows × dimensions) at a time.

        What `upsert` takes. A page is about 10 MB under way; one that is written meanwhile may be seen half.
        """
        read = partial(self._collection.get, include=["documents", "metadatas", "embeddings"], limit=page_size)
        for offset in itertools.count(step=page_size):
            page = self._call(partial(read, offset=offset))
            if not page["ids"]:
                return
            rows = zip(page["ids"], page["documents"] or [], page["metadatas"] or [], strict=True)
            records = [
                Record(chunk_id, text or "", from_chroma(metadata), str(metadata.get("content_hash", "")))
                for chunk_id, text, metadata in rows
            ]
            yield records, np.asarray(page["embeddings"], dtype=np.float32)

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Write records and their vectors (unit rows, n × dimensions), replacing what has the same chunk id."""
        for start in range(0, len(records), WRITE_BATCH):
            self._write(records[start : start + WRITE_BATCH], vectors[start : start + WRITE_BATCH])

    def update(self, records: Sequence[Record]) -> None:
        """Replace the metadata of records that it holds; their texts and vectors stay."""
        for start in range(0, len(records), WRITE_BATCH):
            self._write(records[start : start + WRITE_BATCH])

    def remove(self, chunk_ids: Sequence[str]) -> None:
        """Delete chunks by id."""
        for start in range(0, len(chunk_ids), WRITE_BATCH):
            ids = list(chunk_ids[start : start + WRITE_BATCH])
            self._call(partial(self._collection.delete, ids=ids), self._before_write)

    def query(self, vector: Vectors, top_k: int, filters: Mapping[str, Sequence[str]]) -> list[tuple[Record, float]]:
        """The `top_k` chunks nearest to a unit vector (dimensions,), by approximate search.

        Args:
            vector: Of the query.
            top_k: How many chunks.
            filters: Accepted values by metadata field; a chunk has one of them in every field.

        Returns:
            Records, whose content hash is left empty, with their cosine similarity, -1.0 to 1.0; the nearest first,
            equal ones by chunk id.
        """
        conditions: list[Any] = [{field: {"$in": list(values)}} for field, values in filters.items()]
        found = self._call(
            lambda: self._collection.query(
                query_embeddings=vector[None, :],
                n_results=top_k,
                where={"$and": conditions} if len(conditions) > 1 else (conditions[0] if conditions else None),
                include=["documents", "metadatas", "distances"],
            )
        )
        rows = zip(
            found["ids"][0],
            (found["documents"] or [[]])[0],
            (found["metadatas"] or [[]])[0],
            (found["distances"] or [[]])[0],
            strict=True,
        )
        nearest = [
            (Record(chunk_id, text or "", from_chroma(metadata or {}), ""), max(-1.0, min(1.0, 1.0 - float(distance))))
            for chunk_id, text, metadata, distance in rows
        ]
        return sorted(nearest, key=lambda found: (-found[1], found[0].chunk_id))

    def _write(self, records: Sequence[Record], vectors: Vectors | None = None) -> None:
        """One request; when Chroma refuses it, one a record, so that the error names the chunk."""
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
                raise VectorStoreError(f"Chunk {records[0].chunk_id!r} cannot be stored: {error}") from error
            for index, record in enumerate(records):
                self._write([record], None if vectors is None else vectors[index : index + 1])

    def _get(self, chunk_ids: Sequence[str], include: "Include") -> Iterator["GetResult"]:
        for start in range(0, len(chunk_ids), WRITE_BATCH):
            ids = list(chunk_ids[start : start + WRITE_BATCH])
            yield self._call(partial(self._collection.get, ids=ids, include=include))
