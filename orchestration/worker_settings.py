"""Where runs are executed, and the limit of their workers.

Imports no Dagster, so that commands that list settings start fast.
"""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from models.settings import Settings


class WorkerSettings(Settings):
    """Limit of a worker."""

    worker_stall_seconds: float = Field(
        600.0,
        gt=0,
        description="A worker that finishes no batch for this time, in seconds, is killed, and its course is tried "
        "again. Loading the model counts too.",
    )


class CelerySettings(Settings):
    """The Celery workers."""

    celery_broker_url: SecretStr | None = Field(
        None,
        description="URL of a Redis server, like redis://:password@10.0.0.6:6379/0. If it is set, courses are embedded "
        "by the workers that `course-search worker` starts; otherwise on the machine of Dagster's daemon. Needs "
        "PostgreSQL.",
    )

    def broker_url(self) -> str:
        """The URL.

        Raises:
            ValueError: It is not set, or not the URL of a Redis server.
        """
        url = self.celery_broker_url.get_secret_value().strip() if self.celery_broker_url else ""
        if not url:
            raise ValueError("CELERY_BROKER_URL is not set: it is the URL of a Redis server, like redis://10.0.0.6/0")
        if urlsplit(url).scheme not in ("redis", "rediss"):
            raise ValueError("CELERY_BROKER_URL is not the URL of a Redis server, like redis://10.0.0.6/0")
        return url
