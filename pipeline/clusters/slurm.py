"""What SLURM says of its jobs: which are there, and how others ended.

By squeue and scontrol; see their manuals, section JOB STATE CODES.
"""

from __future__ import annotations

import asyncio
import getpass
import re
from dataclasses import dataclass

from pipeline.errors import ClusterError

__all__ = ["ENDING", "NEVER", "WAITING", "End", "how_it_ended", "jobs_of_user"]

WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD"})
_RUNNING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"})
ENDING = "COMPLETING"

NEVER = frozenset(
    {
        *("PartitionTimeLimit", "PartitionNodeLimit", "PartitionInactive", "BadConstraints"),
        *("AccountNotAllowed", "InvalidAccount", "InvalidQOS", "QOSNotAllowed"),
        *("JobHeldAdmin", "JobHeldUser", "DependencyNeverSatisfied"),
    }
)
"""Reasons for which a pending job will not start unless somebody changes something."""

_CAUSES = {
    "TIMEOUT": ("walltime", "reached its time limit"),
    "DEADLINE": ("walltime", "reached its deadline"),
    "CANCELLED": ("cancelled", "was cancelled"),
    "PREEMPTED": ("preempted", "was preempted"),
    "NODE_FAIL": ("node lost", "lost its node"),
    "BOOT_FAIL": ("node lost", "lost its node, which did not start"),
    "OUT_OF_MEMORY": ("out of memory", "took more memory than it was granted"),
    "COMPLETED": ("drained", "ended, its workers being done"),
    "FAILED": ("failed", "failed"),
}
"""State in which a job ended -> what to count it as, and what to say."""

BLAMELESS = frozenset({"walltime", "cancelled", "preempted", "node lost", "drained"})
"""Causes that are no fault of what a worker was doing."""


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended: ``cause`` to count by, ``text`` for people."""

    job_id: str
    cause: str
    text: str

    @property
    def blameless(self) -> bool:
        """Whether it was no fault of what its workers were doing."""
        return self.cause in BLAMELESS


async def jobs_of_user() -> dict[str, tuple[str, str]]:
    """Give state and reason of every job of this user that is queued or running, by its id.

    Raises `ClusterError` where SLURM does not answer: nothing is known then.
    """
    said = await _called("squeue", "-h", "-u", getpass.getuser(), "-o", "%i|%T|%r")
    found = (line.split("|", 2) for line in said.splitlines() if line.count("|") >= 2)
    jobs = {job: (state, reason) for job, state, reason in found}
    return {job: told for job, told in jobs.items() if told[0] in {*WAITING, *_RUNNING, ENDING}}


async def how_it_ended(job_id: str) -> End:
    """Say how a job ended that is no longer there."""
    try:
        said = await _called("scontrol", "show", "job", job_id, "-o")
    except ClusterError:
        return await _accounted(job_id)
    return _end(job_id, _field(said, "JobState"), _field(said, "ExitCode"))


async def _accounted(job_id: str) -> End:
    """Say what accounting knows: scontrol forgets a job minutes after its end."""
    try:
        said = await _called("sacct", "-n", "-X", "-P", "-o", "State,ExitCode", "-j", job_id)
    except ClusterError:  # many sites have no accounting
        said = ""
    state, _, code = said.strip().partition("|")
    return _end(job_id, state.partition(" ")[0], code)


def _end(job_id: str, state: str, code: str) -> End:
    cause, text = _CAUSES.get(state, ("unknown", f"is gone ({state or 'SLURM forgot it'})"))
    if cause == "failed" and code:
        # exit code:signal; one that ended by a signal of its own has 0:9
        text = f"failed with exit code {code}"
    return End(job_id, cause, text)


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text)
    return found[1] if found else ""


async def _called(*command: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise ClusterError(
            f"{command[0]}: not found; run this where SLURM's commands are, on a login node"
        ) from error
    out, err = await process.communicate()
    if process.returncode:
        raise ClusterError(f"{command[0]}: {' '.join(err.decode(errors='replace').split())}")
    return out.decode(errors="replace")
