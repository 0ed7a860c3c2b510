"""A store of snapshots in an empty directory."""

from pathlib import Path

import pytest

from retrieval.snapshots.store import SnapshotSettings, SnapshotStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def store(root: Path) -> SnapshotStore:
    return SnapshotStore(SnapshotSettings(snapshot_dir=root))
