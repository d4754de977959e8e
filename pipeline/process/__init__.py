"""What this process has: cores and memory, and what of it is in use."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath

import psutil
from dask.system import cpu_count

__all__ = [
    "available_bytes",
    "cores",
    "gpus",
    "peak_bytes",
    "reset_peak",
    "resident_bytes",
    "return_freed_memory",
    "take_gpu",
    "trim",
]

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
"""What says which GPUs a process may use, and where NVIDIA's driver lists a Linux machine's."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""Where Linux says which control groups there are, and which of them this process is in."""

OWN_STATUS = Path("/proc/self/status")
OWN_REFERENCES = Path("/proc/self/clear_refs")
"""Where Linux says what memory this process has, and is told to count its peak anew."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

TRIM_BYTES, APART_BYTES = 2**16, 2**25
"""What may be free at the end of a thread's memory, and from which size on a buffer is by itself;
the latter is the most that glibc allows."""
_PEAK_ANEW = "5"  # proc_pid_clear_refs(5)

_peaks: dict[str, int] = {}
_peaks_lock = threading.Lock()


def cores() -> int:
    """Give the processor cores this process may use: its affinity's, cgroups' or SLURM task's."""
    return max(min([int(cpu_count()), *_cgroup_cores(), *_slurm_cores()]), 1)


def available_bytes() -> int:
    """Give the memory this process may use: the machine's, its cgroups' or its SLURM job's."""
    return min([int(psutil.virtual_memory().total), *_cgroup_limits(), *_slurm_limits()])


def gpus() -> list[str]:
    """Give the NVIDIA GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get(VISIBLE_VARIABLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(n) for n in range(len([*NVIDIA_GPUS.iterdir()] if NVIDIA_GPUS.is_dir() else []))]


def take_gpu(number: int) -> None:
    """Use one of the GPUs alone from now on: workers of one machine take them in turn.

    Before CUDA is loaded, which looks at its environment once.
    """
    if there := gpus():
        os.environ[VISIBLE_VARIABLE] = there[number % len(there)]


def resident_bytes() -> int:
    """Give the memory in use, freed memory that the C library keeps not counted."""
    trim()
    return int(psutil.Process().memory_info().rss)


def trim() -> None:
    """Give the system what is free in any thread's memory, now; without glibc do nothing.

    For after something large that will not be asked for again.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def reset_peak(name: str = "") -> None:
    """Count the peak of this process anew, for whoever asks `peak_bytes` by that name.

    Several may be counted at once: there is one peak to a process, and what it was so far is
    noted for the others before it is taken back.
    """
    with _peaks_lock:
        so_far = _peak()
        for other, before in _peaks.items():
            _peaks[other] = max(before, so_far)
        try:
            OWN_REFERENCES.write_text(_PEAK_ANEW)
        except OSError:
            # Elsewhere than on Linux, and where a container forbids it: since it began, then.
            _peaks[name] = so_far
        else:
            _peaks[name] = 0


def peak_bytes(name: str = "") -> int:
    """Give the most memory this process had since `reset_peak` was called by that name.

    Since it began where the system cannot count anew, or where nobody called it: a worker that
    was started meanwhile.
    """
    with _peaks_lock:
        return max(_peaks.pop(name, 0), _peak())


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", _read(OWN_STATUS))
    if found:
        return int(found[1]) * 2**10
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":
        return int(memory.peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 2**10


def return_freed_memory() -> None:
    """Have the C library give freed memory back to the system, from now on.

    glibc raises its threshold for that with every large buffer freed, and then keeps up to
    hundreds of megabytes of blocks that are long done. But not each buffer by itself, which is
    what a fixed threshold of trimming means by default: what is asked for anew is cleared and
    paged in anew, a sixth of the time of a cheap model. So a thread's buffers lie together, and
    what is free at their end goes back. Workers are told the same through their environment.
    Elsewhere than on glibc nothing is done.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, APART_BYTES)


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # macOS, Windows, musl
        return None


def _cgroup_limits() -> Iterator[int]:
    """Give the limits of memory of the cgroups this process is in, and of those they are in.

    Above ``memory.high`` nothing is killed, but everything is slowed down until it is below.
    """
    for group, version in _cgroups("memory"):
        for name in ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high"):
            text = _read(group / name)
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
    """Give what SLURM granted this job on this node; it need not enforce it by a cgroup.

    A job asked for memory in one of three ways; sbatch(1) has the variables, in MiB.
    """
    for granted, of in (("NODE", None), ("CPU", "CPUS"), ("GPU", "GPUS")):
        size = _whole(f"SLURM_MEM_PER_{granted}")
        count = 1 if of is None else _whole(f"SLURM_{of}_ON_NODE") or 1
        if size:  # 0 is all there is
            yield size * count * 2**20


def _slurm_cores() -> Iterator[int]:
    """Give what SLURM granted this task, or this job on this node; it need not enforce it."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if count := _whole(name):
            yield count


def _whole(variable: str) -> int:
    """Give the whole number an environment variable holds; 0 where it holds none."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else 0
