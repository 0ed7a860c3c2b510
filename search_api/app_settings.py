"""Settings of the search app: token, limits and caches."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from models.settings import Settings, Token
from models.text import quoted
from retrieval.citations import LinkTemplate

MOST_COURSES, MOST_TEXTS = 10_000, 100_000
"""Highest values of the settings. A longer list is refused before its items are validated, which would take seconds."""
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@*\s]+")


def _checked_template(template: str) -> str:
    try:
        LinkTemplate.parse(template.strip())
    except ValueError as error:
        raise PydanticCustomError("link_template", "{reason}", {"reason": str(error)}) from error
    return template.strip()


class SearchSettings(Settings):
    """The token that guards the API, its limits, and the sizes of its caches."""

    internal_token: Token | None = Field(
        None,
        description="If set, requests must send it in the header X-Internal-Token or as a bearer token, except for "
        "health probes, the API documentation and the files of the search page.",
    )
    internal_token_old: Token | None = Field(
        None,
        description="A second token that is accepted as well, so that INTERNAL_TOKEN can be changed before all callers "
        "have the new one.",
    )
    cors_origins: str | None = Field(
        None,
        description="Origins of pages on other servers that may call the app from a browser, separated by commas, like "
        "https://course.example; * for all. By default none may.",
    )
    search_max_top_k: int = Field(20, ge=5, description="Maximum top_k of a search; the default of a request is 5.")
    search_max_courses: int = Field(
        200,
        ge=1,
        le=MOST_COURSES,
        description="Maximum number of courses that a search of several courses may search. Their snapshots stay open: "
        "each is a mapped file with a file handle.",
    )
    search_max_query_chars: int = Field(
        2000,
        ge=1,
        description="A longer query is cut to this number of characters, at the end of a word, and the answer says so.",
    )
    embed_max_texts: int = Field(
        64, ge=1, le=MOST_TEXTS, description="Maximum number of texts per request to POST /embed."
    )
    openai_max_texts: int = Field(
        2048,
        ge=1,
        le=MOST_TEXTS,
        description="Maximum number of texts per request to POST /v1/embeddings and of documents to POST /v1/rerank. "
        "Clients in OpenAI's format send up to 2048; LangChain sends 1000.",
    )
    embedding_queue_limit: int = Field(
        32,
        ge=0,
        description="Maximum number of queries, and separately of bulk requests, that may wait for the model. "
        "Further requests get 503 overloaded.",
    )
    mcp_allowed_hosts: str = Field(
        "localhost",
        description="Host names under which agents may address /mcp, besides IP addresses and localhost, with commas "
        "between them; * for all. Without INTERNAL_TOKEN they apply to the whole API where it is reached by a loopback "
        "address, so that no page of the internet calls it through a browser of this machine.",
    )
    max_request_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1,
        description="Maximum size of a request body, in bytes. The default has room for OPENAI_MAX_TEXTS texts of 2000 "
        "Chinese characters in UTF-8.",
    )
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
    citation_url_template: Annotated[str, AfterValidator(_checked_template)] | None = Field(
        None,
        description="Links of citations, instead of the URLs in the metadata of the chunks; for example "
        "https://school.example/courses/{course_id}/lectures/{lecture_id}. A placeholder is a field of the citation or "
        "of the metadata; without a value for it, there is no link.",
    )
    dagster_url: str | None = Field(
        None,
        description="Where people reach the Dagster UI, for links to the runs of a course, like "
        "https://dagster.example. `course-search up` sets it.",
    )
    log_queries: bool = Field(
        False,
        description="Whether the log of the app may show what was searched. Without it, no line contains a query.",
    )
    query_log: bool = Field(
        False,
        description="Record what is asked, and feedback, in the catalogue: text, course, time, number of results, "
        "relevance and unknown words, and never who asked. `course-search questions` shows it.",
    )
    query_log_days: int = Field(
        90, ge=1, le=3650, description="Recorded questions and feedback are deleted after this number of days."
    )
    cache_max_entries: int = Field(
        50, ge=1, description="Maximum number of open courses, and of entries in each model cache."
    )
    cache_ttl_seconds: float = Field(
        1800.0, gt=0, description="Time to live of open courses and cached queries, in seconds."
    )

    @field_validator("internal_token_old")
    @classmethod
    def _require_new_token(cls, old: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Without a new token, the app would be open to all callers, or the old one would stay for ever."""
        if old is not None and info.data.get("internal_token", old) is None:
            raise PydanticCustomError("token", "it needs INTERNAL_TOKEN, the token that replaces it")
        return old

    @field_validator("cors_origins")
    @classmethod
    def _require_origins(cls, origins: str | None) -> str | None:
        for origin in _split(origins):
            if not _ORIGIN.fullmatch(origin):
                raise PydanticCustomError(
                    "origin",
                    "{origin} is not an origin: it consists of scheme, host and port, like https://course.example",
                    {"origin": quoted(origin)},
                )
        return origins

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of CORS_ORIGINS, as browsers write them; empty if there are none."""
        return _split(self.cors_origins)

    @property
    def tokens(self) -> tuple[SecretStr, ...]:
        """The tokens that requests may send; empty if they need none."""
        return tuple(token for token in (self.internal_token, self.internal_token_old) if token is not None)


def _split(origins: str | None) -> tuple[str, ...]:
    return tuple(part.strip().lower().removesuffix("/") for part in (origins or "").split(",") if part.strip())
