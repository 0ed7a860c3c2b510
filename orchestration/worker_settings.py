"""The limit of the workers that execute runs. Imports no Dagster, so that commands that list settings start fast."""

from pydantic import Field

from models.settings import Settings


class WorkerSettings(Settings):
    """Limit of a worker."""

    worker_stall_seconds: float = Field(
        600.0,
        gt=0,
        description="A worker that finishes no batch for this time, in seconds, is killed, and its course is tried "
        "again. Loading the model counts too.",
    )
