"""The number of CPUs that this process may use, which is often smaller than the number of the machine's cores."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """The number of CPUs of this process: its affinity, limited by the CPU quota of its control groups.

    With more threads than that, the kernel suspends all of them for a part of each period.

    Args:
        root: The directory that contains `proc` and `sys`.

    Returns:
        At least 1; a fractional quota is rounded up.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas in CPUs of the process's control groups and their parents, in both versions of control groups."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (mounted / "cpu", mounted / controllers) if controllers else (mounted, mounted / "unified"):
            group = mount / path.lstrip("/")
            # In a container the path may be that of the host; then only the mount itself exists.
            for directory in (group, *group.parents):
                if not directory.is_relative_to(mount):
                    break
                if controllers:
                    limit = f"{_text(directory / 'cpu.cfs_quota_us')} {_text(directory / 'cpu.cfs_period_us')}"
                else:
                    limit = _text(directory / "cpu.max")
                quota, _, period = " ".join(limit.split()).partition(" ")
                if quota.isdecimal() and period.isdecimal() and int(period):
                    yield int(quota) / int(period)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
