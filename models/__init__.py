"""The catalogue: stage one's tables, the embedding state of each course, and all SQL."""
