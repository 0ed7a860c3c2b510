"""Settings of the embedding model and of the embedding service."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.context import ContextFields
from models.settings import Settings, Token


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
        description="Timeout of a request to the embedding service, in seconds; for queries at most 10 seconds.",
    )

    @property
    def context(self) -> ContextFields:
        """The fields of CONTEXT_FIELDS."""
        return ContextFields.parse(self.context_fields)
