"""The cores and the memory that are really this process's."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import process
from pipeline.process import (
    available_bytes,
    cores,
    peak_bytes,
    reset_peak,
    resident_bytes,
    return_freed_memory,
)

MIB, GIB = 2**20, 2**30
UNLIMITED = 0x7FFFFFFFFFFFF000  # what cgroup 1 says
SLURM = (
    *("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"),
    *("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE"),
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB and 64 cores whose control groups are under the path that is given."""
    memory = psutil.virtual_memory()._replace(total=64 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(process, "cpu_count", lambda: 64)
    monkeypatch.setattr(process, "CGROUPS", tmp_path)
    monkeypatch.setattr(process, "OWN_CGROUPS", tmp_path / "own")
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def limit(machine: Path, group: str, text: str, name: str = "memory.max") -> None:
    (machine / group).mkdir(parents=True, exist_ok=True)
    (machine / group / name).write_text(f"{text}\n")


def test_without_any_limit_it_is_the_machines(machine: Path) -> None:
    assert available_bytes() == 64 * GIB


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"": str(8 * GIB)}, 8),
        ({"": "max", "system.slice/job": str(3 * GIB)}, 3),
        ({"system.slice": str(2 * GIB), "system.slice/job": str(3 * GIB)}, 2),
        ({"system.slice/job": "max"}, 64),
        ({"system.slice/other": str(1 * GIB)}, 64),
    ],
)
def test_the_least_limit_of_the_cgroups_around_a_process_counts(
    groups: dict[str, str], expected: int, machine: Path
) -> None:
    (machine / "own").write_text("0::/system.slice/job\n")
    for group, text in groups.items():
        limit(machine, group, text)
    assert available_bytes() == expected * GIB


def test_what_is_slowed_down_above_a_cgroups_high_mark_counts_as_its_limit(machine: Path) -> None:
    (machine / "own").write_text("0::/system.slice/job\n")
    limit(machine, "system.slice/job", str(6 * GIB))
    limit(machine, "system.slice", str(4 * GIB), "memory.high")
    assert available_bytes() == 4 * GIB
    limit(machine, "system.slice", "max", "memory.high")
    assert available_bytes() == 6 * GIB


