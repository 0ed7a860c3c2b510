"""The search page at `/`: a form that calls the API from the browser.

It consists of a few static files, all served by this app. The files contain no course data, so they need no token, like
`/docs`. If the app has an INTERNAL_TOKEN, the page asks the user for it and sends it with every request.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

FILES = Path(__file__).with_name("static")
HEADERS = {
    # The browser runs and loads only the files of the page, even if a course text contains markup or scripts.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the URL contains the query
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # revalidate each file, so that files of different versions are not mixed
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page and its files, which are not in the OpenAPI document."""
    files = _Files(directory=FILES)
    app.mount("/static", files)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)
