"""A real Slurm on this machine, below a folder: munged, slurmctld and two nodes.

No systemd, no cgroups, no accounting. Nothing below /etc, /run or /var is read or written, and
every daemon is a child of the tests: it ends with them, also where they are killed. As root only,
whom slurmd needs. Jobs that use more memory than they asked for are killed; use `Slurm.end_soon`
for a walltime, which Slurm counts in minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

NEEDED = "WSI_PIPELINE_NEED_SLURM"
"""Where this variable is set a Slurm that is not there is a failure, and no test is skipped."""

PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
NODES, CPUS, MEMORY_MIB = ("n1", "n2"), 8, 8192
"""What is there by Slurm's books; the machine may have less."""

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_STARTS = 3
_SECONDS_TO_START, _SECONDS_TO_STOP = 20.0, 20.0

_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdUser=root
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=512
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
PriorityType=priority/basic
ReturnToService=2
JobRequeue=0
MinJobAge=600
KillWait=10
WaitTime=0
SlurmctldTimeout=30
SlurmdTimeout=60
MessageTimeout=30
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
"""

T = TypeVar("T")


def why_not() -> str | None:
    """Say why no Slurm can be started here; None where it can."""
    programs = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")
    missing = [name for name in programs if shutil.which(name, path=_PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install {PACKAGES}"
    return None if os.geteuid() == 0 else "slurmd needs root"


def wait_until(
    look: Callable[[], T], seconds: float = 60.0, *, every: float = 0.1, why: object = None
) -> T:
    """Give the first true thing that ``look`` gives; `TimeoutError` with its last one.

    ``why`` is said then: what is waited for, or what gives that.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            said = why() if callable(why) else why or look
            raise TimeoutError(f"{said}: still {found!r} after {seconds:g} s")
        time.sleep(every)
    return found


@dataclass(frozen=True)
class Slurm:
    """A running cluster; its commands, and what they say of jobs."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to use it; jobs inherit it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, given: str | None = None) -> str:
        """Give what a command prints; what it complains of is in the error where it fails."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment, "PATH": _PATH},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def submit(self, *arguments: str, script: str | None = None) -> int:
        """Submit a script, by its file or its text, and give the job's id."""
        return int(self.run("sbatch", "--parsable", *arguments, given=script))

    def jobs(self) -> list[Job]:
        """Give the jobs that wait or run, what has just ended left out."""
        lines = self.run("squeue", "-h", "-a", "-r", "-o", "%A|%T|%j|%k").splitlines()
        found = (line.split("|", 3) for line in lines)
        return [Job(int(number), *rest) for number, *rest in found]

    def shown(self, job: int) -> dict[str, str]:
        """Give what Slurm knows of a job, also of one that ended: JobState, Reason, NodeList..."""
        text = self.run("scontrol", "show", "job", "-o", str(job))
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def state(self, job: int) -> str:
        """Give ``RUNNING``, ``COMPLETED``, ``TIMEOUT``... of a job."""
        return self.shown(job)["JobState"]

    def ended(self, job: int, seconds: float = 60.0) -> str:
        """Wait for a job to end and give its state."""

        def look() -> str:
            state = self.state(job)
            return "" if state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING") else state

        return wait_until(look, seconds, why=f"job {job}")

    def cancel(self, *jobs: int) -> None:
        """Cancel jobs; without any all of them."""
        self.run("scancel", *(map(str, jobs) if jobs else ("--user=root",)))

    def end_soon(self, job: int, seconds: int = 5) -> None:
        """Let a job's walltime be over soon; Slurm notices within half a minute."""
        self.run("scontrol", "update", f"JobId={job}", f"EndTime=now+{seconds}")

    @property
    def finished(self) -> str:
        """The text of the completion log: a line for each job that ended."""
        file = self.folder / "jobcomp.txt"
        return file.read_text() if file.exists() else ""

    def drain(self) -> None:
        """Cancel whatever there is and wait until it is gone: no step outlives its node."""
        if self.jobs():
            self.cancel()
            wait_until(lambda: not self.jobs(), _SECONDS_TO_STOP, why="jobs are cancelled")


@dataclass(frozen=True)
class Job:
    """A job as ``squeue`` shows it; it has the comment it was submitted with."""

    id: int
    state: str
    name: str
    comment: str = "(null)"


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Slurm]:
    """Give a cluster whose nodes are idle, for a ``with`` block; see `why_not` first."""
    for attempt in range(_STARTS):
        with ExitStack() as opened:
            daemons = _Daemons(folder / str(attempt))
            opened.callback(daemons.stop)
            try:
                slurm = daemons.start()
            except TimeoutError:  # another process may have taken a port that was free
                if attempt < _STARTS - 1:
                    continue
                raise
            opened.callback(slurm.drain)
            yield slurm
            return


@dataclass
class _Daemons:
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> Slurm:
        self._write()
        munge = self.folder / "munge"
        files = [f"--{name}-file={munge}.{name}" for name in ("key", "pid", "log", "seed")]
        self._begin("munged", "--foreground", "--force", f"--socket={munge}.socket", *files)
        wait_until(
            Path(f"{munge}.socket").exists, _SECONDS_TO_START, every=0.02, why=f"{munge}.log"
        )
        self._begin("slurmctld", "-D")
        for node in NODES:
            self._begin("slurmd", "-D", "-N", node)
        slurm = Slurm(self.folder)
        wait_until(lambda: _idle(slurm), _SECONDS_TO_START, every=0.05, why=f"{self.folder}/*.log")
        return slurm

    def stop(self) -> None:
        """End the daemons, the one that was started first last; whatever they do they end."""
        while self.running:
            daemon = self.running.pop()
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(_SECONDS_TO_STOP)
            daemon.kill()
            daemon.wait()

    def _begin(self, name: str, *arguments: str) -> None:
        conf = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _PATH}
        command = ["setpriv", "--pdeathsig", "TERM", name, *arguments]
        with (self.folder / "daemons.out").open("ab") as out:
            self.running.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **conf},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,  # Ctrl-C is for the tests
                )
            )

    def _write(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        port, *ports = _free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={own} "
            f"CPUs={CPUS} RealMemory={MEMORY_MIB} State=UNKNOWN"
            for node, own in zip(NODES, ports, strict=True)
        ]
        conf = _CONF.format(host=host, port=port, folder=self.folder, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(conf)
        # Must be there, or one below /etc would be looked for.
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")


def _idle(slurm: Slurm) -> bool:
    with suppress(AssertionError):  # nobody answers yet
        said = slurm.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return sorted(said) == [f"{node} idle" for node in NODES]
    return False


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as opened:
        taken = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]
