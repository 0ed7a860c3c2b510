"""What the launcher of Celery workers does while their broker is away; tests/faults/test_celery.py has the rest."""

from pathlib import Path

import dagster as dg
import pytest
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

from cli.processes import free_port
from orchestration.instance.celery_launcher import CeleryCourseRunLauncher
from tests.orchestration.ticks import create_run
from tests.orchestration.worker_processes import instance_on_disk


def test_run_is_not_terminated_while_its_worker_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stay `CANCELING` and go on."""
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{free_port()}")
    with instance_on_disk(tmp_path) as instance:
        launcher = CeleryCourseRunLauncher()
        launcher.register_instance(instance)
        run = create_run(instance, {DAGSTER_CELERY_TASK_ID_TAG: "a task"}, dg.DagsterRunStatus.STARTED)
        with pytest.raises(dg.DagsterInvariantViolationError, match=r"not terminated.*CELERY_BROKER_URL"):
            launcher.terminate(run.run_id)
        after = instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is dg.DagsterRunStatus.STARTED
