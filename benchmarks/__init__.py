"""Benchmarks of the product, compared with baselines on the same machine."""
