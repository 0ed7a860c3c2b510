"""Chroma: the connection to its server, one collection per course, indexing and backup archives."""

import os
from pathlib import Path

try:
    Path.home()
except RuntimeError:
    # The user id has no name, as in some containers. Chroma's package asks for the directory when it is imported, and
    # uses it for nothing that this product does.
    os.environ["HOME"] = "/nonexistent"
