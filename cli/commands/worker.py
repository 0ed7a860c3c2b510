"""`course-search worker`: a Celery worker that embeds courses on this machine."""

import os
import socket
from typing import Annotated

import typer

from cli.all_settings import ALL_SETTINGS
from cli.dagster_home import CannotStartError, configure_dagster
from cli.launcher_settings import LauncherSettings
from models.log_settings import LogSettings
from models.settings import without_password
from orchestration.worker_settings import CelerySettings
from telemetry import PACKAGES
from telemetry.logs import configure_logs


def worker(
    concurrency: Annotated[
        int, typer.Option(min=1, help="Number of runs at the same time. Each loads the model, unless a service has it.")
    ] = 1,
) -> None:
    """Embed courses on this machine, for a pipeline that is on another one (CELERY_BROKER_URL).

    SIGTERM or Ctrl-C ends it: its runs stop after their current batch, and other workers continue them.
    """
    for settings_class in ALL_SETTINGS:
        settings_class()  # an invalid setting is reported here, in one line
    settings, logs = LauncherSettings(), LogSettings()
    home = settings.dagster_home.absolute()
    try:
        broker = CelerySettings().broker_url()
        home.mkdir(parents=True, exist_ok=True)
        env = configure_dagster(settings, home, typer.echo)
    except (CannotStartError, OSError, ValueError) as error:
        typer.echo(f"{error}", err=True)
        raise typer.Exit(1) from error
    os.environ.update({**env, "DAGSTER_HOME": str(home)})
    configure_logs(logs.log_format, logs.log_level, PACKAGES)

    from orchestration.celery_app import run_worker

    name = f"{os.getpid()}@{socket.gethostname()}"
    typer.echo(f"The worker {name} takes runs from {without_password(broker)}. Ctrl-C stops it.")
    raise typer.Exit(run_worker(broker, name, concurrency))
