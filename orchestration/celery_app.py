"""The Celery app that carries runs to workers on other machines.

The broker carries a run until it has begun; from then on its heartbeat shows whether the worker lives
(`orchestration.heartbeats`). So a message that is delivered again, because its worker was killed or lost its
connection, begins the run only if nobody else has.
"""

import logging
import os
import signal
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

import dagster as dg
from celery import Celery, Task, signals
from celery.exceptions import Ignore
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task
from dagster_postgres.utils import DagsterPostgresException
from kombu.exceptions import ChannelError

from models.database import DatabaseUnavailableError, database_errors
from orchestration.heartbeats import BEAT_SECONDS, claim_run

QUEUE = "dagster"
"""The queue that dagster-celery's app declares."""
REDELIVERY_SECONDS = 120
"""A message of a worker that was killed is delivered to another one after this time."""
CONFIG: dict[str, Any] = {
    "worker_prefetch_multiplier": 1,
    "worker_max_tasks_per_child": 1,  # a process per run: its memory and its device are free afterwards
    "worker_redirect_stdouts": False,  # Dagster keeps what a run prints
    "worker_hijack_root_logger": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,  # a run needs no broker once it has begun
    "worker_enable_remote_control": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_track_started": True,
    "broker_connection_retry_on_startup": True,
    "broker_transport_options": {
        "visibility_timeout": REDELIVERY_SECONDS,
        "socket_connect_timeout": 5,
        "socket_timeout": 20,  # of a broker that accepts connections and does not answer
        "max_retries": 2,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.5,
    },
    "result_expires": 86400,
}

logger = logging.getLogger(__name__)


class RunOnce(Task):  # type: ignore[misc]
    """The task of a run, which only one worker executes."""

    abstract = True
    max_retries = None
    """Without a limit, which the argument of `retry` cannot say."""

    def __call__(self, execute_job_args_packed: Any) -> Any:
        """Execute the run, unless it has begun or ended, or another worker is beginning with it."""
        run_id = unpack_value(execute_job_args_packed, as_type=ExecuteRunArgs).run_id
        if not _claim(run_id):
            raise self.retry(countdown=BEAT_SECONDS)
        return self.run(execute_job_args_packed)


def _claim(run_id: str) -> bool:
    """Become the worker of the run, as soon as both databases can be reached.

    The worker keeps the message meanwhile, and takes no other. If it were sent again, it would lie behind later ones,
    and the launcher would take it for lost.

    Returns:
        False if another worker has it.

    Raises:
        Ignore: It has begun or ended.
    """
    while True:
        try:
            with database_errors(), dg.DagsterInstance.get() as instance:
                run = instance.get_run_by_id(run_id)
            if run is None or run.status not in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING):
                logger.info("Run %s has begun or ended: this message of it is ignored", run_id)
                raise Ignore
            return claim_run(run_id)
        except (DatabaseUnavailableError, DagsterPostgresException) as error:
            cause = error.__cause__ if isinstance(error, DagsterPostgresException) else None
            logger.warning("Run %s waits for the database: %s", run_id, cause or error)
            time.sleep(BEAT_SECONDS)


def create_app(broker: str) -> Celery:
    """The app, with the task that executes runs.

    Args:
        broker: URL of a Redis server, which is the result backend too.
    """
    arguments = {"broker": broker, "backend": broker, "config_source": CONFIG, "task_default_queue": QUEUE}
    app = make_app(arguments)  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"base": RunOnce}
    create_execute_job_task(app, **options)
    return app


def queue_is_empty(app: Celery) -> bool:
    """Whether no message waits for a worker.

    Raises:
        OperationalError: The broker does not answer.
    """
    with app.connection_for_read() as connection:
        try:
            return not connection.default_channel.queue_declare(QUEUE, passive=True).message_count
        except ChannelError:  # Redis has no empty queues
            return True


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _interrupt_runs(**_: object) -> None:
    """Interrupt the runs of a worker that is stopped: another worker continues them."""
    from celery.worker import state

    for request in list(state.active_requests):
        if request.worker_pid:
            with suppress(ProcessLookupError):
                os.kill(request.worker_pid, signal.SIGTERM)


def run_worker(broker: str, name: str, concurrency: int) -> int:
    """Execute runs in this process and its children until it is stopped by a signal.

    Args:
        broker: URL of a Redis server.
        name: Name of the worker, which no other worker has.
        concurrency: Number of runs at the same time.

    Returns:
        The exit code.
    """
    import_module("orchestration.definitions")  # the processes of the runs inherit it, and begin at once

    worker = create_app(broker).Worker(hostname=name, concurrency=concurrency, loglevel="WARNING", quiet=True)
    worker.start()
    return int(worker.exitcode or 0)
