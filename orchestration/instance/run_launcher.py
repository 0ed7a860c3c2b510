"""Dagster's default run launcher, with knowledge of this product's workers, for Dagster's run monitoring.

Dagster's code server notices when a worker that it started dies. When both die (a crash of the machine or container),
or when the worker is frozen, the run would stay `STARTED` forever and keep its slot in the pool and its courses. A
worker in the same DAGSTER_HOME is judged by its lock file, at once; one on another machine by its heartbeat in the
catalogue. Runs of other programs in the same instance are always reported as running: nothing is known about their
workers. Housekeeping runs end when their worker dies, and have no stall limit.
"""

from contextlib import suppress
from typing import Any

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus  # noqa: TID251 - Dagster exports neither

from models.database import CatalogueSettings, DatabaseUnavailableError, Engine, create_catalogue_engine, transaction
from models.run_workers import Beat, is_shared, last_beat
from orchestration.heartbeats import LOST_SECONDS, Watch
from orchestration.runs import is_ours, reads_files
from orchestration.worker_settings import WorkerSettings
from orchestration.workers import Worker, has_worker, worker_of

START_SECONDS = 60.0
"""Maximum time from the start of a run to its first step, where the worker registers."""


class CourseRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as Dagster does, and reports whether the workers of this product live and make progress."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._watch = Watch()
        self._engine: Engine | None = None

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Tells run monitoring to call `check_run_worker_health` for every started run."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of a started run lives and makes progress.

        A run whose worker does not is ended here: run monitoring would add its own words to the reason.
        """
        if problem := self._problem(run):
            current = self._instance.get_run_by_id(run.run_id)
            if current is not None and not current.is_finished:
                self._instance.report_run_failed(current, problem)
                self._kill(run)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def outage(self) -> str:
        """Why no run can be launched now, for a reason that passes; empty if none is known."""
        return ""

    def is_waiting(self, run: dg.DagsterRun) -> bool:  # noqa: ARG002 - for launchers with a queue
        """Whether a launched run waits for a worker, so that it may begin much later."""
        return False

    def terminate(self, run_id: str) -> bool:
        """Terminate a run. A suspended worker, which heeds nothing else, is killed.

        Dagster's code server would wait for it without end.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished and self._is_suspended(run):
            self._instance.report_run_canceling(run)
            self._instance.report_run_canceled(run, "The run was terminated, and its suspended worker was killed.")
            self._kill(run)
            return True
        return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]

    def _problem(self, run: dg.DagsterRun) -> str | None:
        worker = worker_of(self._instance, run)
        return self._problem_here(run, worker) if worker else self._problem_elsewhere(run)

    def _problem_here(self, run: dg.DagsterRun, worker: Worker) -> str | None:
        beat = worker.last_beat()
        if beat is None:
            return "The worker process of this run has died, for example because its machine or container was stopped."
        return self._stall(run, beat)

    def _problem_elsewhere(self, run: dg.DagsterRun) -> str | None:
        try:
            beat = self._last_beat(run)
        except DatabaseUnavailableError:  # then nothing is known of it
            return None
        if beat is None:
            is_late = _has_stall_limit(run) and not has_worker(run) and self._seconds(run, "start") > START_SECONDS
            return (
                "The worker of this run did not reach its first step in time. Its process has probably died."
                if is_late
                else None
            )
        if self._seconds(run, "beat", beat.beat_at) > LOST_SECONDS:
            return (
                f"The worker of this run has given no sign of life for {LOST_SECONDS:g} s. It was killed, or its "
                "machine was stopped, is frozen, or cannot reach the database."
            )
        return self._stall(run, beat.batches)

    def _stall(self, run: dg.DagsterRun, beat: int) -> str | None:
        limit = WorkerSettings().worker_stall_seconds
        if not _has_stall_limit(run) or self._seconds(run, "batch", beat) <= limit:
            return None
        return (
            f"The worker of this run finished no batch for {limit:g} s (WORKER_STALL_SECONDS), so it was killed. "
            "It was suspended, or waited for a device or service that does not answer."
        )

    def _seconds(self, run: dg.DagsterRun, subject: str, value: object = None) -> float:
        return self._watch.unchanged_seconds((run.run_id, subject), value)

    def _last_beat(self, run: dg.DagsterRun) -> Beat | None:
        """The heartbeat of the worker; None if it has none, or if the catalogue is not shared."""
        if self._engine is None:
            self._engine = create_catalogue_engine(CatalogueSettings())
        if not is_shared(self._engine):
            return None
        with transaction(self._engine) as session:
            return last_beat(session, run.run_id)

    def _kill(self, run: dg.DagsterRun) -> None:
        if process := self._process(run):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _is_suspended(self, run: dg.DagsterRun) -> bool:
        process = self._process(run)
        with suppress(psutil.NoSuchProcess):
            return process is not None and process.status() == psutil.STATUS_STOPPED
        return False

    def _process(self, run: dg.DagsterRun) -> psutil.Process | None:
        """The worker's process. None if it is in another container, where process ids have another meaning."""
        worker = worker_of(self._instance, run)
        process_id = worker.process_id() if worker else None
        if worker is None or process_id is None:
            return None
        with suppress(psutil.Error):
            process = psutil.Process(process_id)
            if any(worker.path.samefile(file.path) for file in process.open_files()):
                return process
        return None


def _has_stall_limit(run: dg.DagsterRun) -> bool:
    return is_ours(run) or reads_files(run)
