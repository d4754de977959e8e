"""What this process has: cores and memory, and what of it is in use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath

import psutil
from dask.system import cpu_count

__all__ = ["WORKER_VARIABLE", "available_bytes", "cores", "resident_bytes", "return_freed_memory"]

WORKER_VARIABLE = "WSI_PIPELINE_WORKER"
"""Which of the workers of its machine a process is, from 0."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""Where Linux says which control groups there are, and which of them this process is in."""

_M_TRIM_THRESHOLD = -1  # malloc.h


def cores() -> int:
    """Give the processor cores this process may use: its affinity's, cgroups' or SLURM task's."""
    return max(min([int(cpu_count()), *_cgroup_cores(), *_slurm_cores()]), 1)


def available_bytes() -> int:
    """Give the memory this process may use: the machine's, its cgroups' or its SLURM job's."""
    return min([int(psutil.virtual_memory().total), *_cgroup_limits(), *_slurm_limits()])


def resident_bytes() -> int:
    """Give the memory in use, freed memory that the C library keeps not counted."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def return_freed_memory() -> None:
    """Have the C library give large freed buffers back to the system at once, from now on.

    glibc raises its threshold for that with every large buffer freed, and then keeps up to
    hundreds of megabytes of blocks that are long done. Dask sets the same for its workers,
    through the environment; this is for the process that is running already. Elsewhere than
    on glibc nothing is done.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * 2**10)


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # macOS, Windows, musl
        return None


def _cgroup_limits() -> Iterator[int]:
    """Give the limits of memory of the cgroups this process is in, and of those they are in."""
    for group, version in _cgroups("memory"):
        text = _read(group / ("memory.limit_in_bytes" if version == 1 else "memory.max"))
        if text.isdigit():  # cgroup 2 says max where there is none
            yield int(text)


def _cgroup_cores() -> Iterator[int]:
    """Give the cores' worth of time per time of the same cgroups, rounded up.

    dask looks at a process's own cgroup only, and in version 1 at the outermost.
    """
    for group, version in _cgroups("cpu"):
        if version == 1:
            quota = _read(group / "cpu.cfs_quota_us")
            period = _read(group / "cpu.cfs_period_us")
        else:
            quota, _, period = _read(group / "cpu.max").partition(" ")
        # -1 or max where there is none.
        if quota.isdigit() and period.isdigit() and int(period):
            yield max(ceil(int(quota) / int(period)), 1)


def _cgroups(controller: str) -> Iterator[tuple[Path, int]]:
    """Give the folder and version of each cgroup around this process that has a controller."""
    if not OWN_CGROUPS.is_file():
        return
    for line in OWN_CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path)
        for group in (own, *own.parents):
            inner = str(group).lstrip("/")
            if not controllers:
                yield CGROUPS / inner, 2
            elif controller in controllers.split(","):
                # Mounted under one controller's name, or under all of them: cpu,cpuacct.
                for mounted in dict.fromkeys((controller, controllers)):
                    yield CGROUPS / mounted / inner, 1


def _read(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""


def _slurm_limits() -> Iterator[int]:
    """Give what SLURM granted this job on this node; it need not enforce it by a cgroup."""
    per_node, per_cpu = os.environ.get("SLURM_MEM_PER_NODE"), os.environ.get("SLURM_MEM_PER_CPU")
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "1")
    if per_node and per_node.isdigit() and int(per_node):
        yield int(per_node) * 2**20
    if per_cpu and per_cpu.isdigit() and cpus.isdigit():
        yield int(per_cpu) * int(cpus) * 2**20


def _slurm_cores() -> Iterator[int]:
    """Give what SLURM granted this task, or this job on this node; it need not enforce it."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        text = os.environ.get(name, "")
        if text.isdigit() and int(text):
            yield int(text)
