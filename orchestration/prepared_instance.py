"""The sensors work only in a Dagster instance that was prepared for this product.

An instance that knows nothing of the runs elsewhere would take their courses for abandoned: that of a `dagster dev`
started to have a look, or another project's, to which DAGSTER_HOME happens to point. So `orchestration.prepare` leaves
a mark in the instance's storage, and the sensors rest where there is none.
"""

import os

import dagster as dg

SENSOR_INTERVAL_SECONDS = 5
RESTS_UNLESS_PREPARED = (
    "Rests, and says so in its ticks, while DAGSTER_HOME is not set or its instance was not prepared for this product "
    "by `make up` or `python -m orchestration.prepare`."
)
_MARK = "course_search/prepared"


def mark_prepared(instance: dg.DagsterInstance) -> None:
    """Let the sensors work in this instance."""
    instance.daemon_cursor_storage.set_cursor_values({_MARK: "yes"})


def reason_to_rest(instance: dg.DagsterInstance) -> str | None:
    """Why the sensors rest in this instance, or None if it was prepared."""
    if instance.daemon_cursor_storage.get_cursor_values({_MARK}):
        return None
    home = os.environ.get("DAGSTER_HOME")
    where = f"The instance of DAGSTER_HOME ({home})" if home else "DAGSTER_HOME is not set, and this instance"
    return (
        f"{where} was not prepared for this product, so the sensors rest. `make up` starts everything; where the parts "
        "are started one by one, run `python -m orchestration.prepare` first."
    )
