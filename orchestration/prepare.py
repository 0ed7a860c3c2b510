"""Prepares the Dagster instance, before webserver and daemon start: `python -m orchestration.prepare`.

Creates Dagster's storage, because two processes that create it at once break it. Limits the GPU pool, because a pool
has a limit only after the instance has seen it. Ends runs whose worker died, because they would keep their slot in the
pool until the sensor's first tick. Marks the instance, so that the sensors work in it.
"""

import sys

import dagster as dg

from orchestration.assets import GPU_POOL
from orchestration.course_status.dead_workers import end_abandoned_runs
from orchestration.prepared_instance import mark_prepared


def prepare(instance: dg.DagsterInstance) -> list[str]:
    """Prepare the instance; idempotent.

    Returns:
        A line for each run that was ended.
    """
    storage = instance.event_log_storage
    if GPU_POOL not in {pool.name for pool in storage.get_pool_limits()}:  # keeps an operator's own limit
        storage.initialize_concurrency_limit_to_default(GPU_POOL)
    mark_prepared(instance)
    return end_abandoned_runs(instance)


if __name__ == "__main__":
    with dg.DagsterInstance.get() as dagster_instance:
        for line in prepare(dagster_instance):
            sys.stdout.write(f"{line}\n")
