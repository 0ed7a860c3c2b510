"""A fake third-party embedding server with only the OpenAI API. It can simulate limits, errors and invalid answers."""

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
from tests.support.servers.asgi import serving

Answer = dict[str, Any]


@dataclass
class ForeignServer:
    """What the server serves, which limits and errors it simulates, and the requests it received."""

    url: str = ""
    models: list[str] = field(default_factory=lambda: ["Qwen/Qwen3-Embedding-0.6B"])
    lists_models: bool = True
    accepts_base64: bool = True
    max_texts: int = 1000
    max_characters: int = 10**6
    token: str | None = None
    hangs: Callable[[list[str]], bool] = lambda _: False
    """Whether the server does not answer a request with these texts, until this changes or the client gives up."""
    refusal: Callable[[list[str]], Response | None] = lambda _: None
    """The answer to a request with these texts, instead of vectors."""
    next_responses: list[Response] = field(default_factory=list)
    """Answers to the next embedding requests, instead of vectors."""
    change_answer: Callable[[Answer], object] = lambda _: None
    """Modifies each answer in place before it is sent."""
    requests: list[Answer] = field(default_factory=list)

    @property
    def batches(self) -> list[int]:
        """Number of texts of each embedding request."""
        return [len(request["input"]) for request in self.requests]

    @property
    def texts(self) -> list[str]:
        """All texts of the embedding requests."""
        return [text for request in self.requests for text in request["input"]]


@contextmanager
def foreign_server(**options: Any) -> Iterator[ForeignServer]:
    """Run a server on a free port. `options` are fields of `ForeignServer`."""
    server = ForeignServer(**options)

    async def models(request: Request) -> Response:
        if not server.lists_models:
            return PlainTextResponse("Not Found", 404)
        return JSONResponse({"object": "list", "data": [{"id": model, "object": "model"} for model in server.models]})

    async def embeddings(request: Request) -> Response:
        if server.token and request.headers.get("authorization") != f"Bearer {server.token}":
            return JSONResponse({"error": "unauthorized"}, 401)
        body = await request.json()
        server.requests.append(body)
        if scripted := server.refusal(body["input"]) or (server.next_responses and server.next_responses.pop(0)):
            return scripted
        while server.hangs(body["input"]) and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        if len(body["input"]) > server.max_texts:
            message = f"batch size {len(body['input'])} > maximum allowed batch size {server.max_texts}"
            return JSONResponse({"error": message, "error_type": "Validation"}, 413)
        if max(map(len, body["input"]), default=0) > server.max_characters:
            return JSONResponse({"error": "inputs must have less than 512 tokens", "error_type": "Validation"}, 413)
        as_base64 = body.get("encoding_format") == "base64"
        if as_base64 and not server.accepts_base64:
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
        random.Random(0).shuffle(answer["data"])  # clients must order the vectors by index
        server.change_answer(answer)
        return JSONResponse(answer) if _is_json(answer) else PlainTextResponse(str(answer["text"]))

    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/embeddings", embeddings, methods=["POST"])])
    with serving(app) as server.url:
        yield server


def _is_json(answer: Answer) -> bool:
    return "text" not in answer
