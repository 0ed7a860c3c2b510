"""LangChain and LlamaIndex in the search benchmark: `python -m benchmarks.search_speed.baselines SYSTEM`.

Both keep their BM25 index in memory and ask the same Chroma server, as their own guides do it. This runs in the rivals'
own environment (`baseline-requirements.txt`), so it imports nothing of the product.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_speed.worker import RESULTS, Ask, Call, Question, read_questions, work

FILTERED_DEPTH = 200
"""LangChain's BM25 knows no filter: the best of so many that pass it."""
PAGE = 2500


def main(system: str) -> None:
    """Carry out orders for one system."""
    warnings.simplefilter("ignore")
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    questions = read_questions(Path(os.environ["BENCHMARK_QUESTIONS"]))
    ask = {"LangChain": _langchain, "LlamaIndex": _llama_index}[system]
    work(ask(questions), questions)


def _langchain(questions: Sequence[Question]) -> Ask:
    from langchain_chroma import Chroma  # type: ignore[import-not-found, unused-ignore]
    from langchain_classic.retrievers import EnsembleRetriever  # type: ignore[import-not-found, unused-ignore]
    from langchain_community.retrievers import BM25Retriever  # type: ignore[import-not-found, unused-ignore]
    from langchain_core.documents import Document  # type: ignore[import-not-found, unused-ignore]
    from langchain_core.embeddings import Embeddings  # type: ignore[import-not-found, unused-ignore]
    from langchain_core.runnables import RunnableLambda  # type: ignore[import-not-found, unused-ignore]

    vectors: dict[str, list[float]] = {question.text: question.vector.tolist() for question in questions}

    class LookUp(Embeddings):  # type: ignore[misc, unused-ignore]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vectors[text] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return vectors[text]

    client, collection = _chroma()
    store = Chroma(client=client, collection_name=collection.name, embedding_function=LookUp())
    documents = [
        Document(page_content=text, metadata=metadata, id=id_) for id_, text, metadata in _contents(collection)
    ]
    words = BM25Retriever.from_documents(documents, k=RESULTS)
    more_words = words.model_copy(update={"k": FILTERED_DEPTH})

    def ask(call: Call) -> list[str]:
        options: dict[str, Any] = {"k": RESULTS}
        by_words: Any = words
        if call.filtered:
            section = call.question.section
            options["filter"] = {"section_id": section}
            by_words = more_words | RunnableLambda(
                lambda found: [one for one in found if one.metadata["section_id"] == section][:RESULTS]
            )
        retriever = store.as_retriever(search_kwargs=options)
        if call.method == "hybrid":
            retriever = EnsembleRetriever(retrievers=[retriever, by_words], weights=[0.5, 0.5])
        return [document.id for document in retriever.invoke(call.question.text)[:RESULTS]]

    return ask


def _llama_index(questions: Sequence[Question]) -> Ask:
    from llama_index.core import VectorStoreIndex  # type: ignore[import-not-found, unused-ignore]
    from llama_index.core.embeddings import BaseEmbedding  # type: ignore[import-not-found, unused-ignore]
    from llama_index.core.llms import MockLLM  # type: ignore[import-not-found, unused-ignore]
    from llama_index.core.retrievers import QueryFusionRetriever  # type: ignore[import-not-found, unused-ignore]
    from llama_index.core.vector_stores import (  # type: ignore[import-not-found, unused-ignore]
        MetadataFilter,
        MetadataFilters,
    )
    from llama_index.retrievers.bm25 import BM25Retriever  # type: ignore[import-not-found, unused-ignore]
    from llama_index.vector_stores.chroma import ChromaVectorStore  # type: ignore[import-not-found, unused-ignore]

    vectors: dict[str, list[float]] = {question.text: question.vector.tolist() for question in questions}

    class LookUp(BaseEmbedding):  # type: ignore[misc, unused-ignore]
        def _get_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

        def _get_text_embedding(self, text: str) -> list[float]:
            return vectors[text]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

    _, collection = _chroma()
    store = ChromaVectorStore(chroma_collection=collection)
    index = VectorStoreIndex.from_vector_store(store, embed_model=LookUp())
    nodes = [node for ids in _pages_of_ids(collection) for node in store.get_nodes(ids)]
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=RESULTS)
    words.bm25.corpus = words.corpus
    # made once for each filter, since they look at every node
    words_of = {
        section: BM25Retriever(
            existing_bm25=words.bm25,
            similarity_top_k=RESULTS,
            corpus_weight_mask=[int(node["section_id"] == section) for node in words.corpus],
        )
        for section in {question.section for question in questions}
    }

    def ask(call: Call) -> list[str]:
        by_words, filters = words, None
        if call.filtered:
            section = call.question.section
            by_words, filters = (
                words_of[section],
                MetadataFilters(filters=[MetadataFilter(key="section_id", value=section)]),
            )
        retriever = index.as_retriever(similarity_top_k=RESULTS, filters=filters)
        if call.method == "hybrid":
            retriever = QueryFusionRetriever(
                [retriever, by_words],
                llm=MockLLM(),
                mode="reciprocal_rerank",
                similarity_top_k=RESULTS,
                num_queries=1,
                use_async=False,
            )
        return [found.node.node_id for found in retriever.retrieve(call.question.text)]

    return ask


def _chroma() -> tuple[Any, Any]:
    """Client and collection."""
    import chromadb

    host, _, port = os.environ["CHROMA_URL"].removeprefix("http://").partition(":")
    client = chromadb.HttpClient(host=host, port=int(port))
    return client, client.get_collection(os.environ["BENCHMARK_COLLECTION"])


def _contents(collection: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Id, text and metadata of all chunks."""
    for ids in _pages_of_ids(collection):
        page = collection.get(ids, include=["documents", "metadatas"])
        yield from zip(page["ids"], page["documents"], page["metadatas"], strict=True)


def _pages_of_ids(collection: Any) -> Iterator[list[str]]:
    for offset in range(0, collection.count(), PAGE):
        yield collection.get(limit=PAGE, offset=offset, include=[])["ids"]


if __name__ == "__main__":
    main(sys.argv[1])
