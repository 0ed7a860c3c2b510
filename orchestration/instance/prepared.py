"""The sensors work only in a Dagster instance that was prepared for this product.

A sensor compares courses with the runs of its instance. In another instance, for example the temporary one of
`dagster dev` or the one of another project, it would not find the runs and would treat running courses as abandoned.
So `orchestration.prepare` writes a mark to the storage of the instance, and without the mark the sensors skip every
tick.
"""

import os

import dagster as dg

from orchestration.worker_settings import CelerySettings

SENSOR_INTERVAL_SECONDS = 2
SKIPS_UNLESS_PREPARED = (
    "Skips every tick if DAGSTER_HOME is not set, or if its instance was not prepared for this product by "
    "`course-search up` or `python -m orchestration.prepare`."
)
_MARK = "course_search/prepared"


def mark_prepared(instance: dg.DagsterInstance) -> None:
    """Mark the instance, so that the sensors work in it."""
    instance.daemon_cursor_storage.set_cursor_values({_MARK: "yes"})


def reason_to_skip(instance: dg.DagsterInstance) -> str | None:
    """Why the sensors skip their ticks in this instance, or None if the instance was prepared."""
    if instance.daemon_cursor_storage.get_cursor_values({_MARK}):
        return None
    home = os.environ.get("DAGSTER_HOME")
    subject = f"The Dagster instance in DAGSTER_HOME ({home})" if home else "DAGSTER_HOME is not set, and this instance"
    return (
        f"{subject} was not prepared for this product, so the sensors skip every tick. `course-search up` prepares an "
        "instance and starts everything; if you start the processes separately, run `python -m orchestration.prepare` "
        "first."
    )


def configuration_problem(instance: dg.DagsterInstance) -> str:
    """What is wrong with the `dagster.yaml` of the instance; empty if nothing is."""
    if instance.is_ephemeral:
        return ""
    is_checked = instance.run_monitoring_enabled and instance.run_launcher.supports_check_run_worker_health
    if is_checked and CelerySettings().celery_broker_url and "Celery" not in type(instance.run_launcher).__name__:
        return (
            "CELERY_BROKER_URL is set, but runs start on the machine of Dagster's daemon, because dagster.yaml in "
            "DAGSTER_HOME says so: copy orchestration/instance/dagster-celery.yaml there, then restart"
        )
    if is_checked:
        return ""
    return (
        "Runs whose worker dies would keep their slot for ever, because dagster.yaml in DAGSTER_HOME is of an earlier "
        "version: copy `run_monitoring` and `run_launcher` from orchestration/instance/dagster.yaml, then restart"
    )
