"""What a run file says is done with each slide: opened, planned, run, exported."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dask.utils import parse_bytes

from pipeline.books.outcomes import SlideOutcome
from pipeline.books.provenance import notes, provenance
from pipeline.config import LevelConfig, RunConfig
from pipeline.errors import PipelineError, SlideError
from pipeline.execute import run as run_plan
from pipeline.execute.finding import finder
from pipeline.execute.staining import check_target, fit_stain
from pipeline.execute.standing import kept_block
from pipeline.execute.work import Watch
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.geometry import Index
from pipeline.manifest.jobs import Job
from pipeline.model import Model, load_models
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.plan.memory import Worker, predicted_bytes
from pipeline.plan.seen import check_scale
from pipeline.results import ENDING
from pipeline.slide import Slide, open_slide
from pipeline.slide.restained import Stain
from pipeline.store import Coverage

__all__ = ["Recipe", "slide_of"]

_log = logging.getLogger(__name__)

Find = Callable[[Slide, str, str | None], Tissue]
"""Finds the tissue of a slide, its id and its own mask."""

Note = Callable[[str], None]

_GPU_PROVIDERS = ("cuda", "tensorrt", "migraphx", "directml")

_USUAL_BLOCK = 1024


@dataclass(frozen=True)
class Recipe:
    """A run file, with the model it names and what finds its tissue.

    ``worker`` is what a block has to fit in, if that is known.
    """

    config: RunConfig
    model: Model
    find: Find
    worker: Worker | None = None

    @property
    def on_gpus(self) -> bool:
        """Whether the model runs on a GPU, of which each worker has one."""
        return self.config.inference.provider in _GPU_PROVIDERS

    @property
    def needed_bytes(self) -> int:
        """The least memory with which a worker is of any use."""
        output = self.config.output
        block = _USUAL_BLOCK if output.block == "auto" else output.block
        return predicted_bytes(self.model, block, output.dtype)

    @classmethod
    def of(cls, config: RunConfig) -> Recipe:
        """Load what a run file names.

        Raises `ModelError` where that is no model, `ConfigError` where a scale or colours cannot
        be meant.
        """
        return cls(config, _model_of(config), finder(config.tissue))

    def plan(self, job: Job, note: Note) -> Plan:
        """Plan a slide and note what its user should know; nothing is written."""
        config = self.config
        slide = slide_of(config, job)
        tissue = self.find(slide, job.slide_id, job.mask)
        output = config.output
        level, mpp = _asked(config)
        path = join(places.absolute(output.directory), f"{job.slide_id}{ENDING}")
        options = Options(
            level=level,
            mpp=mpp,
            block=None if output.block == "auto" else output.block,
            chunk=None if output.chunk == "auto" else output.chunk,
            dtype=output.dtype,
            min_fraction=config.tissue.min_fraction,
            icc=config.colour.icc,
            stain=_stain_of(config, slide, tissue),
            worker=self.worker,
            kept_block=kept_block(path) if output.block == "auto" else None,
        )
        plan = plan_slide(slide, self.model, tissue, options, path=path)
        for text in notes(plan):
            note(text)
        return plan

    def run(self, job: Job, watch: Watch, note: Note) -> SlideOutcome:
        """Do a slide, or what is left of it; what stops all of it is raised."""
        started = time.monotonic()
        plan = self.plan(job, note)
        _log.info(
            "planned: %d of %d blocks to analyse",
            len(plan.todo),
            plan.grid.size,
            extra={"blocks": len(plan.todo), "block_px": plan.grid.cell, "mpp": plan.layout.mpp},
        )
        outcome = run_plan(plan, provenance(plan, job.columns), watch)
        made, broken = _export(self.config, plan)
        reasons = [_first_of(outcome.failures), *broken]
        return SlideOutcome(
            job,
            "done" if outcome.complete and not broken else "partial",
            analysed=outcome.count(Coverage.ANALYSED),
            background=outcome.count(Coverage.BACKGROUND),
            failed=outcome.count(Coverage.FAILED),
            computed=outcome.computed,
            seconds=time.monotonic() - started,
            reason="; ".join(reason for reason in reasons if reason),
            made=(plan.path, *made),
            pixels=outcome.pixels,
            predicted_bytes=outcome.predicted_bytes,
            peak_bytes=outcome.peak_bytes,
            identity=plan.slide.metadata.identity,
        )


def _first_of(failures: Mapping[Index, str]) -> str:
    """Give the first reason, and how many more there are; the store has them all."""
    if not failures:
        return ""
    first = min(failures)
    more = f"; and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"block {first}: {failures[first]}{more}"


def _stain_of(config: RunConfig, slide: Slide, tissue: Tissue) -> Stain | None:
    colour = config.colour
    if colour.normalise == "none":
        return None
    return fit_stain(slide, colour.normalise, colour.target, tissue=tissue, icc=colour.icc)


def _model_of(config: RunConfig) -> Model:
    """Load the model; `ConfigError` where its scale, or whose colours it sees, cannot be meant."""
    paths = [config.model] if isinstance(config.model, str) else config.model
    asked = config.inference
    gpu_bytes = 0 if asked.gpu_memory == "auto" else int(parse_bytes(asked.gpu_memory))
    model = load_models(paths).running(asked.provider, gpu_bytes=gpu_bytes, tta=asked.tta)
    level, mpp = _asked(config)
    check_scale(model, level=level, mpp=mpp)
    if config.colour.normalise != "none":
        check_target(config.colour.normalise, config.colour.target, config.colour.icc)
    return model


def _asked(config: RunConfig) -> tuple[int | None, float | None]:
    """Give the level and the um per pixel a run file asks for; neither is what the card says."""
    asked = config.resolution.mpp
    if isinstance(asked, LevelConfig):
        return asked.level, None
    return None, None if asked == "model" else float(asked)


def slide_of(config: RunConfig, job: Job) -> Slide:
    """Open a slide, its scale said by the manifest, by the file, or by the run file, in this order.

    Raises `SlideError` where none of them says one that can be.
    """
    slide = open_slide(job.path, reader=config.reader)
    if job.mpp is not None:
        return slide.assuming(job.mpp, "from the manifest")
    if slide.mpp_problem is None:
        return slide
    if config.resolution.missing == "assume" and config.resolution.assume_mpp is not None:
        return slide.assuming(config.resolution.assume_mpp)
    raise SlideError(f"{job.path}: {slide.mpp_problem}")


def _export(config: RunConfig, plan: Plan) -> tuple[list[str], list[str]]:
    """Make what is asked for of a store; give the paths, and the reasons for what is missing."""
    from pipeline.export import OF_RUNS, export

    made: list[str] = []
    broken = []
    for kind in config.export:
        if kind in OF_RUNS:
            continue
        try:
            made += export(kind, plan.path, plan.slide)
        except PipelineError as error:
            broken.append(f"export {kind}: {error}")
    return made, broken
