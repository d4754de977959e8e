"""Keeping jobs going: who is lost is replaced, and why it was lost is known.

dask-jobqueue submits jobs and forgets them: one that is cancelled or reaches its time limit is not
replaced, and where jobs have several processes an adaptive cluster waits for them for ever. So
SLURM is asked every few seconds which of the jobs are there, and the cluster is told of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dask

from pipeline.clusters.slurm import ENDING, NEVER, WAITING, End, how_it_ended, jobs_of_user
from pipeline.errors import ClusterError
from pipeline.execute.schedulers import POLL_S

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["JobKeeper"]

_log = logging.getLogger(__name__)

EVERY = "wsi-pipeline.jobs-watched-every"
"""Where dask's config says how often SLURM is asked, in seconds."""

EVERY_S = 10.0
"""What it is where dask's config does not say: SLURM's answers cost its controller something."""

SILENT_S = 180.0
"""How long a job may run without any of the workers that it had."""

KNOWN_AFTER_S = 60.0
"""How long SLURM may take to say how a job ended: KillWait, and some."""

_MOST_FRUITLESS = 3
"""Jobs that may end one after the other without having brought a worker."""

_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 600.0
"""How long no other is submitted after one of those: twice as long after each."""


class JobKeeper:
    """Keeps a `dask_jobqueue.SLURMCluster`'s jobs going; see `pipeline.execute.manned.Keeper`."""

    def __init__(self, cluster: Any, tell: Callable[[str], None], logs: str) -> None:
        self._cluster, self._tell, self._logs = cluster, tell, logs
        self._jobs: dict[str, str] = {}
        self._states: dict[str, tuple[str, str]] = {}
        self._ends: dict[str, End] = {}
        self._job_of: dict[str, str] = {}
        self._silent: dict[str, float] = {}
        self._ended: Counter[str] = Counter()
        self._fruitless = self._rounds = 0
        self._not_before = 0.0
        self._told = ""
        self._task: asyncio.Task[None] | None = None
        self.hopeless = ""

    @property
    def pending(self) -> str:
        """See `pipeline.execute.manned.Keeper`."""
        waiting = Counter(why for state, why in self._states.values() if state in WAITING)
        return ", ".join(f"{count} of its jobs pending: {why}" for why, count in waiting.items())

    @property
    def queued(self) -> bool:
        """See `pipeline.execute.manned.Keeper`."""
        waiting = [why for state, why in self._states.values() if state in WAITING]
        return not all(why in NEVER for why in waiting)

    @property
    def ended(self) -> Mapping[str, int]:
        """See `pipeline.execute.manned.Keeper`."""
        return self._ended

    def death_of(self, address: str) -> End | None:
        """See `pipeline.execute.manned.Keeper`; waits until SLURM has said what is going on."""
        job_id, asked = self._job_of.get(address, ""), self._rounds
        deadline = time.monotonic() + KNOWN_AFTER_S
        while time.monotonic() < deadline and job_id not in self._ends:
            ending = self._states.get(job_id, ("", ""))[0] == ENDING
            # The round that is under way may have asked before it happened.
            if not job_id or (self._rounds >= asked + 2 and not ending):
                return None
            time.sleep(POLL_S)
        return self._ends.get(job_id)

    def start(self) -> None:
        """Begin to watch."""
        self._cluster.sync(self._start)

    def stop(self) -> None:
        """Watch no longer: what ends from now on was meant to."""
        self._cluster.sync(self._stop)

    async def _start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        every_s = float(dask.config.get(EVERY, EVERY_S))
        while True:
            try:
                await self._round()
            except ClusterError as error:  # SLURM's controller is busy, or restarted
                _log.warning("%s", error)
            self._rounds += 1
            await asyncio.sleep(every_s)

    async def _round(self) -> None:
        self._note_jobs()
        known = dict(self._jobs)
        there = await jobs_of_user()
        self._states = {job_id: there[job_id] for job_id in known if job_id in there}
        self._note_workers()
        for job_id, name in known.items():
            if job_id in there:
                await self._check_answers(job_id, name, there[job_id][0])
            else:
                await self._bury(job_id, name)
        missing = set(self._cluster.worker_spec) - set(self._cluster.workers)
        if missing and not self.hopeless and time.monotonic() >= self._not_before:
            await self._submit()
        self._tell_of_none()

    def _tell_of_none(self) -> None:
        """Say that no worker is left, once for every reason that jobs wait for."""
        none = self._job_of and not self._cluster.scheduler_info["workers"]
        text = f"no worker is there ({self.pending})" if none and self.pending else ""
        if text and text != self._told:
            self._say(text)
        self._told = text

    def _note_jobs(self) -> None:
        for name, job in self._cluster.workers.items():
            if job.job_id:
                self._jobs[job.job_id] = str(name)

    def _note_workers(self) -> None:
        """Learn which worker is of which job, by its name, which is the job's or begins with it."""
        running = {name: job_id for job_id, name in self._jobs.items()}
        for address, worker in self._cluster.scheduler_info["workers"].items():
            name = str(worker["name"])
            job_id = running.get(name) or running.get(name.rpartition("-")[0])
            if job_id and address not in self._job_of:
                self._job_of[address] = job_id
                self._fruitless = 0

    def _workers_of(self, job_id: str) -> Collection[str]:
        present = self._cluster.scheduler_info["workers"]
        return [a for a, job in self._job_of.items() if job == job_id and a in present]

    async def _check_answers(self, job_id: str, name: str, state: str) -> None:
        """Give a job up that runs on without the workers it had: its node hangs, or is cut off."""
        had = job_id in self._job_of.values()
        if state != "RUNNING" or not had or self._workers_of(job_id):
            self._silent.pop(job_id, None)
            return
        since = self._silent.setdefault(job_id, time.monotonic())
        if time.monotonic() - since > SILENT_S and name in self._cluster.workers:
            text = "was given up: its workers do not answer any more"
            self._ends[job_id] = End(job_id, "node lost", text)
            await self._cluster.workers[name].close()

    async def _bury(self, job_id: str, name: str) -> None:
        del self._jobs[job_id]
        self._silent.pop(job_id, None)
        job = self._cluster.workers.get(name)
        if job is not None and job.job_id == job_id:
            self._forget(name)
        if name not in self._cluster.worker_spec:  # an adaptive cluster wanted it no longer
            return
        end = self._ends.get(job_id) or await how_it_ended(job_id)
        self._ends[job_id] = end
        self._ended[end.cause] += 1
        if job_id in self._job_of.values() or end.cause in ("cancelled", "preempted"):
            self._say(f"job {job_id} {end.text}; another is submitted in its place")
        else:
            self._fruitless_one(f"job {job_id} {end.text}, and had brought no worker")

    def _fruitless_one(self, text: str) -> None:
        self._fruitless += 1
        # Where workers are there it may be one node that is broken: less and less often, then.
        self._not_before = time.monotonic() + min(_PAUSE_S * 2**self._fruitless, _LONGEST_PAUSE_S)
        many = self._fruitless >= max(_MOST_FRUITLESS, len(self._cluster.worker_spec))
        if many and not self._cluster.scheduler_info["workers"]:
            self.hopeless = (
                f"{text}, as {self._fruitless - 1} before it; look at its log "
                f"({self._logs}), mend it, then run again to continue"
            )
        self._say(text)

    async def _submit(self) -> None:
        try:
            await self._cluster._correct_state()  # noqa: SLF001 - all that replaces what is lost
        except (RuntimeError, OSError) as error:
            for name, job in list(self._cluster.workers.items()):
                if not job.job_id:
                    self._forget(name)
            said = str(error).rpartition("stderr:")[2] or str(error)
            self._fruitless_one(f"sbatch refused a job: {' '.join(said.split())}")
        self._note_jobs()

    def _forget(self, name: Any) -> None:
        """Have the cluster know a job no longer, not even as one that it has to close."""
        self._cluster._created.discard(self._cluster.workers.pop(name))  # noqa: SLF001

    def _say(self, text: str) -> None:
        _log.info("%s", text)
        self._tell(text)
