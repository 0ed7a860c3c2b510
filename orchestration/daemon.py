"""`python -m orchestration.daemon run …`: `dagster-daemon run …` with shorter pauses, and patience with Celery's queue.

Dagster's daemon looks at sensors every 5 s and at backfills every 30 s, and has no setting for either. It fails a run
that has not begun after `start_timeout_seconds`, but a run may wait longer for a Celery worker. Everything else is
Dagster's. Without Celery the product also works with `dagster-daemon`, only with a longer wait between a change and its
run.
"""

import logging

import dagster as dg
from dagster._daemon import cli, controller, sensor
from dagster._daemon.monitoring import run_monitoring

from orchestration.instance.run_launcher import CourseRunLauncher

SENSOR_PAUSE_SECONDS = 1
BACKFILL_PAUSE_SECONDS = 2

_monitor_starting_run = run_monitoring.monitor_starting_run


def monitor_starting_run(instance: dg.DagsterInstance, run_record: dg.RunRecord, logger: logging.Logger) -> None:
    """Fail a run that has not begun in time, unless it waits for a worker."""
    launcher = instance.run_launcher
    if not (isinstance(launcher, CourseRunLauncher) and launcher.is_waiting(run_record.dagster_run)):
        _monitor_starting_run(instance, run_record, logger)


def main() -> None:
    """Run Dagster's command line."""
    run_monitoring.monitor_starting_run = monitor_starting_run
    sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_PAUSE_SECONDS
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILL_PAUSE_SECONDS
    cli.main()


if __name__ == "__main__":
    main()
