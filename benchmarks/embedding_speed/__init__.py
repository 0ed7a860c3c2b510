"""Speed and memory of the embedding engine, compared with sentence-transformers."""
