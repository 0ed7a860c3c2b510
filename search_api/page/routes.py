"""The search page, for people: a form over the API, at `/`.

It is a few plain files that the browser loads from here and nowhere else. The page itself holds no data, so it is
open like `/docs`; where the app has an INTERNAL_TOKEN, it asks for it and sends it with every call.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

FILES = Path(__file__).with_name("static")
HEADERS = {
    # Whatever a course's text says, the browser runs and loads nothing but the page's own files.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the question
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # ask each time whether it is still the same: its files belong together
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page and its files; they are no part of the API's schema."""
    files = _Files(directory=FILES)
    app.mount("/static", files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)
