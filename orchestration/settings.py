"""Settings of the pipeline alone: where its pages in the Dagster UI link to."""

from pydantic import Field

from models.settings import Settings


class PipelineSettings(Settings):
    """What operators reach from the Dagster UI."""

    search_url: str = Field(
        "http://127.0.0.1:8000", description="Where operators reach the search app, for links in the Dagster UI."
    )
