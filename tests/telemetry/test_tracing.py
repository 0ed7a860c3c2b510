"""How tracing is switched on and off, and that a collector that is away harms nothing."""

import logging
import subprocess
import sys
import threading
from contextvars import copy_context
from pathlib import Path

import pytest

from cli.processes import free_port
from telemetry import traces
from tests.search_api.app_harness import AppHarness
from tests.telemetry.collector import Collector


def test_without_variables_the_app_does_not_import_the_sdk() -> None:
    program = (
        "import sys, threading; from search_api.app import create_app; create_app();"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))],"
        "[thread.name for thread in threading.enumerate()])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] ['MainThread']\n"


def test_without_variables_nothing_happens(harness: AppHarness) -> None:
    assert traces.start_tracing("x") is None
    with traces.span("a") as off, traces.root_span("b", {}):
        assert off is None
        assert traces.trace_headers() == {}
        assert traces.record_launch("c", 1) == {}
    harness.add_searchable_course("c", "copper")
    with harness.client() as client:
        client.post("/courses/c/search", json={"query": "copper"})
    assert not any("Otel" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "x"},
    ],
)
def test_variables_that_switch_nothing_on(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces.start_tracing("x") is None


@pytest.mark.parametrize("name", ["zipkin3", "otlp"])
def test_a_wrong_variable_is_reported_and_the_program_starts(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    assert traces.start_tracing("x") is None
    assert "use otlp, console or none" in caplog.text


@pytest.mark.parametrize("headers", ["key=a%0As3cret", "s3cret", "key=s3cret\nx", "key=s3cretä", "k y=s3cret"])
@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
def test_a_wrong_header_is_reported_without_its_value(
    variable: str, headers: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK's own messages show it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, headers)
    assert traces.start_tracing("x") is None
    assert variable in caplog.text
    assert "s3cret" not in caplog.text


def test_an_address_is_reported_without_its_secrets() -> None:
    url = "http://user:s3cret@collector.example/v1?key=s3cret"
    error = ConnectionError(f"no answer from {url}")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "Failed: '%s'", (url,), (ConnectionError, error, None))
    assert traces._Seldom().filter(record)
    address = "http://collector.example/v1?…"
    assert logging.Formatter().format(record) == f"Failed: '{address}': no answer from {address}"


def test_variables_in_the_env_file_and_names_of_services(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=school")
    Path(".env").write_text(f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={collector.url}/v1/traces\n", encoding="utf-8")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    traces.start_tracing("course-search-api")
    with traces.root_span("a", {}, course_id="c"):
        pass
    collector.wait_for("a")
    assert collector.named("a").service == "course-search-api"
    assert collector.named("a").attributes == {"course_id": "c"}
    assert collector.headers[0]["x-key"] == "secret"
    traces.stop_tracing()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    traces.start_tracing("course-search-api")
    with traces.root_span("b", {}):
        pass
    collector.wait_for("b")
    assert collector.named("b").service == "mine"


def test_threads_continue_a_trace_only_with_its_context(collector: Collector) -> None:
    traces.start_tracing("x")
    with traces.root_span("root", {}):
        context = copy_context()
        traces.record_span("part", 1)

    def work() -> None:
        with traces.span("work"):
            pass

    for target in (work, lambda: context.run(work)):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    collector.wait_for("root", "work", "part")
    assert sorted(collector.paths()) == [("root",), ("root", "part"), ("root", "work")]


def test_a_trace_that_is_not_sampled_is_not_exported(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    traces.start_tracing("x")
    with traces.root_span("a", {"traceparent": f"00-{1:032x}-{1:016x}-00"}), traces.span("b"):
        assert traces.trace_headers()["traceparent"].endswith("-00"), "the next program must not export it either"
    with traces.root_span("c", {"traceparent": "no header"}):
        pass
    collector.wait_for("c")
    assert [span.name for span in collector.spans] == ["c"]


def test_a_collector_that_is_away_harms_nothing(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setattr(traces, "_seldom", traces._Seldom())
    harness.add_searchable_course("c", "copper")
    with harness.client() as client:
        for _ in range(5):
            assert client.post("/courses/c/search", json={"query": "copper"}).status_code == 200
            traces.flush()
    assert [exporter.is_failing for exporter in traces._tracing.exporters] == [True]
    with monkeypatch.context() as without_threads:
        without_threads.setattr("threading.Thread", None)
        traces.flush()  # does not wait
    reports = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(reports) == 1
    assert reports[0].levelno >= logging.WARNING
