"""Models over whole slides, and the bare session on as many patches that are in memory already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.benchmarks.contenders import Contender, Run, Setting, write_sample
from tests.benchmarks.models import model_card
from tests.benchmarks.pools import open_session

if TYPE_CHECKING:
    from pipeline.model import SessionRef
    from pipeline.plan import Plan

__all__ = [
    "Method",
    "bare_session",
    "bare_sessions",
    "pixels_of",
    "plan_of",
    "predicts",
    "predicts_in",
]

Method = Literal["otsu", "none"]
"""How tissue is found; ``none`` takes everything for it."""


def predicts(name: str, tissue: Method = "none") -> Contender:
    """Give a contender that runs a model over a slide, from the file to the committed store.

    Which patches are ``tissue`` is found before.
    """

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import pipeline
        from pipeline.execute import run
        from pipeline.model import facts

        plan = plan_of(at, name, "out.zarr", tissue=tissue)
        with pipeline.cluster("threads", workers=at.cores):
            facts(plan.model.ref.members[0])  # the session is open, and its batch measured

            def predict() -> int:
                outcome = run(plan)
                if not outcome.complete:
                    raise AssertionError(f"{at.slide}: {outcome.failures}")
                return pixels_of(plan)

            yield predict

    return contender


def predicts_in(workers: int, name: str) -> Contender:
    """Give a contender that does the same in worker processes of one thread each.

    They are started, and have done blocks of another slide, before the clock starts. A session
    has one thread, too: where there is one worker the other cores are idle, but for what the
    client needs.
    """

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import pipeline
        from pipeline.execute import run

        # Small blocks: with eight of them half a block's time is lost where the last ones end.
        plan = plan_of(at, name, "out.zarr", block=1024)
        sample = plan_of(replace(at, slide=write_sample(at.folder)), name, "sample.zarr", block=256)
        with pipeline.cluster(
            "local", workers=workers, threads_per_worker=1, dashboard="none"
        ) as client:
            assert client is not None
            client.run(_sessions_of_one_thread)
            run(sample)

            def predict() -> int:
                outcome = run(plan)
                if not outcome.complete:
                    raise AssertionError(f"{at.slide}: {outcome.failures}")
                return pixels_of(plan)

            yield predict

    return contender


def _sessions_of_one_thread() -> None:
    from pipeline.model.session import THREADS_VARIABLE

    os.environ[THREADS_VARIABLE] = "1"


def bare_session(name: str, tissue: Method = "none") -> Contender:
    """Give a contender that runs a session on as many batches, all of them the same ready one."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        member, batch, plan = _bare(at, name, tissue)
        _call(member, batch)
        with ThreadPoolExecutor(at.cores) as pool:
            yield partial(_over, pool, member, batch, plan)

    return contender


def bare_sessions(processes: int, name: str) -> Contender:
    """Give a contender that does so in processes, each with a session of one thread.

    It is what the machine gives for more cores: on a shared one two are not twice one.
    """

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        member, batch, plan = _bare(at, name, "none")
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            for _ in range(2):  # each has opened its session then
                _calls(pool, member, batch, 2 * processes)
            yield partial(_over, pool, member, batch, plan)

    return contender


def _bare(at: Setting, name: str, tissue: Method) -> tuple[SessionRef, int, Plan]:
    """Give the session of a model, its batch, and the plan that says how many of those it is."""
    from pipeline.model.session import session_batch

    plan = plan_of(at, name, "none.zarr", tissue=tissue)
    (member,) = plan.model.ref.members
    batch = session_batch(member)
    return member, batch, plan


def _over(pool: Executor, member: SessionRef, batch: int, plan: Plan) -> int:
    _calls(pool, member, batch, -(-plan.patch_count // batch))
    return pixels_of(plan)


def _calls(pool: Executor, member: SessionRef, batch: int, count: int) -> None:
    """Run so many batches, each by who is free."""
    for _ in pool.map(_call, [member] * count, [batch] * count):
        pass


def _call(member: SessionRef, batch: int) -> None:
    session, feed = _opened(member, batch)
    session.run(member.tensors, feed)


@lru_cache(maxsize=1)
def _opened(member: SessionRef, batch: int) -> tuple[Any, dict[str, Any]]:
    import numpy as np

    session = open_session(member.onnx)
    ready = np.random.default_rng(0).random(member.input_shape(batch), np.float32)
    return session, {session.get_inputs()[0].name: ready}


def plan_of(
    at: Setting,
    name: str,
    store: str,
    *,
    block: int | None = None,
    tissue: Method = "none",
) -> Plan:
    """Plan a model over a slide, its tissue found first; ``store`` is a name in the folder."""
    import pipeline
    from pipeline.execute.finding import find_tissue
    from pipeline.plan import Options, plan_slide
    from pipeline.tissue import TissueSettings

    slide = pipeline.open_slide(at.slide, crop=False)
    model = pipeline.load_model(model_card(name, Path(at.folder)))
    found = find_tissue(slide, TissueSettings(method=tissue), 8.0, None)
    path = str(Path(at.folder, store))
    return plan_slide(slide, model, found, Options(block=block), path=path)


def pixels_of(plan: Plan) -> int:
    """Give the pixels of the slide, or of its patches where not all of them are wanted."""
    if plan.wanted.all():
        return plan.slide.shape[0] * plan.slide.shape[1]
    return plan.patch_count * plan.model.ref.step**2
