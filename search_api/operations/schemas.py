"""TODO."""

from typing import Annotated

from pydantic import (
    BaseModel,
    Field,
    WithJsonSchema,
)

from search_api.http.error_responses import ErrorResponse


class Alive(BaseModel):
    """The process answers."""

    status: Annotated[str, WithJsonSchema({"type": "string", "const": "ok"})] = "ok"


class Component(BaseModel):
    """Something the app depends on."""

    ok: bool
    message: str = Field(description="What is wrong; empty when nothing is.")


class ModelComponents(BaseModel):
    """All that embedding depends on."""

    model: Component


class Components(ModelComponents):
    """All the search app depends on."""

    catalogue: Component
    vector_store: Component


class ModelReadiness(BaseModel):
    """Whether the embedding service can do its work."""

    components: ModelComponents


class Readiness(BaseModel):
    """Whether the app can do all its work."""

    components: Components


class NotReadyResponse(ErrorResponse, Readiness):
    """The error, and the state of each component."""
