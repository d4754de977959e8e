"""Tensors as bioimage.io describes them: letters and a shape in 0.4, a list of axes in 0.5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ModelError

__all__ = ["Axis", "Tensor", "read_tensor"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: ``kind`` is its letter in 0.4 (b, c, y, x, ...), ``id`` its name in 0.5.

    ``size`` is fixed, or None where it follows the input: then it is the input's times
    ``ratio`` plus ``offset``. An input that may have many sizes has ``size`` and every
    ``step`` beyond.
    """

    kind: str
    id: str
    size: int | None = None
    step: int = 0
    ratio: float = 1.0
    offset: float = 0.0
    halo: int = 0
    unit: str = ""
    scale: float = 1.0
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output; ``where`` names it in messages. ``range`` is what its values span."""

    name: str
    where: str
    axes: tuple[Axis, ...]
    range: tuple[float, float] | None
    channel_names: list[str]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def kinds(self) -> str:
        """Give the letters of its axes, in order."""
        return "".join(axis.kind for axis in self.axes)

    def axis(self, kind: str) -> Axis:
        """Give an axis by its letter."""
        for axis in self.axes:
            if axis.kind == kind:
                return axis
        raise ModelError(f"{self.where}: axes {self.kinds}: no axis {kind}")

    def channels(self, given: Tensor | None) -> int:
        """Give how many channels there are, perhaps as many as the input has."""
        axis = self.axis("c")
        if axis.size is not None:
            return axis.size
        have = 0 if given is None or not axis.ratio else given.channels(None)
        return int(have * axis.ratio + axis.offset)

    def side(self, kind: str, most: int) -> int:
        """Give the pixels of an input along an axis: fixed, or at most ``most`` if that can be."""
        axis = self.axis(kind)
        if axis.size is None:  # as long as another axis of it
            others = [each for each in self.axes if each.id == axis.same_as and each.size]
            if not others or axis.offset:
                raise ModelError(f"{self.where}: axis {axis.id}: its size is not said by itself")
            axis = others[0]
        size = axis.size or 0
        return size + max(most - size, 0) // axis.step * axis.step if axis.step else size

    def stride(self, given: Tensor, patch: int) -> int:
        """Give the input's pixels for one of an output's."""
        if "y" not in self.kinds:
            return patch
        strides = {self._stride(kind, given, patch) for kind in "yx"}
        if len(strides) > 1 or not min(strides) >= 1 or min(strides) % 1:
            raise ModelError(
                f"{self.where}: {' and '.join(f'{each:g}' for each in sorted(strides))} pixels of "
                "the input for one of the output; a whole number, the same both ways, can be"
            )
        return int(min(strides))

    def _stride(self, kind: str, given: Tensor, patch: int) -> float:
        axis = self.axis(kind)
        if axis.size is not None:
            return patch / axis.size
        if axis.same_as and axis.same_as != given.axis(kind).id:
            raise ModelError(f"{self.where}: axis {axis.id}: is as long as {axis.same_as}")
        if not axis.ratio:
            raise ModelError(f"{self.where}: axis {axis.id}: does not follow the input")
        # 0.5 compares the lengths of pixels, and a plain ratio is that of a pixel of length 1.
        return (axis.scale / given.axis(kind).scale if axis.same_as else 1.0) / axis.ratio

    def halo(self, given: Tensor, patch: int) -> int:
        """Give the margin of a patch that is not kept, in the input's pixels."""
        if "y" not in self.kinds:
            return 0
        stride = self.stride(given, patch)
        margins = set()
        for kind in "yx":
            axis = self.axis(kind)
            cut = -axis.offset / 2
            if cut < 0 or cut % 1 or (cut and axis.halo):
                raise ModelError(
                    f"{self.where}: axis {axis.id}: offset {axis.offset:g}, halo {axis.halo}: a "
                    "margin that the model has cut off, or one that is to be, can be"
                )
            margins.add(int(cut or axis.halo) * stride)
        if len(margins) > 1:
            raise ModelError(f"{self.where}: halo {sorted(margins)}: has to be the same both ways")
        return margins.pop()

    def processing(self, key: str) -> list[tuple[str, dict[str, Any]]]:
        """Give the steps of ``preprocessing`` or ``postprocessing``: name and arguments."""
        steps = self.raw.get(key) or []
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ModelError(f"{self.where}.{key}: no list of steps (given {steps!r:.60})")
        return [
            (str(step.get("id", step.get("name"))), dict(step.get("kwargs") or {}))
            for step in steps
        ]


def read_tensor(raw: Mapping[str, Any], where: str) -> Tensor:
    """Give a tensor of a description of either version."""
    name = str(raw.get("id", raw.get("name", "tensor")))
    where = f"{where}.{name}"
    axes = raw.get("axes")
    try:
        read = _letters(raw, axes) if isinstance(axes, str) else tuple(map(_listed, axes or ()))
        names = [n for axis in axes or () if isinstance(axis, dict) for n in _names(axis)]
        return Tensor(name, where, read, _range(raw), names, raw)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"{where}: axes and shape are not as bioimage.io has them") from error


def _names(axis: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in axis.get("channel_names", ())]


def _letters(raw: Mapping[str, Any], letters: str) -> tuple[Axis, ...]:
    """Give the axes of 0.4: sizes, or ``min`` and ``step``, or what they are of the input's."""
    shape, halo = raw["shape"], raw.get("halo") or [0] * len(letters)
    axes = []
    for place, kind in enumerate(letters):
        own: dict[str, Any] = {"halo": int(halo[place])}
        if isinstance(shape, list):
            own["size"] = int(shape[place])
        elif "min" in shape:
            own["size"], own["step"] = int(shape["min"][place]), int(shape["step"][place])
        else:
            own["ratio"] = float(shape["scale"][place] or 0)
            own["offset"] = 2 * float(shape["offset"][place])
        axes.append(Axis(kind, kind, **own))
    return tuple(axes)


_KINDS = {"batch": "b", "channel": "c", "time": "t", "index": "i"}


def _listed(raw: Mapping[str, Any]) -> Axis:
    """Give one axis of 0.5."""
    kind, size = raw["type"], raw.get("size")
    name = raw.get("id", "x" if kind == "space" else kind)
    own: dict[str, Any] = {"halo": int(raw.get("halo", 0))}
    if kind == "channel":
        own["size"] = len(raw["channel_names"])
    elif isinstance(size, int):
        own["size"] = size
    elif isinstance(size, dict) and "min" in size:
        own["size"], own["step"] = int(size["min"]), int(size["step"])
    elif isinstance(size, dict):
        own["same_as"], own["offset"] = str(size["axis_id"]), float(size.get("offset", 0))
    return Axis(
        _KINDS.get(kind, name),
        name,
        unit=str(raw.get("unit") or ""),
        scale=float(raw.get("scale", 1)),
        **own,
    )


def _range(raw: Mapping[str, Any]) -> tuple[float, float] | None:
    """Give what a tensor's values span; None where that is not said, or without end."""
    data = raw.get("data") or {}
    said = raw.get("data_range") or (data.get("range") if isinstance(data, dict) else None)
    if not said or any(end is None or not math.isfinite(float(end)) for end in said):
        return None
    low, high = map(float, said)
    return (low, high) if low < high else None
