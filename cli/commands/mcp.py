"""`course-search mcp`: the tools of agents over standard input and output, for agents that start a program."""

from typing import Annotated

import typer

from orchestration.search_link import SearchLinkSettings
from search_api.app_settings import SearchSettings


def mcp(
    url: Annotated[str | None, typer.Option(help="Address of the search app; SEARCH_URL by default.")] = None,
) -> None:
    """Serve the tools of agents over standard input and output. An agent starts this command.

    The tools search the courses of a search app that is running. If it asks for a token, set INTERNAL_TOKEN.
    """
    token = SearchSettings().internal_token
    address = url or SearchLinkSettings().search_url

    from search_api.mcp.stdio import serve_stdio

    try:
        serve_stdio(address, token.get_secret_value() if token else None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error
