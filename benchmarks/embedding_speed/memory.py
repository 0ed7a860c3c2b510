"""Measurement of the memory of bulk embedding beyond the weights. `main` starts it as a separate process."""

import argparse
import json
from pathlib import Path

from benchmarks.embedding_speed.random_qwen3 import passages
from benchmarks.resident_memory import ResidentMemory
from embedding.embedder import LocalEmbedder
from embedding.model_settings import EmbeddingSettings


def main() -> None:
    """Embed texts with a model, and print the growth of the process in MB as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=int)
    parser.add_argument("batch_tokens", type=int)
    arguments = parser.parse_args()
    embedder = LocalEmbedder.load(
        EmbeddingSettings(
            embedding_model_path=arguments.model,
            embedding_device="cpu",
            embedding_batch_tokens=arguments.batch_tokens,
        )
    )
    texts = passages(arguments.texts)
    with ResidentMemory() as memory:
        embedder.embed_documents(texts)
    print(json.dumps({"growth_mb": round((memory.peak - memory.before) / 2**20, 1)}))  # noqa: T201 - read by the parent process


if __name__ == "__main__":
    main()
