"""The pool: opened once, closed when nobody uses it, never more than a bounded number."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from pipeline.handles import Pool

PATIENCE_S = 30
"""How long a thread waits for another before the test fails."""


@dataclass(eq=False)
class Handle:
    """Something open."""

    ref: Hashable


@dataclass
class Shop:
    """Opens and closes handles and remembers it."""

    opened: list[Handle] = field(default_factory=list)
    closed: list[Handle] = field(default_factory=list)

    def open(self, ref: Hashable) -> Handle:
        handle = Handle(ref)
        self.opened.append(handle)
        return handle

    def pool(self, size: int) -> Pool[Hashable, Handle]:
        return Pool(self.open, size=size, close=self.closed.append)


@dataclass(eq=False)
class Awaited:
    """A ref that knows how many threads have looked it up."""

    threads: int
    seen: set[int] = field(default_factory=set)
    all_here: threading.Event = field(default_factory=threading.Event)

    def __hash__(self) -> int:
        self.seen.add(threading.get_ident())
        if len(self.seen) >= self.threads:
            self.all_here.set()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


def at_once(functions: Sequence[Callable[[], object]]) -> list[BaseException | None]:
    """Call each in a thread of its own, all from one barrier; give what they raised."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], object]) -> None:
        barrier.wait(PATIENCE_S)
        function()

    with ThreadPoolExecutor(len(functions)) as threads:
        return [future.exception() for future in [threads.submit(call, f) for f in functions]]


def test_a_handle_stays_open_for_the_next_user() -> None:
    shop = Shop()
    pool = shop.pool(size=2)
    with pool.using("a") as first:
        pass
    with pool.using("a") as second:
        pass
    assert first is second
    assert (len(shop.opened), shop.closed, list(pool), len(pool)) == (1, [], ["a"], 1)


def test_many_threads_that_ask_at_once_share_one_handle() -> None:
    shop, ref, used = Shop(), Awaited(threads=16), []

    def slowly(asked: Awaited) -> Handle:
        # Opening ends only after every thread has asked for it.
        assert asked.all_here.wait(PATIENCE_S)
        return shop.open(asked)

    pool = Pool(slowly, size=2)

    def use() -> None:
        with pool.using(ref) as handle:
            used.append(handle)

    assert at_once([use] * 16) == [None] * 16
    assert len(shop.opened) == 1
    assert used == shop.opened * 16


def test_another_ref_is_served_while_one_is_being_opened() -> None:
    opening, served = threading.Event(), threading.Event()

    def open_(ref: str) -> str:
        if ref == "slow":
            opening.set()
            assert served.wait(PATIENCE_S), "the other ref was not served meanwhile"
        return ref

    pool = Pool(open_, size=2)

    def use_slow() -> None:
        with pool.using("slow"):
            pass

    def use_quick() -> None:
        assert opening.wait(PATIENCE_S)
        with pool.using("quick"):
            served.set()

    assert at_once([use_slow, use_quick]) == [None, None]


def test_the_least_recently_used_handle_makes_room() -> None:
    shop = Shop()
    pool = shop.pool(size=2)
    for ref in "abac":
        with pool.using(ref):
            pass
    assert list(pool) == ["a", "c"]
    assert [handle.ref for handle in shop.closed] == ["b"]


def test_a_handle_in_use_is_closed_when_its_last_user_leaves() -> None:
    shop = Shop()
    pool = shop.pool(size=1)
    with ExitStack() as outer, ExitStack() as inner:
        a = outer.enter_context(pool.using("a"))
        assert inner.enter_context(pool.using("a")) is a
        with pool.using("b"):
            assert list(pool) == ["b"]
            assert shop.closed == []
        inner.close()
        assert shop.closed == []
        outer.close()
        assert shop.closed == [a]


def test_a_handle_that_failed_its_user_is_replaced() -> None:
    shop = Shop()
    pool = shop.pool(size=2)
    with pytest.raises(KeyboardInterrupt), pool.using("a") as bad:
        raise KeyboardInterrupt
    assert (shop.closed, list(pool)) == ([bad], [])
    with pool.using("a") as good:
        assert good is not bad
    assert shop.closed == [bad]


def test_a_handle_that_failed_one_user_stays_open_for_the_others() -> None:
    shop = Shop()
    pool = shop.pool(size=2)
    with pool.using("a") as shared:
        with pytest.raises(OSError, match="latched"), pool.using("a") as bad:
            raise OSError("latched")
        assert bad is shared
        assert (shop.closed, list(pool)) == ([], [])
    assert shop.closed == [shared]


