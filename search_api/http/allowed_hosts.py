"""The protection from DNS rebinding, and of /mcp from pages of other sites.

A page in a browser may let the name of its own host point to this machine, and then call an app that asks for no token.
The browser sends the name of the page's host, so the app answers only to names that it knows. An IP address needs no
DNS, so it is always allowed as the host.
"""

import logging
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.text import quoted
from search_api.http.error_responses import error_response
from search_api.http.errors import HostNotAllowedError

logger = logging.getLogger(__name__)

ALL = "*"


class AllowedHosts:
    """Which requests are answered, by their headers `Host` and `Origin`.

    Args:
        names: Host names with commas between them, besides `localhost` and the names under it; `*` for all.
    """

    def __init__(self, names: str) -> None:
        self._names = {name.strip().lower() for name in names.split(",")} - {""}

    def check_host(self, headers: Headers) -> None:
        """Check by which name the app is addressed.

        Raises:
            HostNotAllowedError: The host is unknown.
        """
        host = headers.get("host", "")
        if not (self._is_known(host) or _is_ip_address(host)):
            raise HostNotAllowedError(f"The app does not answer to the host {quoted(host)}; {_advice(host)}")

    def check(self, headers: Headers) -> None:
        """Check by which name the app is addressed, and by what page. Programs send no `Origin`; a browser does.

        Raises:
            HostNotAllowedError: The host is unknown, or the page is of another host that is unknown.
        """
        self.check_host(headers)
        host, origin = headers.get("host", ""), headers.get("origin")
        page = origin.partition("://")[2] if origin else host
        if page.lower() != host.lower() and not self._is_known(page):
            raise HostNotAllowedError(f"The app does not answer to pages of {quoted(origin or '')}; {_advice(page)}")

    def _is_known(self, host: str) -> bool:
        name = _name(host)
        is_local = name == "localhost" or name.endswith(".localhost") or _is_loopback(host)
        return ALL in self._names or is_local or name in self._names


class LoopbackHostMiddleware:
    """Answers 403 to requests that reach a loopback address by a host name that is not allowed.

    For an app without a token: whoever reaches it may use it, and only on a loopback address does that leave out a page
    of the internet in a browser of this machine. The address is that of the socket, which no header changes. A request
    without the header, like the health check of some proxies, is from no browser.

    Args:
        app: The app.
        hosts: The hosts that are allowed.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self.app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http" and _is_loopback(_address(scope)) and "host" in (headers := Headers(scope=scope)):
            try:
                self._hosts.check_host(headers)
            except HostNotAllowedError as error:
                logger.warning("%s", error)
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _address(scope: Scope) -> str:
    """The address that the request was sent to, as in a URL; empty if the app listens on no address."""
    address = str((scope.get("server") or ("",))[0])
    return f"[{address}]" if ":" in address else address


def _advice(host: str) -> str:
    return f"to allow it, add {quoted(_name(host))} to MCP_ALLOWED_HOSTS of the search app"


def _name(host: str) -> str:
    """`Search.example.org:8000` → `search.example.org`, `[::1]:8000` → `::1`; empty if it is not valid."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(_name(host))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if not _is_ip_address(host):
        return False
    address = ip_address(_name(host))
    # A socket for IPv6 and IPv4 shows an address of IPv4 as one of IPv6.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
