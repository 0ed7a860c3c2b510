"""Checks the Celery workers: does the broker answer, and does a worker."""

import importlib.util
from collections.abc import Iterator

from maintenance.checks.findings import Finding, Level
from models.text import counted

ANSWER_SECONDS = 3.0


def check_workers(broker: str) -> Iterator[Finding]:
    """Check that the broker answers, and at least one worker.

    Args:
        broker: URL of the broker, which may contain a password; empty if there are no workers.
    """
    if not broker:
        return
    if importlib.util.find_spec("dagster_celery") is None:
        message = "CELERY_BROKER_URL is set, but packages are missing"
        yield Finding("workers", Level.ERROR, message, "pip install 'course-search[celery]'")
        return
    from celery import Celery
    from kombu.exceptions import OperationalError

    options = {
        "max_retries": 1,
        "interval_start": 0,
        "socket_connect_timeout": ANSWER_SECONDS,
        "socket_timeout": 2 * ANSWER_SECONDS,
    }
    try:
        with Celery("doctor", broker=broker, broker_transport_options=options) as app:
            answers = app.control.ping(timeout=ANSWER_SECONDS)
    except OperationalError:
        message = "No broker answers at CELERY_BROKER_URL, or it refuses the password"
        yield Finding("workers", Level.ERROR, message, "Start Redis, or correct CELERY_BROKER_URL")
        return
    names = sorted(name for answer in answers for name in answer)
    if names:
        yield Finding("workers", Level.OK, f"{counted(len(names), 'worker')}: {', '.join(names)}")
    else:
        message = "The broker answers, but no worker"
        yield Finding("workers", Level.ERROR, message, "Start `course-search worker`; no course is embedded meanwhile")
