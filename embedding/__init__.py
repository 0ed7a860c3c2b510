"""Embedding models and services, and the vector store that keeps one collection per course."""

import os

# By default, a thread of torch that waits for another one keeps its core busy for milliseconds. If other processes
# need the cores, such as the pipeline beside a search app, each of the hundred waits in a query may take as long.
# torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
