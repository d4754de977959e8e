"""The model card: everything the pipeline must know of an ONNX file, as its author writes it.

``README.md`` documents its fields from here. What travels to the workers is in `refs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.model.values import Auto, Colour, Names, PerChannel, Whole

__all__ = [
    "Card",
    "InputSpec",
    "ObjectsSpec",
    "OutputSpec",
    "RegionsSpec",
    "StitchSpec",
]

RESERVED = ("tissue", "quality")
"""Labels that a store has anyway."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Spec):
    """What the model is given."""

    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the input's axes")
    channels: Literal["RGB", "BGR", "grey"] = Field(
        "RGB", description="order of the colours; grey is one channel, their luma (ITU-R 601)"
    )
    patch: Auto | Annotated[Whole, Field(ge=8, le=2**14)] = Field(
        "auto",
        description="side of one patch in pixels, halo included; auto: the graph's own, "
        "or 512 where that is dynamic",
    )
    scale: float = Field(1 / 255, description="factor from 0..255, applied first")
    mean: PerChannel = Field((0.0,), description="subtracted after scaling, for red, green, blue")
    std: PerChannel = Field((1.0,), description="divided by, last")
    zscore: Literal["none", "patch", "channel"] = Field(
        "none",
        description="each patch less its own mean, divided by its own standard deviation; "
        "instead of mean and std",
    )
    border: Literal["background", "edge", "reflect"] = Field(
        "background",
        description="what a patch holds beyond the slide: its background, its outermost pixels, "
        "or its mirror image, as fluorescence and zscore need it",
    )


class ObjectsSpec(_Spec):
    """How objects are found in dense maps."""

    method: Literal["peaks", "watershed"] = Field(
        description="peaks: points at local maxima; watershed: outlines that grow from seeds"
    )
    foreground: str | None = Field(
        None, description="channel that says where objects are; the first one by default"
    )
    seeds: str | None = Field(
        None,
        description="channel whose maxima are the seeds (a distance or centre map); "
        "the distance to the edge of the foreground by default",
    )
    boundary: str | None = Field(
        None, description="channel of the borders between objects, taken out of the foreground"
    )
    classes: tuple[str, ...] = Field(
        (), description="channels of which the one with the greatest mean is an object's class"
    )
    threshold: float = Field(0.5, description="an object's pixels have at least that foreground")
    min_distance_um: float = Field(
        2.0, gt=0, description="least distance between two objects' seeds, um"
    )
    min_area_um2: float = Field(0.0, ge=0, description="smaller objects are left out, um2")
    max_diameter_um: float = Field(
        30.0,
        gt=0,
        description="the largest object there is, um; that much is predicted around a block, "
        "and what is larger is flagged as truncated",
    )


class RegionsSpec(_Spec):
    """How the connected regions of a label map are found, over all blocks."""

    min_area_um2: float = Field(0.0, ge=0, description="smaller regions are left out, um2")


class OutputSpec(_Spec):
    """What the model gives."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="what it is called in the results"
    )
    tensor: str | None = Field(
        None, description="name of the ONNX output; the same as `name` by default"
    )
    kind: Literal["scores", "features", "labels", "objects"] = Field(
        "scores",
        description="scores: a map per class; features: a vector per patch; labels: a class "
        "per pixel; objects: a table of instances",
    )
    channels: Names | Annotated[Whole, Field(ge=1, le=2**16)] = Field(
        description="name of each channel or class; for features how many there are"
    )
    colours: tuple[Colour, ...] = Field((), description="colour of each channel, as #rrggbb")
    activation: Literal["none", "sigmoid", "softmax", "argmax"] = Field(
        "none",
        description="applied to the raw output; none if the graph ends with its own; argmax is for "
        "labels, which take the greatest channel anyway; labels of a graph that gives integers "
        "(N, H, W) or (N, 1, H, W) are the numbers of the channels, from 0 on, with none",
    )
    stride: Annotated[Whole, Field(ge=1)] = Field(
        1, description="input pixels per output pixel: 1 is dense, `patch` is one per patch"
    )
    range: tuple[float, float] = Field(
        (0.0, 1.0), description="values that 0 and 255 stand for when stored as uint8"
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="how features are stored")
    threshold: float = Field(
        0.5, description="labels of a single channel: where it is at least that"
    )
    objects: ObjectsSpec | None = Field(None, description="how objects are found")
    regions: RegionsSpec | None = Field(
        None, description="connected regions of the labels, as a table of outlines"
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each channel; features are numbered."""
        if isinstance(self.channels, int):
            return tuple(map(str, range(self.channels)))
        return self.channels

    @model_validator(mode="after")
    def _fits_its_kind(self) -> OutputSpec:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        count = len(self.names)
        if isinstance(self.channels, int) and self.kind != "features":
            yield f"channels {self.channels}: a number is for features; give each one's name"
        if self.colours and len(self.colours) != count:
            yield f"colours: {len(self.colours)} for {count} channels"
        if self.activation == "argmax" and self.kind != "labels":
            yield f"activation argmax is for kind labels, not {self.kind}"
        if self.activation == "softmax" and count < 2:
            yield "activation softmax needs two channels or more; use sigmoid"
        if not self.range[0] < self.range[1]:
            yield f"range [{self.range[0]:g}, {self.range[1]:g}] must rise"
        yield from self._kind_problems(count)

    def _kind_problems(self, count: int) -> Iterator[str]:
        if (self.kind == "objects") != (self.objects is not None):
            yield "objects: is needed for kind objects, and for no other kind"
        if self.regions is not None and self.kind != "labels":
            yield f"regions are made of labels, not of {self.kind}"
        if self.kind == "labels" and self.name in RESERVED:
            yield f"name {self.name}: labels of that name are the pipeline's own"
        if self.kind == "labels" and count > 255:
            yield f"channels: {count} classes; labels hold 255 at most"
        if self.objects is not None:
            yield from self._unknown_channels(self.objects)

    def _unknown_channels(self, objects: ObjectsSpec) -> Iterator[str]:
        for field in ("foreground", "seeds", "boundary"):
            name = getattr(objects, field)
            if name is not None and name not in self.names:
                yield f"objects.{field} {name}: no such channel; there is {', '.join(self.names)}"
        for name in objects.classes:
            if name not in self.names:
                yield f"objects.classes {name}: no such channel; there is {', '.join(self.names)}"


