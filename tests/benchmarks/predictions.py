"""Models over whole slides, and the bare session on as many patches that are in memory already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Contender, Run, Setting
from tests.benchmarks.models import model_card

if TYPE_CHECKING:
    from pipeline.plan import Plan

__all__ = ["bare_session", "plan_of", "predicts", "predicts_in"]


def predicts(name: str) -> Contender:
    """Give a contender that runs a model over a slide, from the file to the committed store."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import pipeline
        from pipeline.execute import run
        from pipeline.model import facts

        plan = plan_of(at, name, "out.zarr")
        with pipeline.cluster("threads", workers=at.cores):
            facts(plan.model.ref.members[0])  # the session is open, and its batch measured

            def predict() -> int:
                outcome = run(plan)
                if not outcome.complete:
                    raise AssertionError(f"{at.slide}: {outcome.failures}")
                return plan.slide.shape[0] * plan.slide.shape[1]

            yield predict

    return contender


def predicts_in(workers: int, name: str) -> Contender:
    """Give a contender that does the same in worker processes of one thread each.

    They are started, and their sessions open, before the clock starts. A session has one thread,
    too: where there is one worker the other cores are idle, but for what the client needs.
    """

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import pipeline
        from pipeline.execute import open_sessions, run

        # Small blocks: with eight of them half a block's time is lost where the last ones end.
        plan = plan_of(at, name, "out.zarr", block=1024)
        with pipeline.cluster(
            "local", workers=workers, threads_per_worker=1, dashboard="none"
        ) as client:
            assert client is not None
            client.run(_sessions_of_one_thread)
            open_sessions(plan.model.ref)

            def predict() -> int:
                outcome = run(plan)
                if not outcome.complete:
                    raise AssertionError(f"{at.slide}: {outcome.failures}")
                return plan.slide.shape[0] * plan.slide.shape[1]

            yield predict

    return contender


def _sessions_of_one_thread() -> None:
    from pipeline.model.session import THREADS_VARIABLE

    os.environ[THREADS_VARIABLE] = "1"


def bare_session(name: str) -> Contender:
    """Give a contender that runs a session on as many batches, all of them the same ready one."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import numpy as np
        import onnxruntime

        from pipeline.model.session import session_batch

        plan = plan_of(at, name, "none.zarr")
        (member,) = plan.model.ref.members
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            member.onnx, options, providers=["CPUExecutionProvider"]
        )
        shape = member.input_shape(session_batch(member))
        batch = np.random.default_rng(0).random(shape, np.float32)
        feed = {session.get_inputs()[0].name: batch}
        calls = -(-plan.patch_count // shape[0])

        def call(_: int) -> Any:
            session.run(member.tensors, feed)

        call(0)
        with ThreadPoolExecutor(at.cores) as pool:

            def run() -> int:
                for _ in pool.map(call, range(calls)):
                    pass
                return plan.slide.shape[0] * plan.slide.shape[1]

            yield run

    return contender


def plan_of(at: Setting, name: str, store: str, block: int | None = None) -> Plan:
    import pipeline
    from pipeline.finding import find_tissue
    from pipeline.plan import Options, plan_slide
    from pipeline.tissue import TissueSettings

    slide = pipeline.open_slide(at.slide, crop=False)
    model = pipeline.load_model(model_card(name, Path(at.folder)))
    tissue = find_tissue(slide, TissueSettings(method="none"), 8.0, None)
    path = str(Path(at.folder, store))
    return plan_slide(slide, model, tissue, Options(block=block), path=path)
