"""An embedding server for the benchmark: OpenAI's API, and vectors that cost almost nothing.

A vector is the direction of the sum of fixed random vectors, one for each word. So texts with common words are near
each other, as the examination of a new generation and the relevance of an answer need it.
"""

import base64
import sys
import zlib

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

MODEL = "hashed-words"
DIMENSIONS = 1024
BUCKETS = 8192
_words = np.random.default_rng(0).standard_normal((BUCKETS, DIMENSIONS), dtype=np.float32)


def vectors_of(texts: list[str]) -> NDArray[np.float32]:
    """The unit vectors of texts, (texts, 1024)."""
    sums = np.stack(
        [_words[[zlib.crc32(word.encode()) % BUCKETS for word in text.split() or [""]]].sum(0) for text in texts]
    )
    unit: NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return unit


async def _models(_request: Request) -> JSONResponse:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


async def _embeddings(request: Request) -> JSONResponse:
    body = await request.json()
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [
        {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
        for index, vector in enumerate(vectors_of(texts))
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": MODEL, "data": data, "usage": usage})


app = Starlette(routes=[Route("/v1/models", _models), Route("/v1/embeddings", _embeddings, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
