"""The files that configure a Dagster instance. Imports no Dagster."""

from pathlib import Path


def instance_file(*, postgres: bool, celery: bool) -> Path:
    """The file for DAGSTER_HOME/dagster.yaml.

    Args:
        postgres: Dagster's own state is in PostgreSQL, not in SQLite files.
        celery: Courses are embedded by Celery workers.

    Raises:
        ValueError: Celery without PostgreSQL.
    """
    if celery and not postgres:
        raise ValueError(
            "CELERY_BROKER_URL is set, but DAGSTER_POSTGRES_URL is not. Workers on other machines cannot reach the "
            "SQLite files that Dagster's state is in: set DAGSTER_POSTGRES_URL, or remove CELERY_BROKER_URL"
        )
    name = "dagster-celery.yaml" if celery else "dagster-postgres.yaml" if postgres else "dagster.yaml"
    return Path(__file__).parent / name
