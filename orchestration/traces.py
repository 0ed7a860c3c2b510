"""Traces of the pipeline: from the decision of a sensor through the run that it launches.

The context of the decision travels in a tag of the run, so the worker continues the trace in its process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from models.log_settings import LogSettings
from orchestration.run_config import PARENT_TAG
from telemetry.logs import configure_logs
from telemetry.traces import Attribute, flush, record_launch, root_span, start_tracing

SERVICE_NAME = "course-search-pipeline"
TRACE_TAG = ".dagster/course_search_traceparent"
"""The Dagster UI hides tags with this prefix."""
_HEADER = "traceparent"


def configure_pipeline_logs() -> None:
    """Show warnings in a process of Dagster, as LOG_FORMAT says. Dagster's own lines have their own handlers."""
    settings = LogSettings()
    configure_logs(settings.log_format, settings.log_level, handled_elsewhere="dagster")


def launch_tags(name: str, started_ns: int, **attributes: Attribute) -> dict[str, str]:
    """The tags by which a run continues the trace that begins with the decision to launch it; empty without traces.

    Args:
        name: The sensor.
        started_ns: When its tick began, by `time.time_ns`.
        attributes: The reason of the launch.
    """
    start_tracing(SERVICE_NAME)
    headers = record_launch(name, started_ns, **attributes)
    return {TRACE_TAG: headers[_HEADER]} if headers else {}


@contextmanager
def traced_run(run: dg.DagsterRun) -> Iterator[None]:
    """The work of a run, in the trace of its launch; in a new one if no sensor of ours launched it.

    A run that was re-executed has the tag of the first one, but begins a new trace.
    """
    start_tracing(SERVICE_NAME)
    tag = None if PARENT_TAG in run.tags else run.tags.get(TRACE_TAG)
    try:
        with root_span(run.job_name, {_HEADER: tag} if tag else {}, run_id=run.run_id):
            yield
    finally:
        flush()  # the worker ends soon, and may be killed
