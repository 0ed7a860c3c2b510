"""The configuration of a run that reads uploaded files."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import Field

FILES_OP = "read_files"


class FilesConfig(dg.Config):
    """The files that a run reads."""

    resource_ids: list[str] = Field(
        [], description="Ids of the files, which are read again if they were read before. If empty: all that wait."
    )


def resource_ids_of(run: dg.DagsterRun) -> list[str]:
    """The files of a run; empty if it reads all that wait, or if the configuration of an operator is invalid."""
    config: Any = run.run_config
    for key in ("ops", FILES_OP, "config", "resource_ids"):
        config = config.get(key) if isinstance(config, Mapping) else None
    return [resource_id for resource_id in config if isinstance(resource_id, str)] if isinstance(config, list) else []
