"""Before the daemon starts: put the instance in order (`python -m orchestration.prepare`).

Two processes that create Dagster's storage at once break it, so it is created here. A pool is limited only once the
instance has seen it, and runs whose worker is gone would hold their place in it until the sensor's first tick.
"""

import sys

import dagster as dg

from orchestration.assets import GPU_POOL
from orchestration.workers import end_abandoned_runs


def limit_pools(instance: dg.DagsterInstance) -> None:
    """Give the GPU's pool the instance's default limit, unless an operator has set one."""
    storage = instance.event_log_storage
    if GPU_POOL not in {pool.name for pool in storage.get_pool_limits()}:
        storage.initialize_concurrency_limit_to_default(GPU_POOL)


if __name__ == "__main__":
    with dg.DagsterInstance.get() as dagster_instance:
        limit_pools(dagster_instance)
        for line in end_abandoned_runs(dagster_instance):
            sys.stdout.write(f"{line}\n")
