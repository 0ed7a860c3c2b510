"""Settings of retrieval."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.settings import Settings


class KeywordSettings(Settings):
    """Where the keyword indexes lie."""

    keyword_index_dir: Path = Field(
        Path("./data/keywords"),
        description="Directory of the keyword indexes; one that is missing is made from its collection.",
    )


class RerankerSettings(Settings):
    """Which model reads query and passage together, how many passages of a search, and for how long."""

    reranker_model_path: Path = Field(
        Path("./models/qwen3-reranker-0.6b"), description="Hugging Face directory with the rerank model's files."
    )
    reranker_device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="As EMBEDDING_DEVICE, for the rerank model."
    )
    reranker_max_tokens: int = Field(
        1024,
        ge=256,
        le=8192,
        description="Prompt, query and passage together; a passage is cut at its end to fit in.",
    )
    reranker_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="What the rerank model is told a passage should do for a query.",
    )
    reranker_timeout_seconds: float = Field(
        2.0, gt=0, description="Longest wait of a search for the rerank model; then its order is that of fusion."
    )
    reranker_top_n: int = Field(30, ge=1, description="How many passages of a search, best first, are reranked.")
