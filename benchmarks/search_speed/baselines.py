"""The baselines LangChain and LlamaIndex: `python -m benchmarks.search_speed.baselines SYSTEM`.

Both keep their BM25 index in memory and use the same Chroma server, as their documentation shows. This module runs in a
separate environment (`baseline-requirements.txt`), so it imports nothing of the product.
"""
# mypy: disable-error-code="import-not-found, import-untyped"

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_speed.worker import RESULTS, Call, Question, Search, handle_commands, read_questions

FILTERED_DEPTH = 200
"""LangChain's BM25 has no filter: this many results are retrieved and filtered afterwards."""
PAGE = 2500


def main(system: str) -> None:
    """Execute commands for one system."""
    warnings.simplefilter("ignore")
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    questions = read_questions(Path(os.environ["BENCHMARK_QUESTIONS"]))
    make_search = {"LangChain": _langchain, "LlamaIndex": _llama_index}[system]
    handle_commands(make_search(questions), questions)


def _langchain(questions: Sequence[Question]) -> Search:
    from langchain_chroma import Chroma
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_community.retrievers import BM25Retriever
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import RunnableLambda

    vectors: dict[str, list[float]] = {question.text: question.vector.tolist() for question in questions}

    class LookUpEmbeddings(Embeddings):  # type: ignore[misc, unused-ignore]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vectors[text] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return vectors[text]

    client, collection = _chroma()
    store = Chroma(client=client, collection_name=collection.name, embedding_function=LookUpEmbeddings())
    documents = [
        Document(page_content=text, metadata=metadata, id=id_) for id_, text, metadata in _contents(collection)
    ]
    keyword_retriever = BM25Retriever.from_documents(documents, k=RESULTS)
    deep_keyword_retriever = keyword_retriever.model_copy(update={"k": FILTERED_DEPTH})

    def search(call: Call) -> list[str]:
        options: dict[str, Any] = {"k": RESULTS}
        keyword_search: Any = keyword_retriever
        if call.filtered:
            section = call.question.section
            options["filter"] = {"section_id": section}

            def in_section(found: list[Document]) -> list[Document]:
                return [document for document in found if document.metadata["section_id"] == section][:RESULTS]

            keyword_search = deep_keyword_retriever | RunnableLambda(in_section)
        retriever = store.as_retriever(search_kwargs=options)
        if call.method == "hybrid":
            retriever = EnsembleRetriever(retrievers=[retriever, keyword_search], weights=[0.5, 0.5])
        return [document.id for document in retriever.invoke(call.question.text)[:RESULTS]]

    return search


def _llama_index(questions: Sequence[Question]) -> Search:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
    from llama_index.retrievers.bm25 import BM25Retriever
    from llama_index.vector_stores.chroma import ChromaVectorStore

    vectors: dict[str, list[float]] = {question.text: question.vector.tolist() for question in questions}

    class LookUpEmbeddings(BaseEmbedding):  # type: ignore[misc, unused-ignore]
        def _get_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

        def _get_text_embedding(self, text: str) -> list[float]:
            return vectors[text]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

    _, collection = _chroma()
    store = ChromaVectorStore(chroma_collection=collection)
    index = VectorStoreIndex.from_vector_store(store, embed_model=LookUpEmbeddings())
    nodes = [node for ids in _pages_of_ids(collection) for node in store.get_nodes(ids)]
    keyword_retriever = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=RESULTS)
    keyword_retriever.bm25.corpus = keyword_retriever.corpus
    # one per filter, made in advance, because the constructor reads every node
    keyword_retrievers = {
        section: BM25Retriever(
            existing_bm25=keyword_retriever.bm25,
            similarity_top_k=RESULTS,
            corpus_weight_mask=[int(node["section_id"] == section) for node in keyword_retriever.corpus],
        )
        for section in {question.section for question in questions}
    }

    def search(call: Call) -> list[str]:
        keyword_search, filters = keyword_retriever, None
        if call.filtered:
            section = call.question.section
            keyword_search, filters = (
                keyword_retrievers[section],
                MetadataFilters(filters=[MetadataFilter(key="section_id", value=section)]),
            )
        retriever = index.as_retriever(similarity_top_k=RESULTS, filters=filters)
        if call.method == "hybrid":
            retriever = QueryFusionRetriever(
                [retriever, keyword_search],
                llm=MockLLM(),
                mode=FUSION_MODES.RECIPROCAL_RANK,
                similarity_top_k=RESULTS,
                num_queries=1,
                use_async=False,
            )
        return [result.node.node_id for result in retriever.retrieve(call.question.text)]

    return search


def _chroma() -> tuple[Any, Any]:
    """The client and the collection of the course."""
    import chromadb

    host, _, port = os.environ["CHROMA_URL"].removeprefix("http://").partition(":")
    client = chromadb.HttpClient(host=host, port=int(port))
    return client, client.get_collection(os.environ["BENCHMARK_COLLECTION"])


def _contents(collection: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields id, text and metadata of each chunk."""
    for ids in _pages_of_ids(collection):
        page = collection.get(ids, include=["documents", "metadatas"])
        yield from zip(page["ids"], page["documents"], page["metadatas"], strict=True)


def _pages_of_ids(collection: Any) -> Iterator[list[str]]:
    for offset in range(0, collection.count(), PAGE):
        yield collection.get(limit=PAGE, offset=offset, include=[])["ids"]


if __name__ == "__main__":
    main(sys.argv[1])
