"""Dagster's default run launcher, with knowledge of this product's workers, for Dagster's run monitoring.

Dagster's code server notices when a worker that it started dies. When both die (a crash of the machine or container),
or when the worker is frozen, the run would stay `STARTED` forever and keep its slot in the pool and its courses.
Runs of other programs in the same instance are always reported as running: nothing is known about their workers.
Housekeeping runs end when their worker dies, and have no stall limit.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus  # noqa: TID251 - Dagster exports neither

from orchestration.runs import is_ours, reads_files
from orchestration.worker_settings import WorkerSettings
from orchestration.workers import has_worker, worker_of

START_TIMEOUT = timedelta(minutes=1)
"""Maximum time from the start of a run to its first step, where the worker registers."""


class CourseRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as Dagster does, and reports whether the workers of this product live and make progress."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._beats: dict[str, tuple[int, float]] = {}

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
        if not has_worker(run):
            return self._problem_before_first_step(run) if _has_stall_limit(run) else None
        worker = worker_of(self._instance, run)
        if worker is None:  # on another machine, whose run monitoring checks it
            return None
        beat = worker.last_beat()
        if beat is None:
            return "The worker process of this run has died, for example because its machine or container was stopped."
        limit = WorkerSettings().worker_stall_seconds
        if _has_stall_limit(run) and self._seconds_since(run.run_id, beat) > limit:
            return (
                f"The worker of this run finished no batch for {limit:g} s (WORKER_STALL_SECONDS), so it was killed. "
                "It was suspended, or waited for a device or service that does not answer."
            )
        return None

    def _problem_before_first_step(self, run: dg.DagsterRun) -> str | None:
        record = self._instance.get_run_record_by_id(run.run_id)
        if record is None or record.start_time is None:
            return None
        started = datetime.fromtimestamp(record.start_time, UTC)
        return (
            "The worker of this run did not reach its first step in time. Its process has probably died."
            if datetime.now(UTC) - started > START_TIMEOUT
            else None
        )

    def _seconds_since(self, run_id: str, beat: int) -> float:
        """Time since a beat was first seen, without the time that the machine was suspended."""
        seen_beat, seen_at = self._beats.get(run_id, (None, 0.0))
        if seen_beat != beat:
            seen_at = time.monotonic()
            self._beats[run_id] = beat, seen_at
        return time.monotonic() - seen_at

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
