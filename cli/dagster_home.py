"""Writes dagster.yaml to DAGSTER_HOME, for the commands that start processes of Dagster."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

from cli.launcher_settings import LauncherSettings
from models.database import CatalogueSettings, catalogue_url, postgres_url
from orchestration.instance.files import instance_file
from orchestration.worker_settings import CelerySettings


class CannotStartError(Exception):
    """The product cannot start with this configuration; the message says what to do."""


def configure_dagster(settings: LauncherSettings, home: Path, announce: Callable[[str], None]) -> dict[str, str]:
    """Write dagster.yaml to the instance, unless DAGSTER_HOME is set and already contains one.

    Args:
        settings: The settings.
        home: The directory of the instance, which exists.
        announce: Called with what is worth knowing.

    Returns:
        Environment variables that the file refers to.

    Raises:
        CannotStartError: The settings contradict each other.
    """
    env = {}
    celery = CelerySettings()
    try:
        file = instance_file(postgres=bool(settings.dagster_postgres_url), celery=celery.celery_broker_url is not None)
        if celery.celery_broker_url:
            env["CELERY_BROKER_URL"] = celery.broker_url()
            if catalogue_url(CatalogueSettings()).get_backend_name() == "sqlite":
                raise ValueError(
                    "CELERY_BROKER_URL is set, but DATABASE_URL is a SQLite file, which workers on other machines "
                    "cannot reach. Set DATABASE_URL to a PostgreSQL database, or remove CELERY_BROKER_URL"
                )
    except ValueError as error:
        raise CannotStartError(str(error)) from error
    if celery.celery_broker_url and importlib.util.find_spec("dagster_celery") is None:
        raise CannotStartError("CELERY_BROKER_URL needs packages that are missing: pip install 'course-search[celery]'")
    if settings.dagster_postgres_url:
        try:
            env["DAGSTER_POSTGRES_URL"] = postgres_url(settings.dagster_postgres_url)
        except ValueError as error:
            raise CannotStartError(f"DAGSTER_POSTGRES_URL is {error}") from error
    target = home / "dagster.yaml"
    if target.exists() and target.read_bytes() == file.read_bytes():  # it may be read-only
        return env
    if "dagster_home" in settings.model_fields_set and target.exists():
        announce(f"The Dagster instance is configured by {target}")
    else:
        shutil.copyfile(file, target)
    return env
