"""`python -m orchestration.prepare` prepares the Dagster instance before the webserver and the daemon start.

It creates Dagster's storage, because two processes that create it at the same time can damage it. It limits the GPU
pool, because Dagster applies the default limit only to pools that its storage knows. It marks the instance as
prepared, because the sensors skip their ticks in other instances. A damaged storage is moved away first.
"""

import os
import sys
from pathlib import Path

import dagster as dg

from orchestration.assets import GPU_POOL
from orchestration.instance.prepared import configuration_problem, mark_prepared
from orchestration.instance.storage import move_damaged_files


def prepare(instance: dg.DagsterInstance) -> None:
    """Prepare the instance. Can be repeated."""
    storage = instance.event_log_storage
    chosen = {pool.name for pool in storage.get_pool_limits() if not pool.from_default}
    if GPU_POOL not in chosen:  # an operator may have set another limit
        storage.initialize_concurrency_limit_to_default(GPU_POOL)
    mark_prepared(instance)


def main() -> list[str]:
    """Prepare the instance in DAGSTER_HOME. Returns what an operator must know, usually nothing."""
    home = os.environ.get("DAGSTER_HOME")
    problems = move_damaged_files(Path(home).expanduser()) if home else []
    with dg.DagsterInstance.get() as instance:
        prepare(instance)
        if problem := configuration_problem(instance):
            problems.append(problem)
    return problems


if __name__ == "__main__":
    sys.stderr.writelines(f"{problem}\n" for problem in main())
