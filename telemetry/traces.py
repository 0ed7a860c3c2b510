"""OpenTelemetry traces, configured by the standard variables; off and free without them.

    start_tracing("course-search-api")   # once in a process
    with span("embed", texts=3):         # a part of a trace; outside of a trace, nothing happens
        ...

Tracing is on if OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER is set, in the
environment or in `.env`. Otherwise the SDK is not imported. A trace begins with a request or a launch, never with
background work, so idle programs export nothing. The provider is not the global one, so libraries that know
OpenTelemetry, such as Chroma's client, remain switched off.

Spans contain no texts, queries or tokens: an error is recorded with its type, and with its message only if it is an
error of this product.
"""

import atexit
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING
from urllib.parse import unquote

from telemetry import PACKAGES

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

    from telemetry.span_processing import WatchedExporter

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""Longest wait for the collector at the end of a run and of a process."""
SELDOM_SECONDS = 600.0
"""Pause between two log lines about a collector that does not answer."""
MAX_MESSAGE = 300
"""Characters of an error's message in a span."""
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_USER = re.compile(r"://[^/\s@]*@")
_QUERY = re.compile(r"\?[^\s\"'()<>]*")
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
)

Attribute = str | bool | int | float
Attributes = Mapping[str, Attribute]

_NOTHING: AbstractContextManager[None] = nullcontext()


class _Tracing:
    """What is switched on in this process."""

    def __init__(self) -> None:
        self.provider: TracerProvider | None = None
        self.tracer: Tracer | None = None
        self.exporters: list[WatchedExporter] = []
        self.changing = threading.Lock()


_tracing = _Tracing()


def start_tracing(service_name: str) -> "TracerProvider | None":
    """Export the spans of this process, if the environment asks for it. Can be repeated.

    A problem with the configuration is logged, and tracing is off: it must not prevent the start of a program.

    Args:
        service_name: The name of the service, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has another.

    Returns:
        The provider, for libraries that make spans of their own; None if tracing is off.
    """
    with _tracing.changing:
        if _tracing.provider is None:
            try:
                if not (exporters := _configured_exporters()):
                    return None
                _tracing.provider = _new_provider(service_name, exporters)
            except Exception as error:  # noqa: BLE001 - libraries raise errors of many types for a wrong variable
                logger.warning("Traces are off, because a variable OTEL_… is wrong: %s", _without_secrets(str(error)))
                return None
            _tracing.tracer = _tracing.provider.get_tracer("course_search")
            atexit.register(flush)
        return _tracing.provider


def stop_tracing() -> None:
    """Export what is left, and switch tracing off."""
    with _tracing.changing:
        flush()
        provider, _tracing.provider, _tracing.tracer = _tracing.provider, None, None
        if provider is not None:
            atexit.unregister(flush)
            threading.Thread(target=provider.shutdown, name="traces-stop", daemon=True).start()


def span(name: str, **attributes: Attribute) -> "AbstractContextManager[Span | None]":
    """A part of the current trace; outside of a trace, nothing happens.

    Args:
        name: What is done. There should be few different names.
        attributes: Details, such as the id of a course. Never a text or a query.
    """
    if _tracing.tracer is None or not _is_in_trace():
        return _NOTHING
    return _current_span(_tracing.tracer, name, attributes)


def client_span(name: str, **attributes: Attribute) -> "AbstractContextManager[Span | None]":
    """The same for a call to another program, whose own spans become children of this one by `trace_headers`."""
    if _tracing.tracer is None or not _is_in_trace():
        return _NOTHING
    return _current_span(_tracing.tracer, name, attributes, is_client=True)


def root_span(name: str, headers: Mapping[str, str], **attributes: Attribute) -> "AbstractContextManager[Span | None]":
    """The first span of this process in the trace that `trace_headers` of another process tell, else in a new trace."""
    if _tracing.tracer is None:
        return _NOTHING
    return _current_span(_tracing.tracer, name, attributes, _context_of(headers))


def record_span(name: str, started_ns: int, **attributes: Attribute) -> None:
    """Record a part of the current trace that ends now; outside of a trace, nothing happens.

    Args:
        name: What was done.
        started_ns: When it began, by `time.time_ns`.
        attributes: As for `span`.
    """
    if _tracing.tracer is not None and _is_in_trace():
        _tracing.tracer.start_span(name, start_time=started_ns, attributes=dict(attributes)).end()


def record_launch(name: str, started_ns: int, **attributes: Attribute) -> dict[str, str]:
    """Record a decision that ends now as the beginning of a trace.

    Returns:
        The headers by which `root_span` continues the trace in another process; empty if tracing is off.
    """
    if _tracing.tracer is None:
        return {}
    launch = _tracing.tracer.start_span(name, _context_of({}), start_time=started_ns, attributes=dict(attributes))
    launch.end()
    return _headers_of(launch)


