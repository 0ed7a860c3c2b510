"""What routes ask FastAPI for: the services that the app opened when it started."""

from typing import Annotated

from fastapi import Depends, Request

from search_api.services import ModelServices, Services


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


AppServices = Annotated[Services, Depends(_services)]
"""In the search app."""
AppModelServices = Annotated[ModelServices, Depends(_services)]
"""In any app that embeds."""
