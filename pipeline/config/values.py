"""What the blocks of a run file are made of: kinds of values, and rules between keys."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pydantic import ValidationInfo

__all__ = [
    "Auto",
    "Block",
    "Count",
    "Duration",
    "LocalPath",
    "Memory",
    "Mpp",
    "Size",
    "Text",
    "Walltime",
    "duration_seconds",
    "needed_for",
    "only_for",
    "walltime_seconds",
]


@dataclass(frozen=True, slots=True)
class LocalPath:
    """Marks a field that names files; `pipeline.config.runfile` makes the relative absolute.

    ``names`` are words that stand for something else and stay.
    """

    names: tuple[str, ...] = ()

    def resolve(self, value: Any, folder: Path) -> Any:
        """Give text, or a list of it, as absolute; URLs and builtins stay as they are."""
        if isinstance(value, list):
            return [self.resolve(item, folder) for item in value]
        if not isinstance(value, str) or not value or re.match("builtin:|.*://", value):
            return value
        if value in self.names:
            return value
        home = os.path.expanduser(value)  # noqa: PTH111 - Path.expanduser raises on ~nobody
        return os.path.normpath(folder.absolute() / home)


def needed_for(chooser: str, choice: str) -> AfterValidator:
    """Ask for a value of a key where another key has a choice."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get(chooser) == choice:
            raise ValueError(f"{chooser}: {choice} needs a value here")
        return value

    return AfterValidator(check)


def only_for(chooser: str, choice: str) -> AfterValidator:
    """Refuse a value of a key unless another key has a choice."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get(chooser, choice) != choice:
            raise ValueError(f"leave it out, or set {chooser}: {choice}")
        return value

    return AfterValidator(check)


def _check_memory(value: str | int) -> str | int:
    if value != "auto" and not _is_size(value):
        raise ValueError("give auto, or 1 MiB or more, such as 4 GiB")
    return value


def _check_size(value: str | int) -> str | int:
    if not _is_size(value):
        raise ValueError("give 1 MiB or more, such as 16 GiB")
    return value


def _is_size(value: str | int) -> bool:
    from dask.utils import parse_bytes

    try:
        return bool(parse_bytes(value) >= 2**20)
    except (ValueError, OverflowError):
        return False


_DURATION = re.compile(r"(\d+(?:\.\d+)?) *(s|second|min|minute|h|hour|day)s?")
_UNITS = {"s": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86400}


def duration_seconds(text: str) -> float:
    """Give a duration in seconds; ValueError where it is none.

    >>> duration_seconds("90 s"), duration_seconds("10 minutes"), duration_seconds("1.5 h")
    (90.0, 600.0, 5400.0)
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError("give a duration such as 10 minutes, 90 s or 2 h")
    return float(found[1]) * _UNITS[found[2]]


def _check_duration(value: str) -> str:
    duration_seconds(value)
    return value


_WALLTIME = re.compile(
    r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?"
    r"|(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)|(?P<only>\d+))"
)


def walltime_seconds(text: str) -> int:
    """Give what SLURM takes a time limit for, by sbatch(1); ValueError where it is none.

    >>> walltime_seconds("02:00:00"), walltime_seconds("1-12"), walltime_seconds("90")
    (7200, 129600, 5400)
    """
    found = _WALLTIME.fullmatch(text.strip())
    if found is None:
        raise ValueError("give hours:minutes:seconds or days-hours:minutes:seconds, in quotes")
    of = {name: int(number or 0) for name, number in found.groupdict().items()}
    days, hours = of["d"], of["dh"] + of["h"]
    minutes = of["dm"] + of["m"] + of["only"]
    return ((days * 24 + hours) * 60 + minutes) * 60 + of["ds"] + of["s"]


def _check_walltime(value: str) -> str:
    walltime_seconds(value)
    return value


Auto = Literal["auto"]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Mpp = Annotated[float, Field(gt=0.01, lt=100)]
Memory = Annotated[Auto | str | int, AfterValidator(_check_memory)]
Size = Annotated[str | int, AfterValidator(_check_size)]
Duration = Annotated[str, AfterValidator(_check_duration)]
Walltime = Annotated[str, AfterValidator(_check_walltime)]


class Block(BaseModel):
    """A block of keys in the run file."""

    # strict: `workers: yes` is true in YAML, and would otherwise mean 1
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )
