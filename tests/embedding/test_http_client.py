"""Servers on loopback and in private networks are called directly, whatever the proxy variables contain."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from embedding import http_client
from embedding.errors import EmbeddingServiceError, ModelFetchError
from embedding.http_client import UnusableProxyError, is_private, proxy_for, usable_environment
from embedding.model_files.download import fetch_model
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import ServiceClient
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.server import VectorStoreSettings
from tests.support.servers.foreign_server import foreign_server

pytestmark = pytest.mark.integration

PUBLIC = "http://embedding.example:9001"  # a name that never has an address
CLOSED_PORT = "127.0.0.1:9"
ENVIRONMENTS = [
    {"ALL_PROXY": "socks://127.0.0.1:7890"},
    {"ALL_PROXY": "socks5h://127.0.0.1:7890", "NO_PROXY": "127.0.0.1,localhost"},
    {"http_proxy": f"http://{CLOSED_PORT}", "NO_PROXY": "localhost,127.0.0.1,fd07:b51a:cc66:f0::/64"},
    {"http_proxy": f"http://{CLOSED_PORT}", "no_proxy": ".corp.example", "NO_PROXY": "127.0.0.1"},
    {"http_proxy": CLOSED_PORT, "HTTP_PROXY": "nonsense://", "all_proxy": "http://h:port"},
]
every_environment = pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda values: next(iter(values)))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The URLs that a proxy was asked for; the environment contains the proxy. It answers with a list of models."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            body = json.dumps({"data": [{"id": "a model", "authorization": self.headers["Authorization"]}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_address[1]}")
        yield requested
        server.shutdown()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@every_environment
def test_chroma_on_loopback_is_called_directly(
    chroma_url: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, environment)
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
        assert store.answers()
        store.check()
        list(store.collections())


@every_environment
def test_embedding_service_on_loopback_is_called_directly(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign_server() as server:
        use(monkeypatch, environment)
        assert ServiceClient(EmbeddingSettings(embedding_service_url=server.url)).models()


def test_public_server_is_called_through_the_proxy(proxy: list[str]) -> None:
    assert ServiceClient(EmbeddingSettings(embedding_service_url=PUBLIC)).models()[0]["id"] == "a model"
    assert proxy == [f"{PUBLIC}/v1/models"]
    VectorStore(VectorStoreSettings(chroma_url="http://chroma.example")).answers()
    assert proxy[1:] == ["http://chroma.example/api/v2/heartbeat"]


def test_no_proxy_applies_to_public_servers_too(proxy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "other.example,.example")
    assert proxy_for(PUBLIC) is None


@pytest.mark.parametrize("value", ["socks://user:sekret@127.0.0.1:7890", "http://user:sekret@h:x", "nonsense://sekret"])
def test_unusable_proxy_for_a_public_server_is_named_and_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    expected = r"ALL_PROXY contains no proxy that can be used for embedding\.example"
    with pytest.raises(EmbeddingServiceError, match=expected) as from_service:
        ServiceClient(EmbeddingSettings(embedding_service_url=PUBLIC))
    with closing(VectorStore(VectorStoreSettings(chroma_url=PUBLIC))) as store:
        with pytest.raises(VectorStoreError, match=expected) as from_store:
            store.check()
        assert not store.answers()
    with pytest.raises(ModelFetchError, match=expected) as from_download:
        fetch_model(Path("model"), "a/model", endpoint=PUBLIC)
    for raised in (from_service, from_store, from_download):
        assert "sekret" not in str(raised.value)


def test_specific_variable_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Desktop proxies set all three variables, and ALL_PROXY often to a kind of proxy that httpx does not know."""
    use(monkeypatch, {"https_proxy": CLOSED_PORT, "http_proxy": f"http://{CLOSED_PORT}", "all_proxy": "socks://h"})
    for url in (PUBLIC, "https://embedding.example"):
        proxy = proxy_for(url)
        assert proxy is not None
        assert proxy.url == f"http://{CLOSED_PORT}"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("10.0.0.7", True),
        ("172.17.0.2", True),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("fd07:b51a:cc66:f0::1", True),
        ("8.8.8.8", False),
        ("198.18.0.5", False),
        ("2606:4700::1111", False),
        ("embedding.example", False),
        ("no..name", False),
    ],
)
def test_private_addresses(host: str, expected: bool) -> None:
    assert is_private(host) is expected


@pytest.mark.parametrize(("addresses", "expected"), [(["10.0.0.7"], True), (["10.0.0.7", "8.8.8.8"], False)])
def test_name_is_private_if_all_its_addresses_are(
    addresses: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(None, None, None, "", (address, 0)) for address in addresses]
    monkeypatch.setattr("embedding.http_client.socket.getaddrinfo", lambda *_: found)
    assert is_private("chroma.corp.example") is expected


def test_library_sees_only_usable_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"https_proxy": f"http://{CLOSED_PORT}", "ALL_PROXY": "socks://h:1", "HTTP_PROXY": "x://"})
    before = dict(os.environ)
    with usable_environment("https://hub.example"):
        assert "ALL_PROXY" not in os.environ
        assert "HTTP_PROXY" not in os.environ
        assert os.environ["https_proxy"] == f"http://{CLOSED_PORT}"
        assert "NO_PROXY" not in os.environ
    assert dict(os.environ) == before
    with usable_environment("https://10.0.0.7:8443"):
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "10.0.0.7"
    assert dict(os.environ) == before
    with pytest.raises(UnusableProxyError, match="HTTP_PROXY"), usable_environment("http://hub.example"):
        pass


def test_password_of_a_url_is_sent_and_not_shown(proxy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = PUBLIC.replace("://", "://user:sekret@")
    client = ServiceClient(EmbeddingSettings(embedding_service_url=url))
    assert client.models()[0]["authorization"] == "Basic dXNlcjpzZWtyZXQ="
    assert proxy == [f"{PUBLIC}/v1/models"]
    assert "sekret" not in str(client.error("x"))
    monkeypatch.delenv("HTTP_PROXY")
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://user:sekret@{CLOSED_PORT}"))
    with pytest.raises(VectorStoreUnreachableError, match=rf"Chroma at http://{CLOSED_PORT} cannot") as raised:
        store.check()
    assert "sekret" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://user:sek/ret@host", "http://user:x@host:sekret"])
def test_password_in_an_invalid_url_is_not_shown(url: str) -> None:
    with pytest.raises(EmbeddingServiceError, match="EMBEDDING_SERVICE_URL is not a URL") as from_service:
        ServiceClient(EmbeddingSettings(embedding_service_url=url))
    with pytest.raises(VectorStoreError, match="CHROMA_URL is not a URL") as from_store:
        VectorStore(VectorStoreSettings(chroma_url=url)).check()
    for raised in (from_service, from_store):
        assert "sek" not in str(raised.value)


def test_token_with_a_line_break_is_sent_without_it(proxy: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_SERVICE_TOKEN", "sekret\n")
    settings = EmbeddingSettings(embedding_service_url=PUBLIC)
    assert settings.embedding_service_token == SecretStr("sekret")
    assert ServiceClient(settings).models()[0]["authorization"] == "Bearer sekret"


def test_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a private network the certificate is often the organization's own; the proxy settings must not undo this."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(FileNotFoundError):
        http_client.http_client("https://10.0.0.7", "a server")
