"""What travels of a model to the workers: small frozen tokens, in pixels of what it sees.

`ModelRef` says how patches are laid out and what is made of them, and holds one `SessionRef`
for each ONNX file that is run on them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from math import ceil, lcm
from typing import Any

from pipeline.geometry import Box, Frame

__all__ = [
    "BACKGROUND",
    "CLASSES",
    "MapRef",
    "ModelRef",
    "ObjectsRef",
    "OutputRef",
    "SessionRef",
]

BACKGROUND = "background"
"""The name of the channel that is label 0, whichever it is."""

CLASSES = "classes"
"""The activation of a map that holds numbers of classes, from 0 on, instead of a score for each."""


@dataclass(frozen=True, slots=True)
class SessionRef:
    """The token of one ONNX file: what a session is opened by, and how it is fed.

    ``mean`` and ``std`` have one value or three; ``tensors`` are the outputs that are asked for.
    ``batch`` is the number of patches per call, or with ``batch_auto`` the most there may be.
    ``gpu_bytes`` bounds the memory on a GPU; 0 leaves it to the runtime.
    """

    onnx: str
    digest: str
    layout: str
    order: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    zscore: str
    tensors: tuple[str, ...]
    patch: int
    batch: int
    batch_auto: bool = False
    border: str = "background"
    provider: str = "cpu"
    gpu_bytes: int = 0

    @property
    def channels(self) -> int:
        """Channels of the input."""
        return 1 if self.order == "grey" else 3

    def input_shape(self, batch: int) -> tuple[int, int, int, int]:
        """Give the shape of a batch as the graph takes it."""
        n, c, side = batch, self.channels, self.patch
        return (n, c, side, side) if self.layout == "NCHW" else (n, side, side, c)


@dataclass(frozen=True, slots=True)
class MapRef:
    """One dense map that patches are stitched to: a tensor after its activation.

    ``tensor`` counts within `SessionRef.tensors`. ``activation`` is none, sigmoid, softmax or
    `CLASSES`; those of the latter are one channel of integers, which cannot be averaged.
    ``reach`` is how far around a block it is made, in input pixels.
    """

    tensor: int
    activation: str
    channels: int
    stride: int
    reach: int = 0


@dataclass(frozen=True, slots=True)
class ObjectsRef:
    """How objects are found in a map; channels by their number, lengths in um.

    ``classes`` pairs a channel with the name of the class. See `pipeline.model.card.ObjectsSpec`.
    """

    method: str
    foreground: int
    seeds: int | None
    boundary: int | None
    classes: tuple[tuple[int, str], ...]
    threshold: float
    min_distance_um: float
    min_area_um2: float
    max_diameter_um: float

    @property
    def reach_um(self) -> float:
        """How far around a block it must be looked, so that no object depends on the blocks.

        The largest object that begins in the block and the largest that this one touches, and
        what decides which of their seeds is one: see `pipeline.objects.found` and its `maxima`.
        """
        return 2 * self.max_diameter_um + 5 * self.min_distance_um


@dataclass(frozen=True, slots=True)
class OutputRef:
    """One output: what is made of a map, and what it is called.

    ``values`` are the label values of the channels. ``threshold`` is for labels of one channel,
    ``regions_min_area_um2`` is None where no regions are wanted.
    """

    name: str
    kind: str
    map: int
    channels: tuple[str, ...]
    colours: tuple[str, ...]
    value_range: tuple[float, float]
    dtype: str
    threshold: float
    values: tuple[int, ...] = ()
    objects: ObjectsRef | None = None
    regions_min_area_um2: float | None = None

    @property
    def is_array(self) -> bool:
        """Whether it is stored as an array, and not as a table."""
        return self.kind != "objects"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The token of a model: what a worker needs to run it on a block.

    A patch of ``patch`` pixels is responsible for the ``step`` in its middle, its cell of the
    global grid; around it are ``halo`` pixels. With ``method`` crop its values there are the
    map's; otherwise all its values count, and the map is an average.
    """

    members: tuple[SessionRef, ...]
    patch: int
    step: int
    halo: int
    method: str
    maps: tuple[MapRef, ...]
    outputs: tuple[OutputRef, ...]
    tta: str = "none"

    @property
    def stride(self) -> int:
        """Input pixels that hold a whole number of pixels of every map."""
        return lcm(*(each.stride for each in self.maps))

    @property
    def used(self) -> int:
        """How far beyond its cell a patch's values are used."""
        return 0 if self.method == "crop" else self.halo

    @property
    def reach(self) -> int:
        """How far around a block any map is made."""
        return max(each.reach for each in self.maps)

    @property
    def frame(self) -> Frame:
        """What must be read to predict a block."""
        return Frame(step=self.step, halo=self.halo, reach=self.reach + self.used)

    @property
    def digest(self) -> str:
        """The SHA-256 of its ONNX file; of all their digests where there are several."""
        digests = [member.digest for member in self.members]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def predicted_for(self, box: Box) -> Box:
        """Give what the cells of the patches that have a part in ``box`` touch."""
        return box.expanded(self.reach + self.used)

    def at(self, mpp: tuple[float, float]) -> ModelRef:
        """Give the token for a level of ``mpp`` um per pixel ``(y, x)``: how far objects reach."""
        reaches = [0] * len(self.maps)
        for output in self.outputs:
            if output.objects is not None:
                reach = ceil(output.objects.reach_um / min(mpp) / self.stride) * self.stride
                reaches[output.map] = max(reaches[output.map], reach)
        maps = tuple(
            replace(each, reach=reach) for each, reach in zip(self.maps, reaches, strict=True)
        )
        return replace(self, maps=maps)

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever of it changes a stored value, as JSON."""
        return {
            "model.digest": self.digest,
            "model.patch": self.patch,
            "model.halo": self.halo,
            "model.stitch": self.method,
            "model.tta": self.tta,
            "model.input": [
                [
                    *(each.layout, each.order, each.scale, list(each.mean), list(each.std)),
                    *(each.zscore, each.border),
                ]
                for each in self.members
            ],
            **{
                f"model.output.{output.name}": [
                    output.kind,
                    self.members[0].tensors[self.maps[output.map].tensor],
                    self.maps[output.map].activation,
                    self.maps[output.map].stride,
                    list(output.channels),
                ]
                for output in self.outputs
            },
            **{
                f"model.range.{output.name}": list(output.value_range)
                for output in self.outputs
                if output.kind == "scores"
            },
            **{
                f"model.labels.{output.name}": [list(output.values), output.threshold]
                for output in self.outputs
                if output.kind == "labels"
            },
            **{
                f"model.features.{output.name}": output.dtype
                for output in self.outputs
                if output.kind == "features"
            },
            **{
                f"model.regions.{output.name}": output.regions_min_area_um2
                for output in self.outputs
                if output.regions_min_area_um2 is not None
            },
            **{
                f"model.objects.{output.name}": _objects_settings(output.objects)
                for output in self.outputs
                if output.objects is not None
            },
        }


def _objects_settings(objects: ObjectsRef) -> list[Any]:
    return [
        objects.method,
        *(objects.foreground, objects.seeds, objects.boundary),
        [list(pair) for pair in objects.classes],
        *(objects.threshold, objects.min_distance_um),
        *(objects.min_area_um2, objects.max_diameter_um),
    ]
