"""What workers are: asked of those that run, and told by a run file for those that will."""

from __future__ import annotations

import os

import pytest
from distributed import Client

from pipeline.clusters import local, workforce
from pipeline.clusters.workforce import workforce_of
from pipeline.config import ClusterConfig
from pipeline.execute.peaks import begin_peak, end_peak
from pipeline.execute.schedulers import Local, Synchronous, scheduler_in_force
from pipeline.execute.workers import worker_in_force
from pipeline.plan.memory import BASE_BYTES, LATER_BYTES
from pipeline.process import resident_bytes

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 cores and 16 GiB."""
    for module in (local, workforce):
        monkeypatch.setattr(module, "cores", lambda: 8)
        monkeypatch.setattr(module, "available_bytes", lambda: 16 * GIB)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("settings", "processes", "threads", "limit", "session_threads"),
    [
        ({}, 8, 1, 2 * GIB, 1),
        ({"workers": 2}, 2, 1, 8 * GIB, 4),
        ({"workers": 2, "threads_per_worker": 2}, 2, 2, 8 * GIB, 2),
        ({"workers": 2, "memory_limit": "3 GiB"}, 2, 1, 3 * GIB, 4),
        ({"kind": "threads"}, 1, 8, 16 * GIB, 1),
        ({"kind": "threads", "workers": 3}, 1, 3, 16 * GIB, 1),
    ],
)
def test_a_run_file_says_what_its_workers_will_be(
    settings: dict[str, object], processes: int, threads: int, limit: int, session_threads: int
) -> None:
    force = workforce_of(ClusterConfig.model_validate(settings))
    assert (force.processes, force.session_threads) == (processes, session_threads)
    assert (force.worker.threads, force.worker.limit_bytes) == (threads, limit)
    assert force.blocks_at_once == processes * threads


@pytest.mark.usefixtures("machine")
def test_a_model_that_needs_more_than_a_core_s_memory_gets_fewer_workers() -> None:
    settings = ClusterConfig()
    assert workforce_of(settings, 3 * GIB).processes == 5
    assert workforce_of(settings, 3 * GIB).session_threads == 1
    assert workforce_of(settings, GIB).processes == 8
    assert workforce_of(settings, 100 * GIB).processes == 1
    assert workforce_of(ClusterConfig(workers=8), 3 * GIB).processes == 8


@pytest.mark.usefixtures("machine")
def test_there_is_a_worker_for_each_gpu_with_threads_to_keep_it_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    two = workforce_of(ClusterConfig(), gpu=True)
    assert (two.processes, two.worker.threads, two.session_threads) == (2, 4, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workforce_of(ClusterConfig(), gpu=True).processes == 1


def test_threads_of_this_process_begin_with_what_it_has_in_use() -> None:
    before = resident_bytes()
    for scheduler in (Local(2), Synchronous()):
        worker = worker_in_force(scheduler)
        assert worker.threads == scheduler.threads
        assert worker.base_bytes == pytest.approx(before + LATER_BYTES, rel=0.1)


def test_a_cluster_says_what_its_workers_are_and_a_scheduler_that_is_gone_does_not(
    client: Client,
) -> None:
    scheduler = scheduler_in_force()
    worker = worker_in_force(scheduler)
    assert worker.threads == 1
    assert worker.limit_bytes == scheduler.limit_bytes
    assert worker.base_bytes == BASE_BYTES
    address = client.scheduler_info()["address"]
    there = workforce_of(ClusterConfig.model_validate({"kind": "address", "address": address}))
    assert (there.processes, there.worker) == (2, worker)
    gone = workforce_of(
        ClusterConfig.model_validate({"kind": "address", "address": "not-an-address"})
    )
    assert gone.worker.limit_bytes is None
    assert "not-an-address" in gone.unknown


def held(size: int) -> int:
    return len(bytes(bytearray(b"1") * size)) and os.getpid()


def test_the_peak_of_a_slide_is_that_of_its_largest_worker(client: Client) -> None:
    scheduler = scheduler_in_force()
    begin_peak(scheduler, "a")
    worker = client.submit(held, 96 * 2**20).result()
    peak = end_peak(scheduler, "a")
    assert worker != os.getpid()
    assert peak > 96 * 2**20 + 50 * 2**20
    begin_peak(scheduler, "b")
    assert end_peak(scheduler, "b") < peak - 60 * 2**20
