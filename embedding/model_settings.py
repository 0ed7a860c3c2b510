"""Settings of the embedding model and of the embedding service."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from models.context import ContextFields
from models.settings import Settings, Token


def _parsed_input_types(types: str) -> tuple[str, str]:
    query, document = (name.strip() for name in types.split(","))
    if not (query and document):
        raise ValueError
    return query, document


def _checked_input_types(types: str) -> str:
    try:
        _parsed_input_types(types)
    except ValueError:
        raise PydanticCustomError(
            "input_types", "it must be two values with a comma between them, for queries and documents: query,passage"
        ) from None
    return types


class EmbeddingSettings(Settings):
    """The embedding model, its limits, and an optional service that runs it."""

    embedding_model_name: str = Field(
        "qwen3-embedding-0.6b", description="Name reported by the API and recorded with every collection."
    )
    embedding_model_path: Path = Field(
        Path("./models/qwen3-embedding-0.6b"), description="Hugging Face directory with the model's files."
    )
    embedding_device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="auto and cuda try the GPU first and fall back to the CPU with a warning."
    )
    embedding_max_tokens: int = Field(
        512,
        ge=1,
        le=1024,
        description="Longer texts are truncated. The limit counts tokens, including the prompt and special tokens.",
    )
    context_fields: str = Field(
        "lecture_title,section_title",
        description="Fields of a chunk's metadata, separated by commas, whose titles are embedded and indexed with its "
        "text, from the general to the specific; none for no field. The search app does not need it.",
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the model; auto is float16 on a GPU, and on a CPU bfloat16 for Qwen3 if the "
        "hardware supports it, else float32.",
    )
    embedding_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens per batch, on the GPU or on each CPU thread; by default 16384 on a GPU and 1024 on a CPU. "
        "It limits the memory used in addition to the weights.",
    )
    embedding_query_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="Task description in the query prompt of instruction-tuned models. It does not affect documents.",
    )
    embedding_query_prompt: str | None = Field(
        None,
        description='Text before every query, like "query: " for E5; none for no text. By default the one in the '
        "model's files or published for Qwen3. In .env it needs quotes, or a space at its end is lost.",
    )
    embedding_document_prompt: str | None = Field(
        None,
        description='The same for documents, like "passage: " for E5. By default the one in the model\'s files. A '
        "change embeds the courses again.",
    )
    embedding_service_url: str | None = Field(
        None,
        description="URL of an embedding service that is used instead of a local model: `course-search "
        "embedding-service`, or a text-embeddings-inference, vLLM or Infinity server.",
    )
    embedding_service_token: Token | None = Field(
        None,
        description="Bearer token for the embedding service; for `course-search embedding-service`, its "
        "INTERNAL_TOKEN.",
    )
    embedding_service_timeout_seconds: float = Field(
        30.0,
        gt=0,
        description="Timeout of a request to the embedding service, in seconds. A search waits for the vectors of its "
        "queries for at most 10 seconds.",
    )
    embedding_service_input_types: Annotated[str, AfterValidator(_checked_input_types)] | None = Field(
        None,
        description="For a server of another kind that adds the prompts itself: the values of the field input_type, "
        "for queries and for documents, like query,passage. By default the field is not sent. A change embeds the "
        "courses again.",
    )

    @property
    def input_types(self) -> tuple[str, str] | None:
        """The two values of EMBEDDING_SERVICE_INPUT_TYPES, for queries and for documents."""
        types = self.embedding_service_input_types
        return _parsed_input_types(types) if types else None

    @property
    def context(self) -> ContextFields:
        """The fields of CONTEXT_FIELDS."""
        return ContextFields.parse(self.context_fields)
