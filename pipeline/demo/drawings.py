"""How things on a synthetic slide look: stamps of cells, fibres of stroma, noise.

Drawn once per scene and small. A stamp is pasted wherever a cell is; a texture repeats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.places import Floats

__all__ = ["Ellipses", "Plane", "Stamps", "Texture", "draw_fibres", "draw_noise"]

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Stamps:
    """Drawings of one size, (n, 2 * reach + 1, same) optical densities, and radii in pixels."""

    values: Plane
    radii: Floats

    @property
    def reach(self) -> int:
        """Pixels from the middle of a stamp to its border."""
        return len(self.values[0]) // 2

    def paste(self, x: Floats, y: Floats, stamp: NDArray[np.intp], plane: Plane) -> None:
        """Draw stamps centred on pixels ``x``, ``y`` of ``plane``, the denser one winning."""
        size = 2 * self.reach + 1
        lefts, tops = (np.floor(at).astype(np.intp) - self.reach for at in (x, y))
        for left, top, which in zip(lefts.tolist(), tops.tolist(), stamp.tolist(), strict=True):
            part = plane[top : top + size, left : left + size]
            np.maximum(part, self.values[which], out=part)

    def __add__(self, other: Stamps) -> Stamps:
        """Both sets in one, at the size of the larger."""
        reach = max(self.reach, other.reach)
        values = [
            np.pad(one.values, ((0, 0), *[(reach - one.reach,) * 2] * 2)) for one in (self, other)
        ]
        return Stamps(np.concatenate(values), np.concatenate([self.radii, other.radii]))


@dataclass(frozen=True)
class Ellipses:
    """What stamps are drawn from; a radius is that of the circle of equal area."""

    radius_um: tuple[float, float]
    longest_um: float  # no half-axis is longer
    density: tuple[float, float]

    def stamps(self, count: int, mpp: float, rng: np.random.Generator) -> Stamps:
        """Soft-edged, slightly granular ellipses of every size in the range."""
        soft = 0.8 / mpp
        radii = np.linspace(*self.radius_um, count) / mpp
        reach = int(np.ceil(self.longest_um / mpp + soft / 2))
        down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        values = []
        for radius in radii:
            stretch = rng.uniform(1, min(1.35, self.longest_um / mpp / radius))
            turn, density = rng.uniform(0, np.pi), rng.uniform(*self.density)
            u = (across * np.cos(turn) + down * np.sin(turn)) / (radius * stretch)
            v = (down * np.cos(turn) - across * np.sin(turn)) / (radius / stretch)
            outward = np.hypot(u, v)
            edge = np.clip((1 - outward) * radius / soft + 0.5, 0, 1)
            grain = _smooth_noise(outward.shape, (0.5 / mpp, 0.5 / mpp), rng)
            inside = 0.9 + 0.12 * outward**2 + 0.09 * grain
            values.append(density * edge * inside)
        return Stamps(np.array(values, np.float32), radii)


@dataclass(frozen=True)
class Texture:
    """A pattern that repeats: (c, period + window, period + window), so that windows are views."""

    values: Plane
    window: int

    @classmethod
    def repeat(cls, pattern: Floats, window: int) -> Texture:
        """Give a texture of (c, period, period) values, seen through windows of one size."""
        wide = np.pad(pattern, ((0, 0), (0, window), (0, window)), mode="wrap")
        return cls(wide.astype(np.float32), window)

    def at(self, left: int, top: int) -> Plane:
        """Show the window whose top-left pixel is ``left``, ``top``: (c, window, window)."""
        period = self.values.shape[1] - self.window
        x, y = left % period, top % period
        return self.values[:, y : y + self.window, x : x + self.window]


def draw_fibres(period: int, window: int, mpp: float, rng: np.random.Generator) -> Texture:
    """Draw stroma fibres in about one direction, normally distributed: one channel."""
    turn = rng.uniform(0, np.pi)
    long = _smooth_noise((period, period), (14 / mpp, 1.3 / mpp), rng, turn=turn)
    short = _smooth_noise((period, period), (5 / mpp, 1.8 / mpp), rng, turn=turn + 0.5)
    return Texture.repeat(((long + short) / np.sqrt(2))[None], window)


def draw_noise(period: int, window: int, rng: np.random.Generator) -> Texture:
    """Draw sensor noise, 3 channels of grey levels, around 0.5 so that truncation rounds."""
    return Texture.repeat(0.5 + rng.normal(0, 1.6, (3, period, period)), window)


def _smooth_noise(
    shape: tuple[int, ...],
    length: tuple[float, float],
    rng: np.random.Generator,
    *,
    turn: float = 0.0,
) -> Floats:
    """Periodic Gaussian noise of unit variance, smooth over two lengths along turned axes."""
    y, x = np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij")
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    response = np.exp(-2 * np.pi**2 * ((along * length[0]) ** 2 + (across * length[1]) ** 2))
    response[0, 0] = 0
    smooth = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * response).real
    return np.asarray(smooth / max(float(smooth.std()), 1e-9))
