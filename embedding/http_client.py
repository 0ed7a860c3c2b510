"""HTTP clients of the configured servers (Chroma, the embedding service), with or without a proxy.

httpx obeys the proxy variables of the environment, and fails if one of them is unusable, even for servers that need no
proxy. So the proxy is chosen here: none for a server on loopback or in a private network, which a proxy often cannot
reach, and otherwise the one of the environment.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from telemetry.traces import client_span, trace_headers

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
"""Variables that contain a proxy; their names may also be in upper case."""
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""The limits of httpx's own clients."""
_NO_SERVER = ip_network("198.18.0.0/15")
"""Proxies with a name server answer with such an address for public names."""


class UnusableProxyError(ValueError):
    """The environment contains a proxy for a server, but it is invalid or of an unknown kind."""


def http_client(url: str, name: str, *, limits: httpx.Limits = LIMITS, **options: Any) -> httpx.Client:
    """A client for the server at one URL. A user name and a password in the URL are sent to the server.

    Requests need not contain them: `without_password(url)` is enough, and is what httpx logs.

    Args:
        url: The URL of the server.
        name: The name of the server in traces.
        limits: Limits of the connections.
        options: Other options of `httpx.Client`.

    Raises:
        UnusableProxyError: The server needs a proxy, and the configured one cannot be used.
        httpx.InvalidURL: The URL is invalid.
    """
    transport = _TracedTransport(name, proxy=proxy_for(url), limits=limits)
    parsed = httpx.URL(url)
    auth = (parsed.username, parsed.password) if parsed.userinfo else None
    return httpx.Client(transport=transport, auth=auth, **options)


class _TracedTransport(httpx.HTTPTransport):
    """Makes each request a part of the trace that it belongs to, and tells the server its trace."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self._name = name

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with client_span(
            f"{request.method} {self._name}",
            **{"http.request.method": request.method, "server.address": request.url.host, "url.path": request.url.path},
        ) as current:
            request.headers.update(trace_headers())
            response = super().handle_request(request)
            if current is not None:
                current.set_attribute("http.response.status_code", response.status_code)
        return response


def proxy_for(url: str) -> httpx.Proxy | None:
    """The proxy for requests to a URL, or None if they are sent directly.

    Raises:
        UnusableProxyError: The proxy cannot be used.
        httpx.InvalidURL: The URL is invalid.
    """
    parsed = httpx.URL(url)
    proxies = getproxies()
    kind = next((kind for kind in (parsed.scheme, "all") if proxies.get(kind)), None)
    if kind is None or proxy_bypass(parsed.netloc.decode()) or is_private(parsed.host):
        return None
    try:
        return _usable_proxy(proxies[kind])
    except (httpx.InvalidURL, ImportError, ValueError):
        raise UnusableProxyError(
            f"{_variable(kind)} contains no proxy that can be used for {parsed.host}: set it to a proxy that begins "
            f"with http://, or add {parsed.host} to NO_PROXY"
        ) from None  # the cause may quote a password


def is_private(host: str) -> bool:
    """Whether every address of a host, which may be a name, is on loopback or in a private network."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # a name that only the proxy knows
        return False
    addresses = [ip_address(str(address).partition("%")[0]) for address in found]
    return all(not address.is_global and address not in _NO_SERVER for address in addresses)


@contextmanager
def usable_environment(url: str) -> Iterator[None]:
    """Hide unusable proxies from a library that reads the environment itself, in a program without other threads.

    Args:
        url: The server that the library calls.

    Raises:
        UnusableProxyError: The server needs a proxy, and the configured one cannot be used.
    """
    proxy, before = proxy_for(url), dict(os.environ)
    for name in (*PROXY_VARIABLES, *map(str.upper, PROXY_VARIABLES)):
        try:
            _usable_proxy(os.environ.get(name, "http://unset"))
        except (httpx.InvalidURL, ImportError, ValueError):
            del os.environ[name]
    if proxy is None:
        exceptions = ",".join(filter(None, [getproxies().get("no"), urlsplit(url).hostname]))
        os.environ.update(no_proxy=exceptions, NO_PROXY=exceptions)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _usable_proxy(value: str) -> httpx.Proxy:
    proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
    httpx.HTTPTransport(proxy=proxy, verify=False).close()  # SOCKS needs an optional package
    return proxy


def _variable(kind: str) -> str:
    """The name of the variable that contains a proxy. Lower case takes precedence, as in `getproxies`."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), f"The {kind} proxy of the system")
