"""Whether workers come, answer, are like this machine, and see what it sees."""

from __future__ import annotations

import ipaddress
import platform
import time
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import psutil

from pipeline.doctor.case import Case
from pipeline.doctor.directory import probe_name, probing
from pipeline.doctor.findings import Finding, told
from pipeline.doctor.inputs import held_against, samples
from pipeline.doctor.installed import OURS, main_packages
from pipeline.doctor.team import Answers, Team
from pipeline.doctor.there import exchanged, forgotten, opened_model, read_samples, seen_by
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.workers import worker_in_force
from pipeline.files import places
from pipeline.files.urls import is_url, join, shown

__all__ = [
    "clocks",
    "dashboard",
    "differing",
    "memory_there",
    "model_there",
    "round_trips",
    "shared_files",
    "slide_there",
    "versions_there",
    "workers",
]

_SLOW_S = 1.0
"""A round trip that is as long as many a block takes."""

_SKEW_S = 1.0
"""Clocks that differ by more mix up the lines of a log, and what a lease's stamp says."""

_PATIENCE_S = 10.0
"""How long a file may take to be seen elsewhere: network disks look again every few seconds."""

_OPEN_EVERYWHERE = ("", "0.0.0.0", "::", "*")  # noqa: S104 - it is looked for


def dashboard(case: Case) -> Iterator[Finding]:
    """Say who can reach the dashboard, which asks nobody for a password."""
    where = case.config.cluster.dashboard
    if where == "none":
        yield Finding.ok("switched off")
        return
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    if host == "localhost" or _is_loopback(host):
        yield Finding.ok(f"{where}: this machine alone can reach it")
        return
    machines = _own_addresses() if host in _OPEN_EVERYWHERE else [host]
    yield Finding.warning(
        f"{where}: everybody whose network reaches {' or '.join(told(machines))}, port {port}, "
        "sees names of slides, code and logs there, without a password",
        f"set cluster.dashboard to 127.0.0.1:{port}, and reach it through "
        f"ssh -L {port}:127.0.0.1:{port}",
    )


def workers(case: Case) -> Iterator[Finding]:
    """Start what the run file says, or find it, and wait for workers."""
    team, kind = case.team, case.config.cluster.kind
    found = list(team.workers.values())
    threads = sorted({each["nthreads"] for each in found})
    limits = sorted({round((each["memory_limit"] or 0) / 2**20) for each in found})
    yield Finding.ok(
        f"{kind}: {len(found)} on {', '.join(told(team.hosts))}, with {_range(threads)} "
        f"{'thread' if threads == [1] else 'threads'} and "
        f"{'any memory' if limits == [0] else f'{_range(limits)} MiB'} each",
        workers=len(found),
        hosts=team.hosts,
    )


def round_trips(case: Case) -> Iterator[Finding]:
    """Ask every worker what time it is, and take the time."""
    team, answers = case.team, case.team.ask(time.time)
    yield from _refusals(team, answers, "cannot be asked", "look at its log, or restart it")
    if answers.refused:
        return
    each = {team.called(address): found.seconds for address, found in team.pulses.items()}
    slowest = max(each, key=lambda name: each[name])
    quickest_ms, slowest_ms = min(each.values()) * 1e3, each[slowest] * 1e3
    said = f"{_all(answers)} answered, in {quickest_ms:.2g} to {slowest_ms:.2g} ms"
    if each[slowest] > _SLOW_S:
        yield Finding.warning(
            f"{said}; {slowest} is the slowest",
            "look at the network, and at what else runs there",
            seconds=each,
        )
    else:
        yield Finding.ok(said, seconds=each)


def clocks(case: Case) -> Iterator[Finding]:
    """Hold the workers' clocks against this one."""
    team = case.team
    ahead = {team.called(address): found.ahead_s for address, found in team.pulses.items()}
    # Half of a round trip may have been all in one direction.
    wrong = {
        team.called(address): found.ahead_s
        for address, found in team.pulses.items()
        if abs(found.ahead_s) - found.seconds / 2 > _SKEW_S
    }
    for name, seconds in sorted(wrong.items()):
        way = "ahead of" if seconds > 0 else "behind"
        yield Finding.warning(
            f"{name}: its clock is {abs(seconds):.1f} s {way} this machine's",
            "have both set by a time server (chronyc tracking says how far off each is)",
            ahead_s=seconds,
        )
    if not wrong:
        most = max(ahead.values(), key=abs)
        yield Finding.ok(f"within {abs(most) * 1e3:.2g} ms of this machine's", ahead_s=ahead)


