"""Route parameters that FastAPI fills in: the services opened at start, and the course id from the path."""

from typing import Annotated

from fastapi import Depends, Path, Request

from search_api.services import ModelServices, Services

CourseId = Annotated[str, Path(description="Any text, percent-encoded.", examples=["abc123"])]
ResourceId = Annotated[str, Path(description="The id that the upload was answered with.")]


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


AppServices = Annotated[Services, Depends(_services)]
"""The services of the search app."""
AppModelServices = Annotated[ModelServices, Depends(_services)]
"""The services that both apps have, the search app and the embedding app."""
