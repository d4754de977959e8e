"""The workers of a run, started as the run would, and asked with a time limit.

They are asked by tasks, as blocks are: whatever keeps blocks from a worker keeps these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import median
from typing import Any

from pipeline.clusters import cluster_of
from pipeline.clusters.share import set_of_distributed
from pipeline.config import RunConfig
from pipeline.errors import ClusterError

__all__ = ["Answers", "Pulse", "Team", "started"]

_URGENT = 1000
"""A priority: a worker that is busy answers before its next block."""

_SETTLING_S = 2.0
"""Workers of a queue come one after the other: how long none may have come to take them as all."""

_AT_HAND = ("threads", "local", "address", "scheduler_file")
"""Kinds whose workers are all there when they are there."""

_LEAST_S = 0.01

_numbers = count()


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a worker answers: after so many seconds, and how far its clock is ahead of ours.

    The clock is known to ``seconds / 2``.
    """

    seconds: float
    ahead_s: float


@dataclass(frozen=True, slots=True)
class Answers:
    """What workers have answered, by their addresses, and why others have not."""

    given: Mapping[str, Any]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Team:
    """The workers of a cluster, through its client."""

    client: Any
    timeout_s: float

    @cached_property
    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows of each worker, by address."""
        found: dict[str, dict[str, Any]] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    @property
    def hosts(self) -> list[str]:
        """The machines that they are on."""
        return sorted({str(each["host"]) for each in self.workers.values()})

    def called(self, address: str) -> str:
        """Give what a worker is called: its name if that says more, and where it is."""
        name = str(self.workers[address].get("name", address))
        return address if name == address else f"{name} at {address}"

    def ask(
        self, function: Callable[..., Any], of_each: Callable[[str], Sequence[Any]] | None = None
    ) -> Answers:
        """Call a function on every worker at once, ``of_each`` gives its arguments for a worker."""
        give = of_each or (lambda _address: ())
        waiting = {
            address: self._sent(address, function, give(address)) for address in self.workers
        }
        until = time.monotonic() + self.timeout_s
        given: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for address, future in waiting.items():
            why = self._waited(future, until)
            if why is None:
                given[address] = future.result()
            else:
                refused[address] = why
        return Answers(given, refused)

    @cached_property
    def pulses(self) -> Mapping[str, Pulse]:
        """The pulse of each worker, one after the other; they must all have answered once."""
        return {address: self._pulse(address) for address in self.workers}

    def _pulse(self, address: str) -> Pulse:
        tries = []
        for _ in range(3):  # the quickest knows the clock best
            # Nothing of ours: where it is not installed, `versions` says so.
            sent_wall, sent = time.time(), time.perf_counter()
            try:
                theirs = self._sent(address, time.time, ()).result(timeout=self.timeout_s)
            except TimeoutError as error:
                raise ClusterError(
                    f"{self.called(address)}: it answered once, and then not in {self.timeout_s:g} "
                    "s; look at its log, or restart it"
                ) from error
            seconds = time.perf_counter() - sent
            tries.append(Pulse(seconds, theirs - (sent_wall + seconds / 2)))
        best = min(tries, key=lambda each: each.seconds)
        return Pulse(median(each.seconds for each in tries), best.ahead_s)

    def _sent(self, address: str, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        return self.client.submit(
            function,
            *arguments,
            key=f"doctor-{function.__name__}-{next(_numbers)}",
            workers=[address],
            allow_other_workers=False,
            priority=_URGENT,
            pure=False,
        )

    def _waited(self, future: Any, until: float) -> str | None:
        """Wait for an answer; give why there is none."""
        try:
            error = future.exception(timeout=max(until - time.monotonic(), _LEAST_S))
        except TimeoutError:
            future.cancel()
            return f"no answer in {self.timeout_s:g} s (--timeout waits longer)"
        except CancelledError:
            return "the worker is gone"
        return None if error is None else f"{type(error).__name__}: {error}"


def started(config: RunConfig, timeout_s: float, opened: ExitStack) -> Team:
    """Start or find the workers of a run file and wait for them; ``opened`` ends them.

    Raises `ClusterError` where none comes in time.
    """
    kind, until = config.cluster.kind, time.monotonic() + timeout_s
    with set_of_distributed({"distributed.comm.timeouts.connect": f"{timeout_s}s"}):
        client: Any = opened.enter_context(
            cluster_of(config.cluster, home=config.output.directory, most_s=timeout_s)
        )
    team = Team(client, timeout_s)
    if kind not in _AT_HAND:
        _settle(client, until)
    return team


def _settle(client: Any, until: float) -> None:
    """Wait until no more workers come."""
    known, since = -1, time.monotonic()
    while time.monotonic() < min(since + _SETTLING_S, until):
        now = len(client.scheduler_info(n_workers=-1)["workers"])
        if now != known:
            known, since = now, time.monotonic()
        time.sleep(_SETTLING_S / 10)