def versions_there(case: Case) -> Iterator[Finding]:
    """Hold Python and packages of workers and scheduler against those here."""
    team = case.team
    found = team.client.get_versions(check=False, packages=list(main_packages()))
    here = found["client"]["packages"]
    others = {team.called(name): each["packages"] for name, each in found["workers"].items()}
    relevant = {"python", "dask", "distributed", "msgpack", "cloudpickle", "toolz", "tornado"}
    scheduler = found["scheduler"]["packages"]
    others["the scheduler"] = {name: scheduler.get(name) for name in relevant}
    unlike = list(differing(here, others))
    yield from unlike
    if not unlike:
        yield Finding.ok(
            f"Python {platform.python_version()} and {len(here) - 1} packages are the same "
            "everywhere",
            packages=len(here) - 1,
        )


def differing(here: dict[str, Any], others: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Say which versions, by package, differ from those here, on whom."""
    for name in sorted(here):
        found: dict[str, list[str]] = {}
        for where, theirs in others.items():
            if name in theirs and theirs[name] != here[name]:
                found.setdefault(str(theirs[name]), []).append(where)
        for version, places_ in found.items():
            absent = version == "None"
            make = Finding.problem if absent and name == OURS else Finding.warning
            yield make(
                f"{name} is {here[name] or 'not installed'} here and "
                f"{'not installed' if absent else version} on {', '.join(told(places_))}",
                "install the same versions everywhere: one environment that all machines share, "
                "or one lock file",
                package=name,
            )


def shared_files(case: Case) -> Iterator[Finding]:
    """Write a file here that workers must see, and have each write one that is looked for here."""
    team, folder = case.team, case.folder
    ours, content = probe_name(), uuid.uuid4().bytes
    own = {address: probe_name() for address in team.workers}
    patience_s = min(_PATIENCE_S, team.timeout_s / 2)
    with probing(folder):
        places.write_whole(join(folder, ours), content)
        try:
            there = team.ask(
                exchanged, lambda address: (folder, (ours, own[address]), content, patience_s)
            )
            until = time.monotonic() + patience_s
            here = {
                address: seen_by(until, join(folder, own[address]), content)
                for address, wrong in there.given.items()
                if not wrong
            }
        finally:
            team.ask(forgotten, lambda address: (folder, own[address]))
            places.remove(join(folder, ours))
    unseen = {address: wrong for address, wrong in there.given.items() if wrong}
    lost = {address: wrong for address, wrong in here.items() if wrong}
    yield from _refusals(team, there, "cannot look for files", "look at its log")
    remedy = f"have {shown(folder)} on a file system that all machines share, or in a bucket"
    for each in told([f"{team.called(name)}: {wrong}" for name, wrong in unseen.items()]):
        yield Finding.problem(f"a file written here is not seen by {each}", remedy)
    for each in told([f"{team.called(name)}: {wrong}" for name, wrong in lost.items()]):
        yield Finding.problem(f"a file is not seen here that was written by {each}", remedy)
    if not (there.refused or unseen or lost):
        yield Finding.ok(
            f"{shown(folder)}: a file written here is seen by {_all(there)}, and theirs are seen "
            "here"
        )


def slide_there(case: Case) -> Iterator[Finding]:
    """Have every worker read what was read here of the first slide."""
    team, wanted = case.team, samples(case.slide)
    answers = team.ask(read_samples, lambda _address: (wanted,))
    where = "in a bucket" if is_url(case.first.path) else "on a file system that all machines share"
    yield from _refusals(team, answers, "cannot read the slide", f"have slides {where}")
    if not answers.refused:
        name = PurePosixPath(case.slide.path).name
        yield Finding.ok(f"{_all(answers)} read the samples of {name}")


def model_there(case: Case) -> Iterator[Finding]:
    """Have every worker open the model, and say on which provider."""
    team, asked = case.team, case.config.inference.provider
    answers = team.ask(opened_model, lambda _address: (case.recipe.model.ref.members,))
    yield from _refusals(
        team, answers, "cannot open the model", "install there what is installed here"
    )
    if not answers.refused:
        got = sorted({each for given in answers.given.values() for each in given})
        yield Finding.ok(f"{_all(answers)} can run it: asked for {asked}, got {', '.join(got)}")


def memory_there(case: Case) -> Iterator[Finding]:
    """Hold the predicted peak against the limit of the workers that were found."""
    worker = worker_in_force(scheduler_in_force())
    yield from held_against(case, worker, len(case.team.workers))


def _refusals(team: Team, answers: Answers, what: str, remedy: str) -> Iterator[Finding]:
    """Say of workers that gave no answer why; those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for address, why in answers.refused.items():
        reasons.setdefault(why, []).append(team.called(address))
    for why, names in reasons.items():
        yield Finding.problem(f"{', '.join(told(names))} {what}: {why}", remedy)


def _all(answers: Answers) -> str:
    count = len(answers.given)
    return "the one worker" if count == 1 else f"{count} of {count} workers"


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_addresses() -> list[str]:
    found = [each.address for many in psutil.net_if_addrs().values() for each in many]
    return [address for address in found if _is_elsewhere(address)] or ["this machine"]


def _is_elsewhere(address: str) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:  # of hardware
        return False
    return not known.is_loopback and not known.is_link_local
