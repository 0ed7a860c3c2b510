"""Chroma: the connection to its server, one collection per course, indexing and backup archives."""
