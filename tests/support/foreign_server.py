"""An embedding server of somebody else's: the OpenAI form and nothing more, with the quirks there are."""

import asyncio
import base64
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.support.indexed_course import vector_of
from tests.support.server import serving

Answer = dict[str, Any]


@dataclass
class ForeignServer:
    """What it serves, what goes wrong, and what it was asked."""

    url: str = ""
    models: list[str] = field(default_factory=lambda: ["Qwen/Qwen3-Embedding-0.6B"])
    lists_models: bool = True
    takes_base64: bool = True
    most_texts: int = 1000
    most_characters: int = 10**6
    token: str | None = None
    seconds_per_text: float = 0.0
    before: list[Response] = field(default_factory=list)
    """Answers to the next requests for vectors, instead of the right ones."""
    change: Callable[[Answer], object] = lambda _: None
    """Spoils what it is about to answer."""
    asked: list[Answer] = field(default_factory=list)

    @property
    def batches(self) -> list[int]:
        """How many texts each request for vectors had."""
        return [len(request["input"]) for request in self.asked]

    @property
    def texts(self) -> list[str]:
        """All texts it was asked for."""
        return [text for request in self.asked for text in request["input"]]


@contextmanager
def foreign_server(**quirks: Any) -> Iterator[ForeignServer]:
    """A server on a free port, until the block ends."""
    server = ForeignServer(**quirks)

    async def models(request: Request) -> Response:
        if not server.lists_models:
            return PlainTextResponse("Not Found", 404)
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"} for model in server.models]})

    async def embeddings(request: Request) -> Response:
        if server.token and request.headers.get("authorization") != f"Bearer {server.token}":
            return JSONResponse({"error": "no"}, 401)
        body = await request.json()
        server.asked.append(body)
        if server.before:
            return server.before.pop(0)
        await asyncio.sleep(server.seconds_per_text * len(body["input"]))
        if len(body["input"]) > server.most_texts:
            message = f"batch size {len(body['input'])} > maximum allowed batch size {server.most_texts}"
            return JSONResponse({"error": message, "error_type": "Validation"}, 413)
        if max(map(len, body["input"]), default=0) > server.most_characters:
            return JSONResponse({"error": "inputs must have less than 512 tokens", "error_type": "Validation"}, 413)
        as_base64 = body.get("encoding_format") == "base64"
        if as_base64 and not server.takes_base64:
            return JSONResponse({"error": {"message": "encoding_format: unknown"}}, 400)
        answer: Answer = {
            "object": "list",
            "model": body["model"] if body["model"] in server.models else server.models[0],
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist(),
                }
                for index, vector in enumerate(map(vector_of, body["input"]))
            ],
            "usage": {"prompt_tokens": 10 * len(body["input"]), "total_tokens": 10 * len(body["input"])},
        }
        random.Random(0).shuffle(answer["data"])  # only the index tells whose vector it is
        server.change(answer)
        return JSONResponse(answer) if _is_json(answer) else PlainTextResponse(str(answer["text"]))

    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/embeddings", embeddings, methods=["POST"])])
    with serving(app) as server.url:
        yield server


def _is_json(answer: Answer) -> bool:
    return "text" not in answer
