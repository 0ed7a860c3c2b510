"""The setting for links from the Dagster UI to the search app."""

from pydantic import Field

from models.settings import Settings


class SearchLinkSettings(Settings):
    """Address of the search app."""

    search_url: str = Field(
        "http://127.0.0.1:8000", description="Where operators reach the search app, for links in the Dagster UI."
    )
