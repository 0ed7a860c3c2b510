"""A collector of traces: a real HTTP server that speaks OTLP/HTTP, in a thread of the test."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from telemetry.traces import flush
from tests.support.product import wait_until

LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class Received:
    """A span as it was received."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    attributes: dict[str, Any]
    service: str
    error: str | None
    """The message of its status if that is an error."""


@dataclass
class Collector:
    """What a collector has received."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def wait_for(self, *names: str) -> None:
        """Wait until spans of these names have arrived; they must have ended, or end soon."""
        self._wait_until(lambda: {*names} <= {span.name for span in self.spans})

    def wait_for_path(self, *names: str) -> None:
        """Wait until a span of this path has arrived."""
        self._wait_until(lambda: names in self.paths())

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        def reached() -> bool:
            flush()
            return condition()

        wait_until(reached, LIMIT_SECONDS, lambda: f"{self.paths()}", every=0.01)

    def paths(self) -> Sequence[tuple[str, ...]]:
        """Each span by its name, after the names of those that it is a part of."""
        by_id = {span.span_id: span for span in self.spans}

        def path(span: Received) -> tuple[str, ...]:
            parent = by_id.get(span.parent_id)
            return (*(path(parent) if parent else ()), span.name)

        return [path(span) for span in self.spans]

    def named(self, name: str) -> Received:
        """The first span with a name."""
        return next(span for span in self.spans if span.name == name)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector during the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.headers.append(dict(self.headers))
            collector.spans += _received(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _received(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=span.kind,
                    attributes=_values(span.attributes),
                    service=service,
                    error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else None,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