def test_a_failing_old_handle_leaves_its_successor_in_the_pool() -> None:
    shop = Shop()
    pool = shop.pool(size=1)
    failing = ExitStack()
    old = failing.enter_context(pool.using("a"))
    with pool.using("b"):
        pass
    with pool.using("a") as new:
        assert new is not old
    with pytest.raises(OSError, match="latched"), failing:
        raise OSError("latched")
    assert list(pool) == ["a"]
    assert old in shop.closed
    assert new not in shop.closed


def test_an_error_while_opening_leaves_nothing_and_the_next_user_tries_again() -> None:
    shop, broken = Shop(), [True]

    def open_(ref: str) -> Handle:
        if broken.pop():
            raise OSError("no such slide")
        return shop.open(ref)

    pool = Pool(open_, size=2, close=shop.closed.append)
    with pytest.raises(OSError, match="no such slide"), pool.using("a"):
        pytest.fail("used what was never opened")
    assert (list(pool), shop.closed) == ([], [])
    broken.append(False)
    with pool.using("a") as handle:
        assert shop.opened == [handle]


def test_a_thread_that_waited_for_a_failed_opening_tries_itself() -> None:
    shop, ref, attempts, used = Shop(), Awaited(threads=2), [], []

    def open_(asked: Awaited) -> Handle:
        attempts.append(asked)
        assert asked.all_here.wait(PATIENCE_S)
        if len(attempts) == 1:
            raise OSError("busy")
        return shop.open(asked)

    pool = Pool(open_, size=2, close=shop.closed.append)

    def use() -> None:
        with pool.using(ref) as handle:
            used.append(handle)

    raised = at_once([use, use])
    assert sorted(map(str, raised)) == ["None", "busy"]
    assert (len(attempts), used) == (2, shop.opened)
    # Its entry went with the failure, so what it opened is closed and not lost.
    assert (list(pool), shop.closed) == ([], used)


def test_clear_closes_what_is_unused_now_and_what_is_used_later() -> None:
    shop = Shop()
    pool = shop.pool(size=3)
    with pool.using("idle") as idle:
        pass
    with pool.using("busy") as busy:
        pool.clear()
        assert (list(pool), shop.closed) == ([], [idle])
    assert shop.closed == [idle, busy]


def test_a_pool_needs_no_way_to_close() -> None:
    pool: Pool[str, str] = Pool(str.upper, size=1)
    for ref in "ab":
        with pool.using(ref) as handle:
            assert handle == ref.upper()
    assert list(pool) == ["b"]


def descriptors(folder: Path) -> int:
    """Count this process's open files in ``folder``."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += entry.readlink().is_relative_to(folder)
        except FileNotFoundError:  # the listing's own
            continue
    return count


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("users", [1, 4])
def test_open_files_are_bounded_by_the_size_and_those_in_use(tmp_path: Path, users: int) -> None:
    size, files = 3, [str(tmp_path / f"{i}.bin") for i in range(40)]
    for path in files:
        Path(path).write_text(path)
    pool: Pool[str, int] = Pool(partial(os.open, flags=os.O_RDONLY), size=size, close=os.close)
    most = [0] * users

    def read_all(user: int) -> None:
        for path in files[user:] + files[:user] + files:
            with pool.using(path) as descriptor:
                assert os.pread(descriptor, 1000, 0).decode() == path
                most[user] = max(most[user], descriptors(tmp_path))

    raised = at_once([partial(read_all, user) for user in range(users)])
    assert raised == [None] * users
    # Every user may hold one that was evicted and be opening another.
    assert size <= max(most) <= size + users
    assert descriptors(tmp_path) == size
    pool.clear()
    assert descriptors(tmp_path) == 0


FORK = """
    import os, signal, sys, threading
    from pipeline.handles import Pool

    opened, closed = [], []

    def open_(path):
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    def close(descriptor):
        closed.append(descriptor)
        os.close(descriptor)

    pool = Pool(open_, size=1, close=close)
    path, other = sys.argv[1:]
    with pool.using(path) as mine:
        pass

    locked, go_on = threading.Event(), threading.Event()

    class Slow(str):
        __slots__ = ()

        def __hash__(self):
            locked.set()
            go_on.wait(20)
            return super().__hash__()

    def ask():
        with pool.using(Slow(path)):
            pass

    # This thread is inside the pool, its lock taken, at the moment of the fork.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert locked.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a pool that is still locked waits for ever
        code = 1
        try:
            assert list(pool) == [], "the child starts with its parent's handles"
            with pool.using(path) as own:
                assert own != mine, "the child uses its parent's handle"
            with pool.using(other):
                pass
            assert closed == [own], "the child closed its parent's handle"
            os.fstat(mine)
            code = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert status == 0, status
    assert os.pread(mine, 4, 0) == b"mine"
    assert list(pool) == [path]
    print("ok")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_empty_and_leaves_its_parents_handles_alone(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("mine")
    other.write_text("other")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(FORK), str(mine), str(other)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")
