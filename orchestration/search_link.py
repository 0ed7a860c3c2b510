"""Links from the Dagster UI and from alerts to the search app."""

from urllib.parse import quote

from pydantic import Field

from models.settings import Settings


class SearchLinkSettings(Settings):
    """Address of the search app."""

    search_url: str = Field(
        "http://127.0.0.1:8000",
        description="Where operators reach the search app, for links in the Dagster UI and in alerts.",
    )


def course_page(search_url: str, course_id: str) -> str:
    """URL of the search page with this course."""
    return f"{search_url.rstrip('/')}/?course={quote(course_id, safe='')}"
