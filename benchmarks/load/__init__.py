"""Benchmark: the product under load, above its capacity, and while what it depends on fails (`docs/load.md`)."""
