"""Leases: held by one run at a time, free at once after a kill, whatever the clock says."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.books import swaps
from pipeline.books.holder import Holder, holder_here
from pipeline.books.lease import Clock, Lease, Times, held, lease
from pipeline.books.names import LEASE, named
from pipeline.errors import ConfigError
from pipeline.files import places
from pipeline.files.urls import is_url, join

SOON = Times(renew_s=0.02, expire_s=60, look_s=0.01)
PATIENCE_S = 60


@dataclass
class FakeTime:
    """A time that passes only where somebody waits, and what happens meanwhile."""

    wall: float = 1.8e9
    steady: float = 0.0
    meanwhile: Callable[[], object] = field(default=lambda: None)

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds
        self.meanwhile()


@pytest.fixture(params=["folder", "seaweed", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A results directory that is not there yet, on a disk or in a real bucket."""
    if request.param == "folder":
        return str(tmp_path / "results")
    for name, value in request.getfixturevalue(request.param).environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://test/{tmp_path.name}-{request.param}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    """A results directory on a disk, in which no rest of a lease is left."""
    path = tmp_path / "results"
    yield str(path)
    assert not [each.name for each in path.iterdir() if "lease.json." in each.name]


def elsewhere(at: float) -> Holder:
    return replace(holder_here(at), host="elsewhere", user="ada", pid=17)


def write(folder: str, holder: Holder, name: str = LEASE) -> None:
    places.write_whole(join(folder, name), holder.written())


def read(folder: str, name: str = LEASE) -> Holder:
    holder = Holder.read(places.read(join(folder, name)))
    assert holder is not None
    return holder


def there(folder: str) -> list[str]:
    """Give the names in a folder; SeaweedFS goes on to list an empty one, as a name of nothing."""
    return [name for name in places.names(folder) if name]


def nobody(text: str) -> None:
    pytest.fail(text)


def taken(folder: str, clock: Clock | None = None, shard: tuple[int, int] | None = None) -> None:
    with lease(folder, shard, lost=nobody, clock=clock):
        pass


def dead_process() -> Holder:
    """A holder that was on this machine: a process of this number began at another time."""
    return replace(holder_here(time.time()), born="1")


def test_a_second_run_is_refused_with_who_holds_it_and_since_when(place: str) -> None:
    with lease(place, lost=nobody):
        mine = read(place)
        expected = rf"{place}: a run by \S+ on {mine.host} \(process {mine.pid}\) holds it since 20"
        with pytest.raises(ConfigError, match=expected):
            taken(place)
        assert read(place).token == mine.token
        assert held(place) == mine
    assert there(place) == []
    assert held(place) is None
    taken(place)


def test_a_lease_in_a_bucket_or_on_a_disk_is_taken_from_a_process_that_is_gone(place: str) -> None:
    write(place, dead_process())
    assert held(place) is None
    with lease(place, lost=nobody):
        assert read(place).born != "1"
    assert there(place) == []


def test_it_is_renewed_while_it_is_held_and_no_longer(folder: str) -> None:
    with lease(folder, lost=nobody, times=SOON):
        first = read(folder)
        wait_until(lambda: read(folder).count > first.count + 1)
        assert read(folder).token == first.token
    assert there(folder) == []
    assert "pipeline-lease" not in [thread.name for thread in threading.enumerate()]


def wait_until(true: Callable[[], bool]) -> None:
    patient_until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < patient_until
        time.sleep(0.01)


