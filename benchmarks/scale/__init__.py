"""Benchmark of many courses and of a very large one: `make bench-scale`."""