def trace_headers() -> dict[str, str]:
    """The headers `traceparent` and `tracestate` for a call to another program; empty outside of a trace."""
    if _tracing.tracer is None or not _is_in_trace():
        return {}
    from opentelemetry.trace import get_current_span

    return _headers_of(get_current_span())


def trace_ids() -> tuple[str, str]:
    """Trace id and span id in hexadecimal digits, for log lines; empty texts outside of a trace."""
    if _tracing.tracer is None:
        return "", ""
    from opentelemetry.trace import format_span_id, format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return (format_trace_id(context.trace_id), format_span_id(context.span_id)) if context.is_valid else ("", "")


def flush() -> None:
    """Export the spans that have ended, within FLUSH_SECONDS. Does not wait for a collector that failed last time."""
    provider = _tracing.provider
    if provider is None or any(exporter.is_failing for exporter in _tracing.exporters):
        return
    # A thread, because the SDK heeds no time limit here.
    exporting = threading.Thread(target=provider.force_flush, name="traces-flush", daemon=True)
    exporting.start()
    exporting.join(FLUSH_SECONDS)


def _configured_exporters() -> list[str]:
    """The names of the exporters that the variables ask for, as the SDK registers them."""
    _read_env_file()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    for variable in _HEADERS:
        _check_headers(variable)
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    default = "otlp" if any(map(os.environ.get, endpoints)) else "none"
    names = [name.strip().lower() for name in (os.environ.get("OTEL_TRACES_EXPORTER") or default).split(",")]
    protocol = (
        os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or ""
    ).strip()
    otlp = _PROTOCOLS.get(protocol or "http/protobuf", protocol)
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


def _check_headers(variable: str) -> None:
    """Check headers before the SDK does, whose messages show their values."""
    for header in filter(None, map(str.strip, os.environ.get(variable, "").split(","))):
        name, separator, value = header.partition("=")
        text = unquote(value)
        if not (separator and _HEADER_NAME.fullmatch(name.strip()) and text.isascii() and text.isprintable()):
            raise ValueError(
                f"{variable} must be a list like name=value,name=value, and a header cannot contain a line break or a "
                "character outside ASCII"
            )


def _without_secrets(text: str) -> str:
    """A message without user names, passwords and query strings of URLs."""
    return _QUERY.sub("?…", _USER.sub("://", text))


def _read_env_file() -> None:
    """Add the variables of `.env`, as for the settings of the product."""
    if not os.path.exists(".env"):  # noqa: PTH110 - cheaper than a Path in every process
        return
    from dotenv import dotenv_values

    for name, value in dotenv_values(".env").items():
        if name.startswith("OTEL_") and value:
            os.environ.setdefault(name, value)


def _new_provider(service_name: str, names: list[str]) -> "TracerProvider":
    from importlib.metadata import entry_points

    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from telemetry.span_processing import WatchedExporter, WithoutQueryString

    is_named = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {SERVICE_NAME: service_name})
    found = {name: list(entry_points(group="opentelemetry_traces_exporter", name=name)) for name in names}
    if unknown := [name for name, entries in found.items() if not entries]:
        raise ValueError(
            f"{', '.join(unknown)} is no exporter or protocol that is installed; use otlp, console or none"
        )
    _tracing.exporters = [WatchedExporter(entries[0].load()()) for entries in found.values()]
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # its own waits for up to a minute
    provider.add_span_processor(WithoutQueryString())
    for exporter in _tracing.exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).addFilter(_seldom)
    return provider


def _is_in_trace() -> bool:
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().is_valid


def _context_of(headers: Mapping[str, str]) -> "Context":
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers, Context())


def _headers_of(span_: "Span") -> dict[str, str]:
    """Only W3C's headers: a caller's baggage may be of any content, and the other program of another company."""
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers, set_span_in_context(span_, Context()))
    return headers


@contextmanager
def _current_span(
    tracer: "Tracer", name: str, attributes: Attributes, context: "Context | None" = None, *, is_client: bool = False
) -> "Iterator[Span]":
    from opentelemetry.trace import SpanKind, StatusCode

    with tracer.start_as_current_span(
        name,
        context,
        SpanKind.CLIENT if is_client else SpanKind.INTERNAL,
        dict(attributes),
        record_exception=False,  # the SDK would record the messages of libraries, which may quote a text
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            kind = type(error)
            current.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
            is_ours = kind.__module__.partition(".")[0] in PACKAGES
            current.set_status(StatusCode.ERROR, str(error)[:MAX_MESSAGE] if is_ours else None)
            raise


class _Seldom(logging.Filter):
    """Lets one line through in SELDOM_SECONDS: a collector that is away would be reported every few seconds.

    The address of a collector may contain a password or a key, so the line has neither, and no traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._next_at:
            return False
        self._next_at = time.monotonic() + SELDOM_SECONDS
        reason = f": {record.exc_info[1]}" if record.exc_info else ""
        record.msg, record.args = _without_secrets(record.getMessage() + reason), None
        record.exc_info = record.exc_text = None
        return True


_seldom = _Seldom()
