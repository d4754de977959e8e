"""The model card: everything the pipeline must know of an ONNX file, checked against it.

A card is YAML beside the ONNX file; ``README.md`` documents its fields from here. `Model` is
the checked card, `ModelRef` the frozen token of it that travels to the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.describe import as_html, as_text
from pipeline.geometry import Frame

__all__ = ["Card", "Footprint", "InputSpec", "Model", "ModelRef", "OutputSpec", "StitchSpec"]

BATCH_PIXELS = 2**18
"""Input pixels of one automatic batch: one patch of 512 px, four of 256 px."""

MAX_BATCH = 32


# `halo: yes` is true in YAML, and would otherwise mean 1.
Whole = Annotated[int, Field(strict=True)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Spec):
    """What the model is given."""

    layout: Literal["NCHW", "NHWC"] = Field("NCHW", description="order of the input's axes")
    channels: Literal["RGB", "BGR"] = Field("RGB", description="order of the colours")
    patch: int = Field(
        ge=8, le=2**14, strict=True, description="side of one patch in pixels, halo included"
    )
    scale: float = Field(1 / 255, description="factor from 0..255, applied first")
    mean: tuple[float, float, float] = Field((0, 0, 0), description="subtracted after scaling")
    std: tuple[float, float, float] = Field((1, 1, 1), description="divided by, last")


class OutputSpec(_Spec):
    """What the model gives."""

    name: str = Field(description="name of the ONNX output")
    kind: Literal["scores"] = Field("scores", description="what the values are")
    channels: tuple[str, ...] = Field(min_length=1, description="name of each channel or class")
    activation: Literal["none", "sigmoid", "softmax"] = Field(
        "none", description="applied to the raw output; none if the graph ends with its own"
    )
    stride: int = Field(
        1,
        ge=1,
        strict=True,
        description="input pixels per output pixel: 1 is dense, `patch` is one per patch",
    )
    range: tuple[float, float] = Field(
        (0.0, 1.0), description="values that 0 and 255 stand for when stored as uint8"
    )


class StitchSpec(_Spec):
    """How patches become a whole."""

    method: Literal["crop"] = Field(
        "crop", description="keep each patch's middle: every output pixel comes from one patch"
    )
    halo: int = Field(
        0, ge=0, strict=True, description="margin of a patch that is predicted but not kept"
    )


class Card(_Spec):
    """A model card, version 1."""

    name: str = Field(description="what the model is called")
    version: str = Field("", description="its version")
    licence: str = Field("", description="its licence")
    description: str = Field("", description="what it finds, in a sentence")
    onnx: str = Field(description="the ONNX file, relative to the card")
    input: InputSpec = Field(description="what the model is given")
    mpp: float | None = Field(None, gt=0, description="um per pixel it was made for")
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1, max_length=1)] = Field(
        description="what the model gives; one output"
    )
    stitch: StitchSpec = Field(StitchSpec(), description="how patches become a whole")
    batch: Literal["auto"] | Annotated[Whole, Field(ge=1, le=2**12)] = Field(
        "auto", description="patches per call; always exactly that many, padded at the end"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        patch, halo, stride = self.input.patch, self.stitch.halo, self.outputs[0].stride
        core = patch - 2 * halo
        if core <= 0:
            raise ValueError(f"stitch.halo {halo} leaves nothing of input.patch {patch}")
        if core % stride or (halo % stride and core != stride):
            raise ValueError(
                f"outputs.stride {stride} must divide input.patch {patch} less twice "
                f"stitch.halo {halo}; for one score per patch every {stride} px use halo "
                f"{max(patch - stride, 0) // 2}"
            )
        if min(self.input.std) <= 0:
            raise ValueError(f"input.std {self.input.std} must be greater than 0")
        if self.input.scale == 0:
            raise ValueError("input.scale 0 makes every pixel the same")
        if self.outputs[0].activation == "softmax" and len(self.outputs[0].channels) < 2:
            raise ValueError("outputs.activation softmax needs two channels or more; use sigmoid")
        low, high = self.outputs[0].range
        if not low < high:
            raise ValueError(f"outputs.range [{low:g}, {high:g}] must rise")
        return self


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The token of a model: what a worker needs to run it on a patch."""

    onnx: str
    digest: str
    patch: int
    halo: int
    stride: int
    channels: int
    batch: int
    layout: str
    order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: str
    activation: str
    value_range: tuple[float, float]

    @property
    def core(self) -> int:
        """Side of what is kept of a patch, in input pixels: the cell of the patch grid."""
        return self.patch - 2 * self.halo

    @property
    def frame(self) -> Frame:
        """What must be read to predict a box."""
        return Frame(step=self.core, halo=self.halo)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory a model takes, measured: its session, and each batch that is being run."""

    session_bytes: int
    running_bytes: int


@dataclass(frozen=True)
class Model:
    """A card that agrees with its ONNX file, the token of both, and what it was seen to take."""

    path: str
    card: Card
    ref: ModelRef
    footprint: Footprint

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each output channel."""
        return self.card.outputs[0].channels

    def facts(self) -> dict[str, str]:
        """Say what there is to know, for people: name -> text."""
        ref = self.ref
        return {
            "version": self.card.version or "unknown",
            "licence": self.card.licence or "unknown",
            "mpp": "any" if self.card.mpp is None else f"{self.card.mpp:g} um/px",
            "patch": f"{ref.patch} px, of which {ref.core} are kept (halo {ref.halo})",
            "output": f"{', '.join(self.channels)}; one value every {ref.stride} px",
            "batch": str(ref.batch),
            "onnx": f"{ref.onnx} (sha256 {ref.digest[:12]})",
        }

    def __repr__(self) -> str:
        return as_text(f"Model {self.card.name}", self.facts())

    def _repr_html_(self) -> str:
        return as_html(f"Model {self.card.name}", self.facts())
