"""Prints the OpenAPI document of the search app: `python -m search_api.openapi > docs/openapi.json`."""

import json
import sys

from pydantic import SecretStr

from search_api.app import create_app
from search_api.app_settings import SearchSettings


def openapi_document() -> str:
    """The content of `docs/openapi.json`: of an app with a token. It does not depend on any other setting."""
    return (
        json.dumps(
            create_app(SearchSettings(internal_token=SecretStr("documented"))).openapi(), indent=2, ensure_ascii=False
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.stdout.write(openapi_document())
