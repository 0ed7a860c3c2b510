"""Files of this product on disk, of any kind."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Sync a rename in the directory to disk, so that it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
