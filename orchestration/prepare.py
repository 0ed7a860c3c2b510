"""`python -m orchestration.prepare` prepares the Dagster instance before the webserver and the daemon start.

It creates Dagster's storage, because two processes that create it at the same time can damage it. It limits the GPU
pool, because Dagster applies the default limit only to pools that its storage knows. It marks the instance as
prepared, because the sensors skip their ticks in other instances. It does not touch a damaged storage, and says so:
searches do not need it, so the search app may start.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from orchestration.assets import GPU_POOL
from orchestration.daemon_check import STORAGE_ADVICE, storage_damage
from orchestration.instance.prepared import configuration_problem, mark_prepared


def prepare(instance: dg.DagsterInstance) -> None:
    """Prepare the instance. Can be repeated."""
    storage = instance.event_log_storage
    chosen = {pool.name for pool in storage.get_pool_limits() if not pool.from_default}
    if GPU_POOL not in chosen:  # an operator may have set another limit
        storage.initialize_concurrency_limit_to_default(GPU_POOL)
    mark_prepared(instance)


def main() -> str:
    """Prepare the instance in DAGSTER_HOME. Returns what an operator must know; usually nothing."""
    if damage := storage_damage(Path(os.environ.get("DAGSTER_HOME", ""))):
        return f"{damage}. {STORAGE_ADVICE}.\n"
    with dg.DagsterInstance.get() as instance:
        prepare(instance)
        problem = configuration_problem(instance)
    return f"{problem}\n" if problem else ""


if __name__ == "__main__":
    sys.stderr.write(main())
