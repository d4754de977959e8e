"""One run at a time writes to a results directory: who it is, and when it no longer counts.

A lease is a file that its holder renews every few seconds. It is free for others once its holder
has given it up; once its process is seen to be gone, which on the same machine is at once; or
once it has not been renewed for a minute, as the one who waits counts it. Stamps by the clock only
shorten the waiting, so that a clock that is wrong or goes backwards ends no run, and locks nobody
out. Shards of one run hold a lease each, side by side.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.books import swaps
from pipeline.books.holder import Holder, holder_here
from pipeline.books.names import LEASE, cannot_hold, named, shards_of
from pipeline.errors import ConfigError
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.manifest.shards import Shard

__all__ = ["Clock", "Lease", "Times", "held", "lease"]

_log = logging.getLogger(__name__)

_TRIES = 5
"""Times a lease is tried for that others take in the same moment."""


@dataclass(frozen=True)
class Times:
    """How often a lease is renewed, and how long one that is not is waited for.

    One whose stamp is ``old_s`` old, by the clock of the one who waits, is waited for two
    renewals instead of ``expire_s``.
    """

    renew_s: float = 10.0
    expire_s: float = 60.0
    old_s: float = 600.0
    look_s: float = 1.0


@dataclass(frozen=True)
class Clock:
    """What time it is, which may be wrong; a time that only goes on; and waiting."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Lease:
    """A lease that is held, renewed in a thread of its own until it is given up."""

    def __init__(
        self, path: str, holder: Holder, seen: swaps.Seen, lost: Callable[[str], None], clock: Clock
    ) -> None:
        self._path, self._holder, self._seen = path, holder, seen
        self._lost, self._clock = lost, clock
        self._stop = threading.Event()
        self._told = False
        self._thread: threading.Thread | None = None

    def keep(self, every_s: float) -> None:
        """Renew it in the background."""
        self._thread = threading.Thread(
            target=self._go_on, args=(every_s,), name="pipeline-lease", daemon=True
        )
        self._thread.start()

    def give_up(self) -> None:
        """Stop renewing, and leave the directory to others."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)  # a request to a server that does not answer is not waited for
        try:
            swaps.drop(self._path, self._seen)
        except OSError as error:
            _log.info("%s: cannot be removed: %s; it expires by itself", self._path, error.strerror)

    def renew(self) -> bool:
        """Renew it once; False where another has it.

        Raises `OSError` where it cannot be written now, which loses nothing yet.
        """
        while True:
            self._holder = self._holder.renewed_at(self._clock.wall())
            done = swaps.renew(self._path, self._holder.written(), self._seen)
            if done is None:
                there = swaps.see(self._path)
                if there is not None:
                    if not self._is_ours(there):
                        return False
                    self._seen = there
                    continue
                # Somebody has removed it: whoever writes it first has it now.
                done = swaps.create(self._path, self._holder.written())
            if done is not None:
                self._seen = done
                return True

    def _is_ours(self, there: swaps.Seen) -> bool:
        holder = Holder.read(there.content)
        return holder is not None and holder.token == self._holder.token

    def _go_on(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                if not self.renew():
                    self._lost(f"{self._path}: a run {_who(self._path)}; this one stops")
                    return
                self._told = False
            except OSError as error:
                if not self._told:  # once, not every few seconds
                    _log.info("%s: cannot be renewed: %s", self._path, error.strerror)
                self._told = True


@contextmanager
def lease(
    folder: str,
    shard: Shard | None = None,
    *,
    lost: Callable[[str], None],
    times: Times | None = None,
    clock: Clock | None = None,
) -> Iterator[Lease]:
    """Hold a results directory for a ``with`` block; ``lost`` is told who has taken it.

    Where another process on this machine has it, that is said at once; where one elsewhere may
    have it, it is watched for until it renews its lease, or for `Times.expire_s`. ``lost`` is
    called in another thread, at most once. Raises `ConfigError` where another run has it, or
    nothing can be written there.
    """
    taking = _Taking(folder, shard, times or Times(), clock or Clock())
    try:
        held = taking.taken(lost)
    except OSError as error:
        raise cannot_hold(folder, error) from error
    held.keep(taking.times.renew_s)
    try:
        yield held
    finally:
        held.give_up()


@dataclass(frozen=True)
class _Taking:
    """Somebody who wants a lease."""

    folder: str
    shard: Shard | None
    times: Times
    clock: Clock

    def taken(self, lost: Callable[[str], None]) -> Lease:
        """Take the lease, once those that exclude it are seen to be dead."""
        path = join(self.folder, named(LEASE, self.shard))
        for _ in range(_TRIES):
            for other in self._others():
                self._remove_dead(other)
            holder = holder_here(self.clock.wall())
            seen = self._claimed(path, holder.written())
            # Of two that exclude each other and begin at once, each may have written its own
            # before it looked, so that both look again.
            if seen is not None and not self._others():
                return Lease(path, holder, seen, lost, self.clock)
            if seen is not None:
                swaps.drop(path, seen)
            self.clock.sleep(random.uniform(0, self.times.look_s))  # noqa: S311 - not a secret
        raise ConfigError(
            f"output.directory: {self.folder}: several runs begin there at once; start one of them"
        )

    def _others(self) -> list[str]:
        """Give the leases that exclude this one: any shard's, or the whole's and other shares'."""
        there = places.names(self.folder)
        shards = shards_of(LEASE, there)
        if self.shard is None:
            names = list(shards.values())
        else:
            names = [name for (_, count), name in shards.items() if count != self.shard[1]]
            names += [LEASE] if LEASE in there else []
        return [join(self.folder, name) for name in names]

    def _remove_dead(self, path: str) -> None:
        seen = swaps.see(path)
        dead = None if seen is None else self._dead(path, seen)
        if dead is not None:
            swaps.drop(path, dead)

    def _claimed(self, path: str, content: bytes) -> swaps.Seen | None:
        """Write the lease, or take it from a dead one; None where another was faster."""
        seen = swaps.see(path)
        dead = None if seen is None else self._dead(path, seen)
        if dead is None:
            return swaps.create(path, content)
        return swaps.take(path, content, dead)

    def _dead(self, path: str, seen: swaps.Seen) -> swaps.Seen | None:
        """Give a lease that nobody holds any more, None if it goes meanwhile; waits for that.

        Raises `ConfigError` where it is held.
        """
        holder = Holder.read(seen.content)
        if holder is not None and holder.gone:
            return seen
        age_s = self.clock.wall() - holder.renewed if holder is not None else 0.0
        if holder is not None and holder.here and 0 <= age_s < self.times.expire_s:
            raise self._busy(path, seen)
        patience_s = self.times.expire_s
        if age_s > self.times.old_s:
            patience_s = min(patience_s, 2 * self.times.renew_s)
        what = "%s: a run %s, or did: looking on for up to %.0f s"
        _log.info(what, self.folder, _said(holder), patience_s)
        since = self.clock.steady()
        while self.clock.steady() - since < patience_s:
            self.clock.sleep(self.times.look_s)
            now = swaps.see(path)
            if now is None or (holder is not None and holder.gone):
                return now
            if now != seen:
                raise self._busy(path, now)
        return seen

    def _busy(self, path: str, seen: swaps.Seen) -> ConfigError:
        name = path.rpartition("/")[2]
        shards = shards_of(LEASE, [name])
        what = "".join(f"shard {number} of {count} of " for number, count in shards)
        return ConfigError(
            f"output.directory: {self.folder}: {what}a run {_said(Holder.read(seen.content))}; "
            "wait for it, or name another output.directory"
        )


def held(folder: str, shard: Shard | None = None) -> Holder | None:
    """Give who may hold a lease now; None where nobody does, or its process has ended.

    Nothing is waited for: one elsewhere counts as long as its lease is there. Raises `OSError`
    where that cannot be read.
    """
    seen = swaps.see(join(folder, named(LEASE, shard)))
    holder = None if seen is None else Holder.read(seen.content)
    return None if holder is None or holder.gone else holder


def _who(path: str) -> str:
    seen = swaps.see(path)
    return _said(None if seen is None else Holder.read(seen.content))


def _said(holder: Holder | None) -> str:
    return "that is not named holds it" if holder is None else str(holder)
