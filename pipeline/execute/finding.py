"""A slide's tissue, found: by its pixels, a user's mask or a model, on the scheduler in force.

Only coarse pictures come here: levels are read block by block and averaged, scores predicted
block by block and averaged, wherever blocks are computed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TissueConfig
from pipeline.errors import ConfigError
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.geometry import Grid, ceil_div
from pipeline.lazy import map_blocks
from pipeline.model import Model, load_model
from pipeline.plan.detecting import PICTURE_PIXELS, detect
from pipeline.plan.seen import Tissue
from pipeline.process import trim
from pipeline.slide import Slide
from pipeline.slide.level import Level
from pipeline.slide.scale import SAME
from pipeline.tissue import TissueSettings, mostly_black, tidied, tissue_pixels
from pipeline.tissue.masks import Raster, load_mask
from pipeline.tissue.quality import BLUR_CELL, BLUR_MPP, CODES, blur, focus_moments, pen

__all__ = ["find_tissue", "finder"]


def finder(config: TissueConfig) -> Callable[[Slide, str, str | None], Tissue]:
    """Give what finds the tissue of a slide, its id and its own mask as a run file says.

    A slide that has a mask of its own takes its tissue from there, whatever the method is. A
    tissue model is loaded now: raises `ModelError` where it is none.
    """
    model = load_model(config.model) if config.model else None
    settings = TissueSettings(
        method=config.method,
        min_area_um2=config.min_area_um2,
        min_hole_um2=config.min_hole_um2,
        threshold=config.threshold,
        quality=tuple(config.quality),
        exclude=tuple(config.exclude),
    )

    def find(slide: Slide, slide_id: str, own: str | None) -> Tissue:
        if own is not None:
            return find_tissue(slide, replace(settings, method="mask"), config.mpp, own)
        mask = config.mask.replace("{slide_id}", slide_id) if config.mask else None
        return find_tissue(slide, settings, config.mpp, mask, model=model)

    return find


def find_tissue(
    slide: Slide,
    settings: TissueSettings,
    mpp: float,
    mask: str | None = None,
    *,
    model: Model | None = None,
) -> Tissue:
    """Find a slide's tissue at about ``mpp`` um per pixel, and what spoils it.

    ``mask`` is a user's own (see `pipeline.tissue.masks.load_mask`) and ``model`` a detector (see
    `pipeline.plan.detecting.detect`), for the methods of these names. Otherwise it is looked for on
    the coarsest level that still has ``mpp``. What cannot be read there counts as tissue, so
    that its own blocks are tried and say why.

    Raises `ConfigError` where the mask does not fit the slide or the model has no scale,
    `SlideError` where a scale is needed and the slide's is unknown, or where the model's pixels
    cannot be read.
    """
    picture = _Picture.of(slide, mpp)
    if settings.method == "model":
        tissue = _by_model(picture, settings, model)
    elif settings.method == "mask":
        tissue = _by_mask(picture, mask)
    elif settings.method == "none":
        # What was not read covers the slide exactly, whatever is left over of a level's pixels.
        raster = Raster.covering(slide.shape, picture.raster.shape)
        described = {"method": settings.method, "step": list(raster.step)}
        tissue = Tissue(np.ones(raster.shape, np.bool_), raster.step, described)
    else:
        tissue = _by_pixels(picture, settings)
    if settings.quality:
        tissue = _judged(tissue, picture, settings)
    trim()
    return tissue


@dataclass(frozen=True)
class _Picture:
    """A slide's coarse picture: where its pixels lie now, what they are when asked for.

    ``factor`` is the pixels of ``level`` that are averaged each way.
    """

    slide: Slide
    level: Level
    factor: int
    raster: Raster

    @classmethod
    def of(cls, slide: Slide, mpp: float) -> _Picture:
        """Plan the picture of the coarsest level that still has ``mpp`` um per pixel."""
        wanted = mpp / max(_l0_mpp(slide))
        level = slide.coarse(wanted)
        # Whatever scale a header claims, the picture stays one that a client can hold.
        least = math.ceil(math.sqrt(math.prod(level.plane) / PICTURE_PIXELS))
        factor = max(round(wanted / max(level.downsample)), least, 1)
        shape = (ceil_div(level.plane[0], factor), ceil_div(level.plane[1], factor))
        step = (level.downsample[0] * factor, level.downsample[1] * factor)
        return cls(slide, level, factor, Raster(slide.shape, shape, step, level.origin))

    @property
    def mpp(self) -> tuple[float, float]:
        """Um per pixel ``(y, x)``."""
        return _um(self.slide, self.raster.step)

    @cached_property
    def seen(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The picture ``(y, x, 3)``, and which of it could not be read and is white."""
        small = self.level.reduced_where_readable(self.factor)
        picture: NDArray[np.uint8] = scheduler_in_force().compute(small)
        unread = picture[3] == 0
        rgb = picture[:3].transpose(1, 2, 0)
        if unread.any():
            rgb = np.where(unread[..., None], np.uint8(255), rgb)
        else:
            unread = np.broadcast_to(np.False_, unread.shape)
        trim()
        return rgb, unread

    def forget(self) -> None:
        """Let go of the pixels: with a slide of 8 Gpx they are most of what the client holds."""
        vars(self).pop("seen", None)
        trim()