class StitchSpec(_Spec):
    """How patches become a whole."""

    method: Literal["crop", "gaussian", "mean"] = Field(
        "crop",
        description="crop: keep each patch's middle, so that every output pixel comes from one "
        "patch; gaussian, mean: average overlapping patches, by distance from their middle or not",
    )
    halo: Annotated[Whole, Field(ge=0)] = Field(
        0, description="crop: margin of a patch that is predicted but not kept"
    )
    overlap: Annotated[Whole, Field(ge=2)] | None = Field(
        None,
        description="gaussian, mean: pixels that neighbouring patches share; "
        "half a patch by default",
    )


class Card(_Spec):
    """A model card, version 1."""

    card: Literal[1] = Field(1, description="version of this format")
    name: str = Field(min_length=1, description="what the model is called")
    version: str = Field("", description="its version")
    licence: str = Field("", description="its licence")
    description: str = Field("", description="what it finds, in a sentence")
    onnx: str = Field(
        min_length=1,
        description="the ONNX file: relative to the card, or a URL (https://, s3://, gs://), or "
        "hf://OWNER/REPO[@REVISION]/FILE",
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="digest of the ONNX file; needed where that is downloaded"
    )
    input: InputSpec = Field(InputSpec(), description="what the model is given")
    mpp: float | None = Field(None, gt=0, description="um per pixel it was made for")
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)] = Field(
        description="what the model gives; several outputs may use the same tensor"
    )
    stitch: StitchSpec = Field(StitchSpec(), description="how patches become a whole")
    batch: Auto | Annotated[Whole, Field(ge=1, le=2**12)] = Field(
        "auto",
        description="patches per call, always exactly that many, padded at the end; auto: the "
        "fastest of a few sizes, measured once in every worker",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._input_problems()
        names = [output.name for output in self.outputs]
        if len(set(names)) < len(names):
            yield f"outputs: a name is given twice: {', '.join(names)}"
        if self.stitch.method == "crop" and self.stitch.overlap is not None:
            yield "stitch.overlap is for gaussian and mean; for crop give stitch.halo"
        if self.stitch.method != "crop" and self.stitch.halo:
            yield f"stitch.halo is for crop; for {self.stitch.method} give stitch.overlap"
        if self.input.patch != "auto":
            yield from self.patch_problems(self.input.patch)

    def _input_problems(self) -> Iterator[str]:
        given = self.input
        if min(given.std) <= 0:
            yield f"input.std {given.std} must be greater than 0"
        if given.scale == 0:
            yield "input.scale 0 makes every pixel the same"
        if given.zscore != "none" and (any(given.mean) or set(given.std) != {1.0}):
            yield f"input.zscore {given.zscore} takes the place of input.mean and input.std"
        if given.channels == "grey" and (len(given.mean) > 1 or len(given.std) > 1):
            yield "input.channels grey has one input.mean and one input.std"

    def margin(self, patch: int) -> int:
        """Give the margin around what a patch is responsible for, in pixels."""
        if self.stitch.method == "crop":
            return self.stitch.halo
        return (patch // 2 if self.stitch.overlap is None else self.stitch.overlap) // 2

    def patch_problems(self, patch: int) -> Iterator[str]:
        """Say what does not fit a patch of that many pixels."""
        crop, halo = self.stitch.method == "crop", self.margin(patch)
        core = patch - 2 * halo
        said = f"stitch.halo {halo}" if crop else f"stitch.overlap {2 * halo}"
        if core <= 0:
            yield f"{said} leaves nothing of input.patch {patch}"
            return
        for output in self.outputs:
            stride = output.stride
            whole = core % stride == 0 and (halo % stride == 0 or (crop and core == stride))
            if whole:
                continue
            less = "twice stitch.halo" if crop else "stitch.overlap"
            yield (
                f"outputs.stride {stride} must divide input.patch {patch} less {less} "
                f"{halo if crop else 2 * halo}; for one score per patch every {stride} px use "
                f"halo {max(patch - stride, 0) // 2}"
            )
