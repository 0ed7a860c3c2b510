"""Keyword search with BM25: text analysis, the keyword index of a course, and its files."""
