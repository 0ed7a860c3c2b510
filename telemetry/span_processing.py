"""Parts of the SDK's pipeline. A module of its own, because importing the SDK takes a tenth of a second."""

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

QUERY_STRING = "url.query"


class WithoutQueryString(SpanProcessor):
    """Removes query strings, which contain what was asked on the search page. FastAPI's spans have them."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the interface
        """Called when a span begins."""
        if span.attributes and QUERY_STRING in span.attributes:
            span.set_attribute(QUERY_STRING, "REDACTED")


class WatchedExporter(SpanExporter):
    """Exports by another exporter, and knows whether the last export failed."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans; called by one thread at a time."""
        result = self._exporter.export(spans)
        self.is_failing = result is SpanExportResult.FAILURE
        return result

    def shutdown(self) -> None:
        """Export no more."""
        self._exporter.shutdown()
