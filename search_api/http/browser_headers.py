"""Headers that tell a browser how little it may do with an answer.

Answers of the API are data: a browser that is led to one must not show it as a page, run or frame anything in it, load
it into a page of another site, or keep it. Pages and their files set what they need themselves.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # the URL may contain a query
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_DATA = ((b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"), (b"cache-control", b"no-store"))
_DOCS_POLICY = (  # Swagger UI is started by a script in its page
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS = ((b"content-security-policy", _DOCS_POLICY), (b"cache-control", b"no-cache"))
_DATA_TYPES = (b"application/json", b"text/plain")


class BrowserHeadersMiddleware:
    """Adds the headers that an answer does not have yet. It costs a few microseconds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the headers to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                has = dict(headers)
                is_data = has.get(b"content-type", b"").startswith(_DATA_TYPES)
                wanted = _ALWAYS + (_DATA if is_data else _DOCS)
                message["headers"] = headers + [header for header in wanted if header[0] not in has]
            await send(message)

        await self.app(scope, receive, send_with_headers)
