"""Settings of the embedding model and the vector store."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from models.settings import Settings


class EmbeddingSettings(Settings):
    """Which model turns text into vectors, and how."""

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
        512, ge=1, le=1024, description="Texts are cut to this many tokens, special tokens included."
    )
    embedding_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the model; auto is float16 on the GPU, on the CPU bfloat16 where the hardware "
        "has it, else float32.",
    )
    embedding_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that the GPU, or each thread on the CPU, computes at a time; usually 16384 and 1024. It "
        "bounds the memory beyond the model's own.",
    )
    embedding_query_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="Task named in the query prompt of instruction-tuned models; documents carry none.",
    )
    embedding_service_url: str | None = Field(
        None,
        description="Embedding service to ask instead of loading a model here: `course-search embedding-service`, or a "
        "text-embeddings-inference, vLLM or Infinity server.",
    )
    embedding_service_token: SecretStr | None = Field(
        None, description="Bearer token for the embedding service; for one of ours, its INTERNAL_TOKEN."
    )
    embedding_service_timeout_seconds: float = Field(
        30.0,
        gt=0,
        description="Longest wait for one answer of the embedding service; for a query it is 10 seconds at most.",
    )
