"""Response bodies of the health routes."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    Field,
    WithJsonSchema,
)

from search_api.http.error_responses import ErrorResponse


class Alive(BaseModel):
    """The process is running."""

    status: Annotated[str, WithJsonSchema({"type": "string", "const": "ok"})] = "ok"


class Component(BaseModel):
    """The state of a dependency of the app."""

    ok: bool
    message: str = Field(description="The error; empty if there is none.")


class ModelComponents(BaseModel):
    """The dependencies of the embedding app."""

    model: Component


class Components(ModelComponents):
    """The dependencies of the search app."""

    catalogue: Component
    vector_store: Component


class ModelReadiness(BaseModel):
    """The embedding app is ready."""

    status: Literal["ready"]
    components: ModelComponents


class Readiness(BaseModel):
    """The search app can answer: everything (`ready`), or what needs no component that is away (`degraded`)."""

    status: Literal["ready", "degraded"]
    components: Components


class NotReadyResponse(ErrorResponse):
    """The error and the state of each dependency."""

    status: Literal["not_ready"]
    components: Components


class ModelNotReadyResponse(ErrorResponse):
    """The error and the state of the model."""

    status: Literal["not_ready"]
    components: ModelComponents