def test_cgroups_of_version_one_count_too(machine: Path) -> None:
    (machine / "own").write_text("3:cpu:/a\n5:memory,pids:/slurm/job_1\n")
    limit(machine, "memory", str(UNLIMITED), "memory.limit_in_bytes")
    assert available_bytes() == 64 * GIB
    limit(machine, "memory/slurm/job_1", str(5 * GIB), "memory.limit_in_bytes")
    assert available_bytes() == 5 * GIB


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, 4),
        ({"SLURM_MEM_PER_NODE": "0"}, 64),  # all there is
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "6"}, 6),
        ({"SLURM_MEM_PER_GPU": "8192", "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_ON_NODE": "6"}, 16),
        ({"SLURM_MEM_PER_GPU": "8192"}, 8),
    ],
)
def test_what_slurm_granted_counts(
    granted: dict[str, str], expected: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in granted.items():
        monkeypatch.setenv(name, text)
    assert available_bytes() == expected * GIB


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"": "max 100000"}, 64),
        ({"system.slice/job": "400000 100000"}, 4),
        ({"system.slice/job": "150000 100000"}, 2),
        ({"system.slice/job": "1000 100000"}, 1),
        ({"system.slice": "200000 100000", "system.slice/job": "max 100000"}, 2),
        ({"system.slice/other": "200000 100000"}, 64),
    ],
)
def test_cores_are_what_the_cgroups_around_a_process_leave(
    groups: dict[str, str], expected: int, machine: Path
) -> None:
    (machine / "own").write_text("0::/system.slice/job\n")
    for group, text in groups.items():
        limit(machine, group, text, "cpu.max")
    assert cores() == expected


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_cores_of_cgroups_of_version_one_count_too(machine: Path, mounted: str) -> None:
    (machine / "own").write_text("5:memory:/a\n3:cpu,cpuacct:/slurm/job_1\n")
    limit(machine, mounted, "-1", "cpu.cfs_quota_us")
    limit(machine, mounted, "100000", "cpu.cfs_period_us")
    assert cores() == 64
    limit(machine, f"{mounted}/slurm/job_1", "300000", "cpu.cfs_quota_us")
    limit(machine, f"{mounted}/slurm/job_1", "100000", "cpu.cfs_period_us")
    assert cores() == 3


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ({"SLURM_CPUS_ON_NODE": "8"}, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}, 2),
        ({"SLURM_CPUS_PER_TASK": "128"}, 64),
        ({"SLURM_CPUS_PER_TASK": ""}, 64),
    ],
)
def test_cores_are_what_slurm_granted(
    granted: dict[str, str], expected: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in granted.items():
        monkeypatch.setenv(name, text)
    assert cores() == expected


def test_cores_are_those_of_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


def test_memory_in_use_rises_and_falls_with_what_is_held() -> None:
    return_freed_memory()
    before = resident_bytes()
    held = [np.ones(MIB, np.uint8) for _ in range(64)]
    assert resident_bytes() - before > 60 * MIB
    held.clear()
    assert resident_bytes() - before < 8 * MIB


def test_a_peak_is_counted_from_when_it_was_reset_for_each_who_asks() -> None:
    # In a process of its own: what an earlier test left sampling stacks here (Dask's profiler)
    # holds a frame, and what is in it, a moment longer than the frame itself lasts.
    code = """
import numpy as np
from pipeline.process import peak_bytes, reset_peak, resident_bytes, return_freed_memory
return_freed_memory()
resident = resident_bytes()
reset_peak("whole")
np.ones(64 * 2**20, np.uint8)  # gone at once
reset_peak("part")
small = np.ones(16 * 2**20, np.uint8)
print(peak_bytes("part") - resident, peak_bytes("whole") - resident)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    part, whole = map(int, done.stdout.split())
    assert 60 * MIB < whole < 90 * MIB
    assert 12 * MIB < part < 40 * MIB


def test_a_peak_that_cannot_be_counted_anew_is_that_since_the_process_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.ones(32 * MIB, np.uint8)
    before = peak_bytes()
    monkeypatch.setattr(process, "OWN_REFERENCES", tmp_path / "none" / "clear_refs")
    reset_peak("a")
    assert peak_bytes("a") >= before
    # And where there is no /proc: what the C library counted.
    monkeypatch.setattr(process, "OWN_STATUS", tmp_path / "none")
    assert peak_bytes() == pytest.approx(before, rel=0.2)


def test_without_glibc_memory_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    return_freed_memory()
    assert resident_bytes() > MIB


@pytest.mark.parametrize(
    ("visible", "listed", "worker", "left"),
    [
        (None, 0, 5, None),  # no GPU is known: nothing is hidden, and the runtime says what it has
        (None, 4, 1, "1"),
        (None, 4, 5, "1"),
        ("2,3", 4, 3, "3"),  # of those that a job was given
        ("GPU-8c7f", 4, 3, "GPU-8c7f"),
        ("", 4, 3, ""),
    ],
)
def test_each_worker_has_a_gpu_of_its_own_in_turn(
    visible: str | None,
    listed: int,
    worker: int,
    left: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(listed):
        (tmp_path / "gpus" / f"0000:{number:02}:00.0").mkdir(parents=True)
    monkeypatch.setattr(process, "NVIDIA_GPUS", tmp_path / "gpus")
    monkeypatch.setenv(process.VISIBLE_VARIABLE, visible or "")
    if visible is None:
        monkeypatch.delenv(process.VISIBLE_VARIABLE)
    process.take_gpu(worker)
    assert os.environ.get(process.VISIBLE_VARIABLE) == left
    os.environ.pop(process.VISIBLE_VARIABLE, None)
