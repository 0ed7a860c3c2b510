"""Routes that trigger embeddings and report the embedding state of courses."""
