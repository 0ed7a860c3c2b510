"""The protection of /mcp from DNS rebinding, and from pages of other sites.

A page in a browser may let the name of its own host point to this machine, and then call an app that asks for no token.
The browser sends the name of the page's host, so the app answers only to names that it knows. An IP address needs no
DNS, so it is always allowed as the host.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from models.text import quoted
from search_api.http.errors import HostNotAllowedError

ALL = "*"


class AllowedHosts:
    """Which requests /mcp answers, by their headers `Host` and `Origin`.

    Args:
        names: Host names with commas between them, besides `localhost` and the names under it; `*` for all.
    """

    def __init__(self, names: str) -> None:
        self._names = {name.strip().lower() for name in names.split(",")} - {""}

    def check(self, headers: Headers) -> None:
        """Check a request. Programs send no `Origin`; a browser sends that of the page.

        Raises:
            HostNotAllowedError: The host is unknown, or the page is of another host that is unknown.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not (self._is_known(host) or _is_ip_address(host)):
            raise HostNotAllowedError(f"/mcp does not answer to the host {quoted(host)}; {_advice(host)}")
        page = origin.partition("://")[2] if origin else host
        if page.lower() != host.lower() and not self._is_known(page):
            raise HostNotAllowedError(f"/mcp does not answer to pages of {quoted(origin or '')}; {_advice(page)}")

    def _is_known(self, host: str) -> bool:
        name = _name(host)
        is_local = name == "localhost" or name.endswith(".localhost") or _is_loopback(host)
        return ALL in self._names or is_local or name in self._names


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
    return _is_ip_address(host) and ip_address(_name(host)).is_loopback