def test_the_lease_of_a_killed_process_is_taken_at_once(folder: str) -> None:
    code = (
        "import sys, time\nfrom pipeline.books.lease import lease\n"
        "with lease(sys.argv[1], lost=print):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"\(process {process.pid}\) holds it"):
            taken(folder)
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # it is ending, and then a zombie until somebody asks for it
        time_passes = FakeTime(meanwhile=lambda: pytest.fail("nothing is to be waited for"))
        taken(folder, time_passes.clock)


def test_a_process_with_the_number_of_one_that_is_gone_holds_nothing(folder: str) -> None:
    write(folder, replace(holder_here(time.time()), born="12345"))
    taken(folder, FakeTime(meanwhile=lambda: pytest.fail("nothing is to be waited for")).clock)


def test_one_elsewhere_that_is_renewed_holds_it(folder: str) -> None:
    now = FakeTime()
    holder = elsewhere(now.wall)
    write(folder, holder)
    now.meanwhile = lambda: write(folder, holder.renewed_at(now.wall)) if now.steady >= 9 else None
    with pytest.raises(ConfigError, match=r"a run by ada on elsewhere \(process 17\) holds it"):
        taken(folder, now.clock)
    assert now.steady == 9


@pytest.mark.parametrize(
    ("renewed_s_ago", "waited_s"),
    [(0, 60), (300, 60), (-3600, 60), (601, 20), (10**6, 20)],
)
def test_one_elsewhere_that_is_not_renewed_expires(
    folder: str, renewed_s_ago: float, waited_s: float
) -> None:
    now = FakeTime()
    write(folder, elsewhere(now.wall - renewed_s_ago))
    taken(folder, now.clock)
    assert now.steady == waited_s


@pytest.mark.parametrize("passed_s", [61, -3600])
def test_a_process_here_that_renews_no_more_does_not_lock_out_for_ever(
    folder: str, passed_s: float
) -> None:
    now = FakeTime()
    write(folder, holder_here(now.wall))
    with pytest.raises(ConfigError, match="holds it since"):
        taken(folder, now.clock)
    assert now.steady == 0
    now.wall += passed_s
    taken(folder, now.clock)
    assert now.steady == 60


def test_a_clock_set_back_ends_no_run_and_locks_nobody_out(folder: str) -> None:
    mine, theirs = FakeTime(), FakeTime()
    with lease(folder, lost=nobody, clock=mine.clock) as holding:
        mine.wall -= 3600
        theirs.wall = mine.wall - 3600  # even earlier
        theirs.meanwhile = holding.renew
        with pytest.raises(ConfigError, match="holds it since"):
            taken(folder, theirs.clock)
        assert holding.renew()
        assert read(folder).renewed == mine.wall
        left = read(folder)
    write(folder, replace(left, host="elsewhere"))
    theirs.meanwhile = lambda: None
    taken(folder, theirs.clock)
    assert theirs.steady <= 62


def test_what_is_no_lease_expires_too(folder: str) -> None:
    places.write_whole(join(folder, LEASE), b'{"token": ')
    now = FakeTime()
    now.meanwhile = lambda: (
        places.write_whole(join(folder, LEASE), b"[]") if now.steady == 5 else None
    )
    with pytest.raises(ConfigError, match="a run that is not named holds it; wait for it"):
        taken(folder, now.clock)
    now = FakeTime()
    taken(folder, now.clock)
    assert now.steady == 60


def test_of_several_that_race_for_a_dead_lease_one_wins(place: str) -> None:
    for _ in range(1 if is_url(place) else 10):
        write(place, dead_process())
        outcomes = race([lambda: lease(place, lost=nobody)] * 3)
        assert outcomes == ["held", "refused", "refused"]
        assert there(place) == []


def race(leases: list[Callable[[], object]]) -> list[str]:
    """Take several leases at once and hold them until all have tried; say how it went."""
    start, tried = threading.Barrier(len(leases)), threading.Barrier(len(leases))
    outcomes = []

    def try_it(each: Callable[[], object]) -> None:
        with ExitStack() as stack:
            start.wait(PATIENCE_S)
            try:
                stack.enter_context(each())  # type: ignore[arg-type]
                outcomes.append("held")
            except ConfigError:
                outcomes.append("refused")
            tried.wait(PATIENCE_S)

    threads = [threading.Thread(target=try_it, args=(each,)) for each in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return sorted(outcomes)


def test_who_moves_another_s_lease_aside_puts_it_back(folder: str) -> None:
    """What happens where a file system has no locks, and two have seen one dead lease."""
    dead, mine = dead_process(), holder_here(time.time())
    write(folder, mine)
    path = join(folder, LEASE)
    assert swaps.take(path, b"theirs", swaps.Seen(dead.written())) is None
    assert swaps.renew(path, b"theirs", swaps.Seen(dead.written())) is None
    swaps.drop(path, swaps.Seen(dead.written()))
    assert read(folder) == mine
    swaps.drop(path, swaps.Seen(mine.written()))
    assert swaps.take(path, b"theirs", swaps.Seen(mine.written())) is None
    assert there(folder) == []


def test_a_disk_without_hard_links_holds_leases_too(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with lease(folder, lost=nobody), pytest.raises(ConfigError, match="holds it since"):
        taken(folder)
    assert there(folder) == []


def test_a_run_whose_lease_was_taken_is_told_once_and_leaves_it_alone(place: str) -> None:
    told: list[str] = []
    with lease(place, lost=told.append, times=SOON):
        theirs = elsewhere(time.time())
        # An overwritten lease, as by somebody who saw it expired while this process was suspended.
        write(place, theirs)
        wait_until(lambda: bool(told))
    assert read(place) == theirs
    (text,) = told
    assert "a run by ada on elsewhere (process 17) holds it since 20" in text
    assert text.endswith("; this one stops")


def test_a_lease_that_was_removed_is_written_again(place: str) -> None:
    with lease(place, lost=nobody) as holding:
        places.remove(join(place, LEASE))
        assert holding.renew()
        assert held(place) is not None


def test_a_disk_that_cannot_be_written_for_a_while_loses_nothing(
    folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline.books.lease")
    full = threading.Event()
    real, refused = places.write_whole, 0

    def write_whole(path: str, content: bytes) -> None:
        nonlocal refused
        if full.is_set():
            refused += 1
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(places, "write_whole", write_whole)
    with lease(folder, lost=nobody, times=SOON):
        full.set()
        wait_until(lambda: refused > 2)
        count = read(folder).count
        full.clear()
        wait_until(lambda: read(folder).count > count)
    assert caplog.text.count("cannot be renewed: No space left on device") == 1


@pytest.mark.parametrize(
    ("holding", "wanted", "refused"),
    [
        (None, (3, 8), "a run by"),
        ((3, 8), None, "shard 3 of 8 of a run by"),
        ((3, 8), (3, 8), "shard 3 of 8 of a run by"),
        ((3, 8), (4, 8), None),
        ((3, 8), (3, 4), "shard 3 of 8 of a run by"),
    ],
)
def test_shards_of_one_run_go_together_and_with_nothing_else(
    folder: str,
    holding: tuple[int, int] | None,
    wanted: tuple[int, int] | None,
    refused: str | None,
) -> None:
    with lease(folder, holding, lost=nobody):
        assert there(folder) == [named(LEASE, holding)]
        if refused is None:
            taken(folder, shard=wanted)
        else:
            with pytest.raises(ConfigError, match=refused):
                taken(folder, shard=wanted)
        assert there(folder) == [named(LEASE, holding)]
    taken(folder, shard=wanted)


def test_what_is_left_of_dead_shards_keeps_nobody_out(folder: str) -> None:
    for shard in ((1, 8), (2, 8), (1, 4)):
        write(folder, dead_process(), named(LEASE, shard))
    with lease(folder, (3, 8), lost=nobody):
        assert there(folder) == [named(LEASE, (n, 8)) for n in (1, 2, 3)]
    taken(folder)
    assert there(folder) == []


def test_a_whole_run_and_a_shard_that_begin_at_once_never_both_go_on(folder: str) -> None:
    quick = Times(look_s=0.02)
    for _ in range(5):
        outcomes = race(
            [
                lambda: lease(folder, lost=nobody, times=quick),
                lambda: lease(folder, (1, 2), lost=nobody, times=quick),
            ]
        )
        assert outcomes in (["held", "refused"], ["refused", "refused"])


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold results: Not a directory; name another"):
        taken(str(tmp_path / "file" / "results"))


def test_a_process_of_another_machine_or_container_is_never_taken_for_gone() -> None:
    here = dead_process()
    assert here.gone
    assert not replace(here, host="elsewhere").gone
    assert not replace(here, machine="another boot").gone
    assert not holder_here(0).gone
    assert Holder.read(here.written()) == here


def test_a_lease_is_a_context_that_gives_itself_up_after_an_error(folder: str) -> None:
    def interrupted() -> None:
        with lease(folder, lost=nobody) as holding:
            assert isinstance(holding, Lease)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert there(folder) == []
