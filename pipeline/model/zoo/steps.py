"""What bioimage.io does with values before and after a model, as far as a card can say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ModelError

__all__ = ["Steps", "activation_of", "normalisation_of"]

_CASTS = ("float32", "float64")

_SMALL = 1e-5
"""What is added to a standard deviation may be left out up to this, in grey levels of 256."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a tensor, ``kind`` of them, and the range of its values if that is known."""

    where: str
    kind: str
    steps: list[tuple[str, dict[str, Any]]]
    range: tuple[float, float] | None

    def refused(self, name: str, why: str) -> ModelError:
        """Give the error for a step that no card can say."""
        return ModelError(f"{self.where}: {self.kind}: {name}: {why}; write a card of your own")


@dataclass
class _Linear:
    """``value * gain + offset``, for all channels or for each."""

    gain: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    def then(self, gain: tuple[float, ...], offset: tuple[float, ...]) -> _Linear:
        count = max(map(len, (self.gain, self.offset, gain, offset)))
        g, o, by, plus = (_spread(each, count) for each in (self.gain, self.offset, gain, offset))
        return _Linear(
            tuple(a * b for a, b in zip(g, by, strict=True)),
            tuple(a * b + c for a, b, c in zip(o, by, plus, strict=True)),
        )

    @property
    def uniform(self) -> bool:
        return len(set(self.gain)) == 1


def _spread(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values


def normalisation_of(steps: Steps) -> dict[str, Any]:
    """Give the card's ``scale``, ``mean``, ``std`` and ``zscore`` for the steps before a model."""
    linear, zscore = _Linear((_unit(steps),)), "none"
    for name, arguments in steps.steps:
        if name == "ensure_dtype":
            _check_cast(steps, arguments)
        elif zscore != "none":
            raise steps.refused(name, "comes after zero_mean_unit_variance")
        elif name == "zero_mean_unit_variance" and _per_sample(steps, arguments):
            zscore = _zscore(steps, arguments)
        elif name in _LINEAR:
            linear = linear.then(*_LINEAR[name](steps, name, arguments))
        elif name != "clip" or not _clips_nothing(linear, arguments):
            raise steps.refused(name, "cannot be said in a card")
    if min(linear.gain) <= 0 or (zscore == "patch" and not linear.uniform):
        raise steps.refused("scale_linear", f"gains {linear.gain}")
    if zscore != "none":
        return {"scale": linear.gain[0], "zscore": zscore}
    if linear.uniform:
        return {"scale": linear.gain[0], "mean": [-each for each in _short(linear.offset)]}
    return {
        "scale": 1.0,
        "mean": [-o / g for o, g in zip(linear.offset, linear.gain, strict=True)],
        "std": [1 / g for g in linear.gain],
    }


def activation_of(steps: Steps) -> str:
    """Give the card's ``activation`` for the steps after a model."""
    found = "none"
    for name, arguments in steps.steps:
        if name == "ensure_dtype":
            _check_cast(steps, arguments)
        elif found != "none" or name not in ("sigmoid", "softmax"):
            raise steps.refused(name, "cannot be said in a card")
        elif arguments.get("axis", "channel") not in ("channel", "c"):
            raise steps.refused(name, f"along {arguments['axis']}, not along channel")
        else:
            found = name
    return found


def _unit(steps: Steps) -> float:
    """Give what makes of 0 to 255 what the model's description takes."""
    if steps.range is None or steps.range == (0.0, 255.0):
        return 1.0
    if steps.range == (0.0, 1.0):
        return 1 / 255
    if any(_is_relative(name, arguments) for name, arguments in steps.steps):
        return 1.0  # whatever the unit is, it is divided out
    low, high = steps.range
    raise steps.refused("range", f"{low:g} to {high:g}, and slides are 0 to 255")


def _is_relative(name: str, arguments: Mapping[str, Any]) -> bool:
    return name == "zero_mean_unit_variance" and arguments.get("mode", "per_sample") != "fixed"


def _check_cast(steps: Steps, arguments: Mapping[str, Any]) -> None:
    if arguments.get("dtype") not in _CASTS:
        raise steps.refused("ensure_dtype", f"{arguments.get('dtype')}; the model is given float32")


def _per_sample(steps: Steps, arguments: Mapping[str, Any]) -> bool:
    """Say whether mean and deviation are a sample's own; 0.4 has a mode, 0.5 another step."""
    mode = arguments.get("mode")
    if mode is None:
        # The default of 0.4 is fixed, which says its mean.
        return "mean" not in arguments
    if mode == "per_dataset":
        raise steps.refused("zero_mean_unit_variance", "per_dataset: a patch does not know it")
    return bool(mode == "per_sample")


def _zscore(steps: Steps, arguments: Mapping[str, Any]) -> str:
    axes, eps = arguments.get("axes"), float(arguments.get("eps", 1e-6))
    if eps > _SMALL:
        raise steps.refused("zero_mean_unit_variance", f"eps {eps:g}, more than {_SMALL:g}")
    if axes is None:
        return "patch"
    kinds = {"channel": "c", "batch": "b"}
    names = {kinds.get(str(axis), str(axis)) for axis in axes} - {"b"}
    if names == {"y", "x"}:
        return "channel"
    if names == {"c", "y", "x"}:
        return "patch"
    raise steps.refused("zero_mean_unit_variance", f"over {', '.join(map(str, axes))}")


Made = tuple[tuple[float, ...], tuple[float, ...]]


def _scaled(steps: Steps, name: str, arguments: Mapping[str, Any]) -> Made:
    _check_axis(steps, name, arguments)
    return _numbers(arguments.get("gain", 1.0)), _numbers(arguments.get("offset", 0.0))


def _standardised(steps: Steps, name: str, arguments: Mapping[str, Any]) -> Made:
    _check_axis(steps, name, arguments)
    added = float(arguments.get("eps", 1e-6)) if name == "zero_mean_unit_variance" else 0.0
    mean, std = _numbers(arguments.get("mean", 0.0)), _numbers(arguments.get("std", 1.0))
    gain = tuple(1 / (each + added) for each in std)
    count = max(len(mean), len(gain))
    pairs = zip(_spread(mean, count), _spread(gain, count), strict=True)
    return gain, tuple(-m * g for m, g in pairs)


_LINEAR = {
    "scale_linear": _scaled,
    "zero_mean_unit_variance": _standardised,
    "fixed_zero_mean_unit_variance": _standardised,
}


def _check_axis(steps: Steps, name: str, arguments: Mapping[str, Any]) -> None:
    lists = [each for each in arguments.values() if isinstance(each, list)]
    if lists and arguments.get("axis", "channel") != "channel":
        raise steps.refused(name, f"along {arguments['axis']}, not along channel")


def _numbers(given: Any) -> tuple[float, ...]:
    return tuple(map(float, given)) if isinstance(given, list) else (float(given),)


def _short(values: tuple[float, ...]) -> tuple[float, ...]:
    return values[:1] if len(set(values)) == 1 else values


def _clips_nothing(linear: _Linear, arguments: Mapping[str, Any]) -> bool:
    """Say whether all that 0 to 255 becomes is within the ends."""
    low, high = arguments.get("min"), arguments.get("max")
    if any(key not in ("min", "max") for key in arguments):
        return False
    pairs = list(zip(_spread(linear.gain, 3), _spread(linear.offset, 3), strict=True))
    least, most = min(o for _, o in pairs), max(255 * g + o for g, o in pairs)
    return (low is None or least >= low - 1e-9) and (high is None or most <= high + 1e-9)
