"""The baseline of `benchmarks.pipeline_cost.main`: a script without an orchestrator.

    python plain_script.py OUT COURSE...

Reads the chunks of the courses from the catalogue, embeds them and upserts them to Chroma, one collection per course.
It makes no checks, keeps no state and cannot resume. It uses the product's embedder and batch size, so that only
orchestration differs. Writes the times when the model was loaded and when all was done to the JSON file OUT.
"""

import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

BATCH = 64
"""Chunks per batch, as in `embedding.vector_store.indexing`."""


def main(out: Path, course_ids: list[str]) -> None:
    """Embed the courses."""
    import chromadb

    from embedding.embedder import LocalEmbedder

    embedder = LocalEmbedder.load()
    url = urlsplit(os.environ["CHROMA_URL"])
    chroma = chromadb.HttpClient(host=str(url.hostname), port=url.port or 80)
    catalogue = sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///"))
    loaded = time.time()
    embedded = tokens = 0
    for course_id in course_ids:
        collection = chroma.create_collection(
            f"plain_{course_id}", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
        chunks = catalogue.execute(
            "SELECT id, text, lecture_id, section_id, language, source_type, metadata FROM chunk "
            "WHERE course_id = ? ORDER BY id",
            (course_id,),
        )
        while batch := chunks.fetchmany(BATCH):
            texts = [text for _, text, *_ in batch]
            embeddings = embedder.embed_documents(texts)
            collection.upsert(
                ids=[chunk_id for chunk_id, *_ in batch],
                embeddings=embeddings.vectors,
                documents=texts,
                metadatas=[
                    {
                        "course_id": course_id,
                        "lecture_id": lecture_id,
                        "section_id": section_id,
                        "language": language,
                        "source_type": source_type,
                        "order_in_section": json.loads(metadata)["order_in_section"],
                    }
                    for _, _, lecture_id, section_id, language, source_type, metadata in batch
                ],
            )
            embedded += len(batch)
            tokens += sum(embeddings.token_counts)
    result = {"loaded": loaded, "done": time.time(), "texts": embedded, "tokens": tokens}
    out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
