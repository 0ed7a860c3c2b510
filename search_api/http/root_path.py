"""The path prefix of a reverse proxy: `uvicorn --root-path /prefix`, or UVICORN_ROOT_PATH.

Uvicorn puts the prefix in front of every path that it receives. So a path contains the prefix once if the proxy removes
it, and twice if the proxy passes it on. `RootPathMiddleware` brings both to the first form, so that the token check,
the routes and the links in the documentation see the same path.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class RootPathMiddleware:
    """Supports a proxy that serves the app under a prefix, whether it removes the prefix or not.

    If the app has paths under the same name, for example with the prefix `/courses`, the proxy must remove the prefix.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Correct the path, and pass the request on."""
        if scope["type"] == "http" and (given := scope.get("root_path", "")):
            prefix = f"/{given.strip('/')}".rstrip("/")
            path = _without(given, scope["path"])
            if not _has_paths_under(prefix, path, scope):
                path = _without(prefix, path)
            scope["root_path"], scope["path"] = prefix, prefix + path
        await self.app(scope, receive, send)


def route_path(scope: Scope) -> str:
    """The path of the request without the prefix: the path that the router compares with its routes."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _without(prefix: str, path: str) -> str:
    rest = path.removeprefix(prefix)
    return rest if rest.startswith("/") else path


def _has_paths_under(prefix: str, path: str, scope: Scope) -> bool:
    """Whether the path may be one of the app's own that begins with the same name as the prefix."""
    return path.startswith(f"{prefix}/") and any(
        own.startswith(f"{prefix}/") for own in scope["app"].openapi()["paths"]
    )
