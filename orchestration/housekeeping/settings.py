"""The settings of the housekeeping. This module does not import Dagster, because the command line reads it."""

from pydantic import Field

from models.settings import Settings, Token


class HousekeepingSettings(Settings):
    """Old runs and alerts."""

    run_retention_days: int = Field(
        30, gt=0, description="The job prune_runs deletes runs that ended longer ago than this, in days."
    )
    alert_url: Token | None = Field(
        None,
        description="URL that receives a POST with alerts about courses. If it is not set, alert_sensor is off.",
    )
    alert_due_minutes: float = Field(
        60,
        gt=0,
        description="A course that is not published this long after it became due, in minutes, is reported as overdue.",
    )
