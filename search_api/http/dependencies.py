"""Parameters that routes get from FastAPI: the services the app opened at start, and the course id of the path."""

from typing import Annotated

from fastapi import Depends, Path, Request

from search_api.services import ModelServices, Services

CourseId = Annotated[str, Path(description="Any text, percent-encoded.", examples=["abc123"])]


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


AppServices = Annotated[Services, Depends(_services)]
"""In the search app."""
AppModelServices = Annotated[ModelServices, Depends(_services)]
"""In both apps: the search app and the embedding app."""
