"""Settings of the search app: token, limits and caches."""

from pydantic import Field

from models.settings import Settings, Token


class SearchSettings(Settings):
    """The token that guards the API, its limits, and the sizes of its caches."""

    internal_token: Token | None = Field(
        None,
        description="If set, requests must send it in the header X-Internal-Token, except for health probes, the API "
        "documentation and the files of the search page.",
    )
    search_max_top_k: int = Field(20, ge=5, description="Maximum top_k of a search; the default of a request is 5.")
    search_max_query_chars: int = Field(
        2000,
        ge=1,
        description="A longer query is cut to this number of characters, at the end of a word, and the answer says so.",
    )
    embed_max_texts: int = Field(
        64, ge=1, description="Maximum number of texts per request to POST /embed or POST /v1/embeddings."
    )
    embedding_queue_limit: int = Field(
        32,
        ge=0,
        description="Maximum number of queries, and separately of bulk requests, that may wait for the model. "
        "Further requests get 503 overloaded.",
    )
    max_request_bytes: int = Field(4 * 1024 * 1024, ge=1, description="Maximum size of a request body, in bytes.")
    serve_while_reembedding: bool = Field(
        True,
        description="While a course is not `done`, search the last published generation and mark the answer as stale. "
        "With false, the answer is embedding_not_ready.",
    )
    max_stale_seconds: float = Field(
        7 * 24 * 3600.0,
        ge=0,
        description="A course that is not `done` is searched for at most so many seconds after it became due. So a "
        "text that was deleted is not found for longer.",
    )
    cache_max_entries: int = Field(
        50, ge=1, description="Maximum number of open courses, and of entries in each model cache."
    )
    cache_ttl_seconds: float = Field(
        1800.0, gt=0, description="Time to live of open courses and cached queries, in seconds."
    )
