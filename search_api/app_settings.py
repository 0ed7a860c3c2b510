"""Settings of the search app: who may call it, and how much a call may ask for."""

from pydantic import Field, SecretStr

from models.settings import Settings


class SearchSettings(Settings):
    """Limits of the API and the token that guards it."""

    internal_token: SecretStr | None = Field(
        None, description="When set, every call must carry it in the header X-Internal-Token."
    )
    search_max_top_k: int = Field(
        20, ge=5, description="Largest top_k of a search; a search that names none asks for 5."
    )
    search_max_query_chars: int = Field(2000, ge=1, description="Longest query of a search, in characters.")
    embed_max_texts: int = Field(64, ge=1, description="Most texts of a call of POST /embed or POST /v1/embeddings.")
    embedding_queue_limit: int = Field(
        32,
        ge=0,
        description="Queries that may wait for the embedding model, and as many bulk calls; a further one is answered "
        "503 overloaded.",
    )
    max_request_bytes: int = Field(4 * 1024 * 1024, ge=1, description="Largest body of a request, in bytes.")
    serve_while_reembedding: bool = Field(
        False,
        description="Go on searching what was published last while a course is not `done`, instead of answering "
        "embedding_not_ready; the answer says so.",
    )
    cache_max_entries: int = Field(50, ge=1, description="Most courses, or models of a kind, that are kept in memory.")
    cache_ttl_seconds: float = Field(1800.0, gt=0, description="How long after its load a course is kept in memory.")
    cache_max_mb: int = Field(1024, ge=1, description="Most memory the courses take; larger ones are left to Chroma.")
