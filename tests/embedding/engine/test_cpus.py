"""The number of threads follows the CPUs that a container or a scheduler grants, not the cores of the machine."""

import os
from pathlib import Path

import pytest

from embedding.engine import compute_threads
from embedding.engine.compute_threads import Workers, limit_torch_threads
from embedding.engine.cpus import available_cpus

CORES = 16
V1 = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n"


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


def machine(root: Path, groups: str) -> Path:
    """A directory with the file that lists the control groups of the process."""
    path = root / "proc/self/cgroup"
    path.parent.mkdir(parents=True)
    path.write_text(groups)
    return root


@pytest.mark.parametrize(
    ("limit", "cpus"), [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", CORES)]
)
def test_quota_of_a_container(tmp_path: Path, limit: str, cpus: int) -> None:
    root = machine(tmp_path, "0::/\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu.max").write_text(f"{limit}\n")
    assert available_cpus(root) == cpus


def test_smallest_quota_of_the_group_and_its_parents_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/system.slice/search.service\n")
    service = root / "sys/fs/cgroup/system.slice/search.service"
    service.mkdir(parents=True)
    (service / "cpu.max").write_text("800000 100000\n")
    (service.parent / "cpu.max").write_text("300000 100000\n")
    assert available_cpus(root) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["", "docker/1"])
@pytest.mark.parametrize(("quota", "cpus"), [("250000", 3), ("-1", CORES)])
def test_quota_of_version_1(tmp_path: Path, mount: str, group: str, quota: str, cpus: int) -> None:
    """A container often sees the path of the host's group, but only the files of its own group, at the mount."""
    root = machine(tmp_path, V1)
    directory = root / "sys/fs/cgroup" / mount / group
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (directory / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cpus(root) == cpus


def test_affinity_counts_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cpus(tmp_path) == 2


def test_torch_uses_no_more_threads_than_there_are_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(compute_threads, "available_cpus", lambda: 2)
    try:
        limit_torch_threads()
        assert torch.get_num_threads() == 2
        assert Workers(1, "other").run(torch.get_num_threads) == 2
        torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 does
        limit_torch_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
