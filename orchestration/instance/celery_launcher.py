"""The run launcher of an instance whose courses are embedded by Celery workers.

Runs that embed go to the workers. All others (uploaded files, housekeeping, runs of other programs) start on the
machine of the daemon, which has the files and the backups.
"""

from typing import Any

import dagster as dg
from dagster._core.launcher import LaunchRunContext  # noqa: TID251 - Dagster does not export it
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from models.database import DatabaseUnavailableError
from orchestration.celery_app import CONFIG, QUEUE, REDELIVERY_SECONDS, queue_is_empty
from orchestration.heartbeats import LOST_SECONDS
from orchestration.instance.run_launcher import CourseRunLauncher
from orchestration.runs import is_ours
from orchestration.worker_settings import CelerySettings

LOST_MESSAGE_SECONDS = REDELIVERY_SECONDS + 60.0
"""A run that no worker has begun so long after the queue was empty was lost by the broker. Later messages do not count:
workers take the oldest first."""


class CeleryCourseRunLauncher(CourseRunLauncher):
    """Launches runs that embed courses as Celery tasks, and knows whether their workers live and make progress."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        broker = CelerySettings().broker_url()
        self._overtaken: set[str] = set()
        self._celery = CeleryRunLauncher(QUEUE, broker=broker, backend=broker, config_source=CONFIG)

    def register_instance(self, instance: dg.DagsterInstance) -> None:
        """Called by Dagster."""
        super().register_instance(instance)
        self._celery.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Send the run to the workers, or start it here."""
        if is_ours(context.dagster_run):
            self._celery.launch_run(context)
        else:
            super().launch_run(context)

    def outage(self) -> str:
        """Whether the broker is unreachable."""
        try:
            queue_is_empty(self._celery.celery)
        except OperationalError:
            return "The broker at CELERY_BROKER_URL is unreachable. Start it."
        return ""

    def is_waiting(self, run: dg.DagsterRun) -> bool:
        """Whether the run is in the queue, or a worker that lives is beginning with it."""
        if not _is_on_celery(run):
            return False
        try:
            beat = self._last_beat(run)
            if beat is not None:
                self._overtaken.discard(run.run_id)
                return self._seconds(run, "beat", beat.beat_at) <= LOST_SECONDS
            if run.run_id not in self._overtaken:
                if not queue_is_empty(self._celery.celery):
                    return True
                self._overtaken.add(run.run_id)
            return self._seconds(run, "queue") <= LOST_MESSAGE_SECONDS
        except (DatabaseUnavailableError, OperationalError):  # then nothing is known of it
            return True

    def terminate(self, run_id: str) -> bool:
        """Terminate a run, wherever it is.

        Raises:
            DagsterInvariantViolationError: The broker, which tells the worker, is unreachable. Nothing has changed.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not _is_on_celery(run) or self._is_suspended(run):
            return super().terminate(run_id)
        if problem := self.outage():
            raise dg.DagsterInvariantViolationError(f"The run was not terminated. {problem}")
        self._instance.report_run_canceling(run)
        self._revoke(run, "SIGTERM")
        if run.status is dg.DagsterRunStatus.STARTING:
            self._instance.report_run_canceled(run, "The run was terminated before a worker had begun with it.")
        return True

    def _kill(self, run: dg.DagsterRun) -> None:
        super()._kill(run)
        if _is_on_celery(run):
            self._revoke(run, "SIGKILL")

    def _revoke(self, run: dg.DagsterRun, signal: str) -> None:
        """Have the worker that executes the run, if it lives, send the signal to its process."""
        self._celery.celery.control.revoke(run.tags[DAGSTER_CELERY_TASK_ID_TAG], terminate=True, signal=signal)


def _is_on_celery(run: dg.DagsterRun) -> bool:
    return is_ours(run) and DAGSTER_CELERY_TASK_ID_TAG in run.tags
