"""Settings of the log of every program of the product."""

from typing import Literal

from pydantic import Field

from models.settings import Settings


class LogSettings(Settings):
    """Format and level of log lines."""

    log_format: Literal["console", "json"] = Field(
        "console", description="Lines for people, or json: one JSON object a line, for programs that collect logs."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="Lowest level of the product's own log lines. Of libraries, and in the pipeline, only "
        "warnings and errors are logged.",
    )
