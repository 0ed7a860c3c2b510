"""Answers `HEAD` wherever there is `GET`. FastAPI does not, unless every route declares and documents it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Passes a `HEAD` request on as `GET`, and sends only the head of the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # At once: the body that is left out may be a stream without an end.
                await send({"type": "http.response.body", "body": b""})

        # A copy, because the server has to know that the answer has no body.
        await self.app({**scope, "method": "GET"}, receive, send_head)
