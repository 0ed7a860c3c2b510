"""Reranking of search results by a model."""
