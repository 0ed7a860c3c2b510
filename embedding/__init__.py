"""Embedding models and services, and the vector store that keeps one collection per course."""
