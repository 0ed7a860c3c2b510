"""What the programs of the product tell about themselves: logs and traces."""

PACKAGES = ("cli", "documents", "embedding", "maintenance", "models", "orchestration", "retrieval", "search_api")
"""The packages of the product. Their errors and log lines contain no text of a chunk and no query."""
