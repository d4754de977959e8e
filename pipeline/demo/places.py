"""Where things are on a synthetic slide: tissue pieces, slow variation, places of cells.

Each is a function of global coordinates, so that any part of the slide knows its own contents
without the rest. Coordinates are level-0 pixels from the slide's top-left corner; the centre
of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Lattice", "Piece", "Span", "Waves", "scatter_pieces"]

Floats = NDArray[np.float64]
Span = tuple[float, float]

_ANGLES = 361  # vertices of an outline, the first one repeated at its end


@dataclass(frozen=True)
class Piece:
    """A tissue piece: an ellipse's half-axes and, in them, a radius below 1 for every angle."""

    centre: tuple[float, float]
    axes: tuple[float, float]
    radius: Floats

    @property
    def outline(self) -> Floats:
        """The closed outline, (m, 2) as (x, y)."""
        angle = np.linspace(-np.pi, np.pi, len(self.radius))
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1) * self.radius[:, None]
        outline: Floats = np.array(self.centre) + unit * np.array(self.axes)
        outline[-1] = outline[0]
        return outline

    def near(self, x: Span, y: Span, *, margin: float) -> bool:
        """Whether the piece may come within ``margin`` of a box."""
        return all(
            low - margin < centre + axis and high + margin > centre - axis
            for (low, high), centre, axis in zip((x, y), self.centre, self.axes, strict=True)
        )

    def depth(self, x: Floats, y: Floats) -> Floats:
        """How far inside the piece, in pixels, roughly; zero on the outline, negative outside."""
        u, v = (x - self.centre[0]) / self.axes[0], (y - self.centre[1]) / self.axes[1]
        turn = (np.arctan2(v, u) / (2 * np.pi) + 0.5) * (len(self.radius) - 1)
        border = np.interp(turn, np.arange(len(self.radius)), self.radius)
        return (border - np.hypot(u, v)) * min(self.axes)


def scatter_pieces(width: int, height: int, rng: np.random.Generator) -> tuple[Piece, ...]:
    """Place five pieces that do not touch, in the fields but one of a 3 x 2 (or 2 x 3) table."""
    columns, rows = (3, 2) if width >= height else (2, 3)
    left_out = int(rng.integers(6))
    pieces = []
    for place in range(6):
        size, shift_x, shift_y = rng.uniform(0.82, 1.0), *rng.uniform(-1, 1, 2)
        radius = _wobbly_circle(rng)
        if place == left_out:
            continue
        room = np.array([width / columns, height / rows]) / 2
        axes = room * size * 0.98
        field = np.array([place % columns, place // columns]) * 2 + 1
        x, y = field * room + (room * 0.98 - axes) * (shift_x, shift_y)
        pieces.append(Piece((float(x), float(y)), (float(axes[0]), float(axes[1])), radius))
    return tuple(pieces)


def _wobbly_circle(rng: np.random.Generator) -> Floats:
    angle = np.linspace(-np.pi, np.pi, _ANGLES)
    order = np.arange(2, 15)[:, None]
    height, phase = rng.normal(0, 0.17, order.shape) / order**1.15, rng.uniform(0, 7, order.shape)
    radius = np.clip(1 + (height * np.cos(order * angle + phase)).sum(axis=0), 0.4, None)
    scaled: Floats = radius / radius.max() * 0.96
    scaled[-1] = scaled[0]
    return scaled


@dataclass(frozen=True)
class Waves:
    """A slow random field, about normal: a sum of cosines, rows of (kx, ky, phase)."""

    terms: Floats

    @classmethod
    def draw(cls, length: float, rng: np.random.Generator) -> Waves:
        """Six waves of about ``length`` pixels in all directions."""
        turn = (np.arange(6) + rng.uniform(0, 1, 6)) * np.pi / 6
        number = 2 * np.pi / (length * rng.uniform(0.6, 1.5, 6))
        phase = rng.uniform(0, 2 * np.pi, 6)
        return cls(np.stack([number * np.cos(turn), number * np.sin(turn), phase], axis=1))

    def at(self, x: Floats, y: Floats) -> Floats:
        """Evaluate the field at some points."""
        total = np.zeros(np.shape(x))
        for along, down, phase in self.terms:
            total += np.cos(along * x + down * y + phase)
        total /= np.sqrt(len(self.terms) / 2)
        return total


@dataclass(frozen=True)
class Lattice:
    """Sites of a hexagonal lattice, each moved at random by at most half ``jitter`` spacings.

    Two sites are never closer than ``spacing * (1 - jitter)``, but for the rounding to pixels.
    """

    spacing: float
    jitter: float
    key: int

    def sites(self, x: Span, y: Span) -> tuple[Floats, Floats, Floats, Floats]:
        """Find the sites in a half-open box: x and y on pixel centres, two numbers in [0, 1)."""
        pitch = self.spacing * np.sqrt(0.75)
        rows = np.arange(np.floor(y[0] / pitch) - 1, np.ceil(y[1] / pitch) + 1)[:, None]
        columns = np.arange(np.floor(x[0] / self.spacing) - 2, np.ceil(x[1] / self.spacing) + 1)
        random = _uniform(self.key, rows.astype(np.int64), columns.astype(np.int64))
        turn = 2 * np.pi * random[..., 0]
        reach = self.spacing * self.jitter / 2 * np.sqrt(random[..., 1])
        left = (columns + 0.5 + rows % 2 / 2) * self.spacing + reach * np.cos(turn)
        top = (rows + 0.5) * pitch + reach * np.sin(turn)
        left, top = np.floor(left) + 0.5, np.floor(top) + 0.5
        here = (left >= x[0]) & (left < x[1]) & (top >= y[0]) & (top < y[1])
        return left[here], top[here], random[here, 2], random[here, 3]


def _uniform(key: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Four numbers in [0, 1) for every row and column, by the place alone.

    The mixing is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key)
    mixed = mixed * np.uint64(0xD1B54A32D192ED03)
    mixed = mixed ^ columns.astype(np.uint64) * np.uint64(0x8CB92BA72F3D8DD7)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed = np.ascontiguousarray(mixed ^ (mixed >> np.uint64(31)))
    numbers: Floats = mixed[..., None].view("<u2") / 65536.0
    return numbers