def _by_pixels(picture: _Picture, settings: TissueSettings) -> Tissue:
    rgb, unread = picture.seen
    raster = picture.raster
    remarks = tuple(_remarks(rgb, unread))
    found = tissue_pixels(rgb, settings)
    del rgb
    if "pen" not in settings.quality:
        picture.forget()
    found = tidied(found, picture.mpp, settings) | unread
    return Tissue(found, raster.step, _described(settings, raster), remarks, raster.origin)


def _remarks(rgb: NDArray[np.uint8], unread: NDArray[np.bool_]) -> Iterator[str]:
    if unread.any():
        yield (
            f"{unread.mean():.1%} of it cannot be read at the level where tissue is looked for, "
            "and counts as tissue"
        )
    if mostly_black(rgb):
        yield (
            "most of it is black: tissue is told from bright glass; for fluorescence set "
            "tissue.method: none, or mask"
        )


def _by_mask(picture: _Picture, mask: str | None) -> Tissue:
    if mask is None:
        raise ConfigError("tissue.mask: missing; method: mask needs a file")
    slide = picture.slide
    raster = Raster.covering(slide.shape, picture.raster.shape)
    mpp = slide.mpp
    loaded = load_mask(mask, raster, (mpp.y, mpp.x) if mpp else None)
    digest = hashlib.sha256(np.packbits(loaded).tobytes()).hexdigest()
    described = {"method": "mask", "step": list(raster.step), "mask": digest}
    return Tissue(loaded, raster.step, described)


def _by_model(picture: _Picture, settings: TissueSettings, model: Model | None) -> Tissue:
    """Find what a model calls tissue: see `pipeline.plan.detecting`."""
    if model is None:
        raise ConfigError("tissue.model: missing; method: model needs a model card")
    detected = detect(picture.slide, model, picture.raster.step, settings.threshold)
    raster = detected.raster
    found = scheduler_in_force().compute(detected.tissue)[0] > 0
    described = {**_described(settings, raster), **detected.settings}
    tidy = tidied(found, _um(picture.slide, raster.step), settings)
    return Tissue(tidy, raster.step, described, (), raster.origin)


def _described(settings: TissueSettings, raster: Raster) -> dict[str, Any]:
    return {
        "method": settings.method,
        "step": list(raster.step),
        "min_area_um2": settings.min_area_um2,
        "min_hole_um2": settings.min_hole_um2,
    }


def _judged(tissue: Tissue, picture: _Picture, settings: TissueSettings) -> Tissue:
    """Flag what spoils the slide, and take out of the tissue what is to be excluded."""
    shape = (tissue.mask.shape[0], tissue.mask.shape[1])
    raster = Raster(picture.slide.shape, shape, tissue.step, tissue.origin)
    quality = np.zeros(shape, np.uint8)
    if "pen" in settings.quality:
        strokes = pen(picture.seen[0], picture.mpp)
        quality[picture.raster.sampled(strokes, raster)] = CODES["pen"]
    if "blur" in settings.quality:
        # A stroke's border is contrast without detail, whatever the focus is.
        clean = tissue.mask & (quality == 0)
        quality[_blurred(picture.slide, clean, raster)] = CODES["blur"]
    excluded = np.isin(quality, [CODES[name] for name in settings.exclude])
    described = {
        **tissue.settings,
        "quality": sorted(settings.quality),
        "exclude": sorted(settings.exclude),
    }
    return replace(tissue, mask=tissue.mask & ~excluded, quality=quality, settings=described)


def _blurred(slide: Slide, tissue: NDArray[np.bool_], raster: Raster) -> NDArray[np.bool_]:
    """Give what of the tissue is out of focus, on its raster."""
    own = max(slide.believed_mpp)
    if own > BLUR_MPP * (1 + SAME):
        raise ConfigError(
            f"tissue.quality: blur is told at {BLUR_MPP:g} um per pixel, {slide.path} has only "
            f"{own:g}; leave blur out"
        )
    level = slide.at(BLUR_MPP)
    cells = (ceil_div(level.plane[0], BLUR_CELL), ceil_div(level.plane[1], BLUR_CELL))
    pixels = level.reduced_where_readable(1)
    moments: NDArray[np.float32] = scheduler_in_force().compute(
        map_blocks(
            focus_moments,
            pixels,
            Grid(cells, ceil_div(max(pixels.chunks[1][0], pixels.chunks[2][0]), BLUR_CELL)),
            axes="cyx",
            channels=3,
            dtype=np.float32,
            cell=BLUR_CELL,
        )
    )
    step = (level.downsample[0] * BLUR_CELL, level.downsample[1] * BLUR_CELL)
    judged = Raster(slide.shape, cells, step, level.origin)
    found = blur(moments, raster.sampled(tissue, judged), _um(slide, step))
    return judged.sampled(found, raster) & tissue


def _l0_mpp(slide: Slide) -> tuple[float, float]:
    return (slide.mpp.y, slide.mpp.x) if slide.mpp else (1.0, 1.0)


def _um(slide: Slide, step: tuple[float, float]) -> tuple[float, float]:
    y, x = _l0_mpp(slide)
    return (y * step[0], x * step[1])
