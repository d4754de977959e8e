"""A network of hosts on this machine: namespaces with an address each, and a bridge between them.

Their processes see the machine's files and nothing of its network, which sees nothing of them. A
namespace is held by a process that is a child of the tests: it is gone when they are, also where
they are killed. As root only, and not in every container; see `why_not`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Host", "network", "why_not"]

_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""What ends with the process that started it."""

_PROGRAMS = ("ip", "unshare", "nsenter", "setpriv")


def why_not() -> str | None:
    """Say why there can be no network of hosts here; None where there can."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install iproute2 util-linux"
    try:
        with network("a"):
            return None
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stderr or "").split())
        return f"network namespaces are not permitted: {' '.join(error.cmd)}: {said}"


@dataclass
class Host:
    """One of the hosts: its address, and what runs there."""

    name: str
    address: str
    _holder: subprocess.Popen[bytes]
    _switch: subprocess.Popen[bytes]
    _running: list[subprocess.Popen[Any]] = field(default_factory=list)

    def start(
        self,
        *command: str | os.PathLike[str],
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a process on this host, in a group of its own; ``options`` are those of Popen."""
        process = subprocess.Popen(
            [*_WITH_US, *_inside(self._holder), *command],
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            **options,
        )
        self._running.append(process)
        return process

    def cut(self) -> None:
        """Pull the plug: what is sent to this host or from it is lost, and nobody is told."""
        _said([*_inside(self._switch), "ip", "link", "set", "dev", self.name, "down"])

    def join(self) -> None:
        """Put the plug in again."""
        _said([*_inside(self._switch), "ip", "link", "set", "dev", self.name, "up"])

    def stop(self) -> None:
        """Kill what runs here, children too."""
        while self._running:
            process = self._running.pop()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def network(*names: str) -> Iterator[Sequence[Host]]:
    """Give hosts of these names, that can reach each other, for a ``with`` block.

    Raises `subprocess.CalledProcessError` where that is not permitted.
    """
    with ExitStack() as opened:
        switch = opened.enter_context(_namespace())
        _said([*_inside(switch), "ip", "link", "add", "name", "bridge", "type", "bridge"])
        _said([*_inside(switch), "ip", "link", "set", "bridge", "up"])
        hosts = []
        for number, name in enumerate(names, 1):
            holder = opened.enter_context(_namespace())
            hosts.append(Host(name, f"10.77.0.{number}", holder, switch))
            _plug_in(hosts[-1], switch, holder)
            opened.callback(hosts[-1].stop)
        yield hosts


def _plug_in(host: Host, switch: subprocess.Popen[bytes], holder: subprocess.Popen[bytes]) -> None:
    """Lay a cable from the bridge to a host, and give it its address."""
    in_switch, in_host = [*_inside(switch), "ip"], [*_inside(holder), "ip"]
    cable = ["type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)]
    _said([*in_switch, "link", "add", "name", host.name, *cable])
    _said([*in_switch, "link", "set", "dev", host.name, "master", "bridge", "up"])
    _said([*in_host, "address", "add", f"{host.address}/24", "dev", "eth0"])
    _said([*in_host, "link", "set", "lo", "up"])
    _said([*in_host, "link", "set", "eth0", "up"])
    # Who looks for the address to the outside finds this one.
    _said([*in_host, "route", "add", "default", "dev", "eth0"])


@contextmanager
def _namespace() -> Iterator[subprocess.Popen[bytes]]:
    """Give the process that holds a network of its own."""
    command = [*_WITH_US, "unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            said = holder.stderr.read().decode()
            raise subprocess.CalledProcessError(holder.wait(), command, stderr=said)
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def _inside(holder: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
