"""What a synthetic H&E slide shows, rendered one square at a time.

Nothing here is the size of the slide, and every part is a function of its place: any square
can be rendered by itself and comes out the same, whatever was rendered before it and wherever
its borders lie.

Colour is physical: concentrations of haematoxylin and eosin become optical densities through
the stain vectors of Ruifrok and Johnston (Analytical and Quantitative Cytology and Histology
23:291-299, 2001), and light by Beer-Lambert's law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.drawings import Ellipses, Plane, Stamps, draw_fibres, draw_noise
from pipeline.demo.places import Floats, Lattice, Span, Waves, scatter_pieces

__all__ = ["TILE", "WHITE", "Scene"]

TILE = 256
WHITE = 243  # grey level of the empty slide

_HAEMATOXYLIN = (0.65, 0.70, 0.29)
_RESIDUAL = (0.27, 0.57, 0.78)
# Eosin as scanners see it: the paper's vector (0.07, 0.99, 0.11) and half the residual, without
# which it is magenta. The residual has no part in the haematoxylin that deconvolution finds.
_EOSIN = (0.07 + 0.5 * 0.27, 0.99 + 0.5 * 0.57, 0.11 + 0.5 * 0.78)
_LN10 = float(np.log(10))

_STEP = 16  # pixels between the nodes of slowly varying fields
_SPACING_UM, _JITTER = 10.0, 0.5  # centres stay 5 um apart: no nucleus reaches another's
_DRAWINGS = 96  # of each kind of nucleus

# x, y and which stamp, of the sites in a box
Sites = tuple[Floats, Floats, NDArray[np.intp]]


class Scene:
    """A slide of ``width`` x ``height`` pixels of ``mpp`` micrometres, decided by ``seed``.

    Coordinates are level-0 pixels (x, y) from the slide's top-left corner; the centre of the
    first pixel is (0.5, 0.5).
    """

    def __init__(self, width: int, height: int, *, mpp: float, seed: int) -> None:
        self.width, self.height, self.mpp = width, height, mpp
        rng = np.random.default_rng(seed)
        keys = [int(key) for key in rng.integers(2**63, size=3)]
        self._pieces = scatter_pieces(width, height, rng)
        self._lymphoid, self._weave, self._tone = (
            Waves.draw(length_um / mpp, rng) for length_um in (420, 260, 160)
        )
        self._fibres = [draw_fibres(period, TILE, mpp, rng) for period in (768, 640)]
        self._noise = draw_noise(512, TILE, rng)
        self._nuclei = Lattice(_SPACING_UM / mpp, _JITTER, keys[0])
        self._red = Lattice(24 / mpp, 0.7, keys[1])
        self._debris = Lattice(300 / mpp, 0.8, keys[2])
        plump = Ellipses((2.9, 4.5), 5.0, (0.5, 0.85)).stamps(_DRAWINGS, mpp, rng)
        small = Ellipses((2.5, 3.2), 3.5, (0.75, 1.05)).stamps(_DRAWINGS, mpp, rng)
        self._nucleus_stamps = plump + small
        cells = Ellipses((3.0, 3.6), 3.8, (0.3, 0.45)).stamps(56, mpp, rng)
        self._red_stamps = cells + Ellipses((7.0, 13.0), 14.0, (0.25, 0.35)).stamps(8, mpp, rng)
        self._debris_stamps = Ellipses((3.0, 8.0), 10.0, (0.7, 1.1)).stamps(16, mpp, rng)

    @property
    def tissue(self) -> tuple[Floats, ...]:
        """The closed outline of each piece of tissue, (m, 2)."""
        return tuple(piece.outline for piece in self._pieces)

    def nuclei(self) -> Iterator[tuple[Floats, Floats]]:
        """All nuclei, a row of tiles at a time: centres (n, 2) and radii (n,)."""
        for top in range(0, self.height, TILE):
            bottom = min(top + TILE, self.height)
            x, y, stamp = self._nuclei_in((0, self.width), (top, bottom))
            yield np.stack([x, y], axis=1), self._nucleus_stamps.radii[stamp]

    def render(self, left: int, top: int) -> NDArray[np.uint8]:
        """Render the (TILE, TILE, 3) RGB pixels from ``left``, ``top``, any two integers."""
        haematoxylin: Plane = np.zeros((TILE, TILE), np.float32)
        eosin: Plane = haematoxylin
        if self._tissue_near((left, left + TILE), (top, top + TILE)):
            haematoxylin, eosin = self._stroma(left, top)
            red = self._stamped(self._red_stamps, self._red_in, left, top)
            nuclei = self._stamped(self._nucleus_stamps, self._nuclei_in, left, top)
            eosin = np.maximum(eosin, red) * (1 - np.float32(0.45) * np.minimum(nuclei, 1))
            haematoxylin = np.maximum(haematoxylin, nuclei)
        debris = self._stamped(self._debris_stamps, self._debris_in, left, top)
        return _develop(haematoxylin, eosin, debris, self._noise.at(left, top))

    def _stroma(self, left: int, top: int) -> tuple[Plane, Plane]:
        """Haematoxylin and eosin of the tissue between the cells."""
        depth_um, lymphoid, weave, tone = self._slow(left, top)
        one, other = (fibres.at(left, top)[0] for fibres in self._fibres)
        fibre = other + (one - other) * np.clip(weave + 0.5, 0, 1)
        cover = np.clip(depth_um / 2 + 0.7 * fibre + 0.5, 0, 1)
        packed = np.clip(lymphoid, 0, 1)
        eosin = np.clip(0.17 + 0.03 * tone + 0.06 * fibre, 0.012, None) * (1 - 0.25 * packed)
        return cover * (0.03 + 0.05 * packed), cover * eosin

    def _slow(self, left: int, top: int) -> tuple[Plane, ...]:
        """Depth, lymphoid density, weave and tone, interpolated between the nodes of a grid.

        Node values are multiples of 1/64 below 64 and weights multiples of 1/16: float32 sums
        of their products are exact in any order, so squares agree to the bit where they overlap.
        """
        starts = left, top
        nodes = [np.arange(at // _STEP, (at + TILE - 1) // _STEP + 2.0) * _STEP for at in starts]
        x, y = np.meshgrid(*nodes)
        fields = [self._depth(x, y) * self.mpp, self._lymphoid_at(x, y)]
        fields += [self._weave.at(x, y), self._tone.at(x, y)]
        values = (np.round(np.clip(fields, -60, 60) * 64) / 64).astype(np.float32)
        columns = _between(values.swapaxes(1, 2), top).swapaxes(1, 2)
        return tuple(_between(columns, left))

    def _stamped(
        self, stamps: Stamps, sites_in: Callable[[Span, Span], Sites], left: int, top: int
    ) -> Plane:
        """Draw all stamps that reach into a square."""
        reach = stamps.reach
        spans = [(at - reach, at + TILE + reach) for at in (left, top)]
        x, y, stamp = sites_in(spans[0], spans[1])
        plane = np.zeros((TILE + 4 * reach,) * 2, np.float32)
        stamps.paste(x - left + 2 * reach, y - top + 2 * reach, stamp, plane)
        return plane[2 * reach : 2 * reach + TILE, 2 * reach : 2 * reach + TILE]

    def _nuclei_in(self, x: Span, y: Span) -> Sites:
        left, top, chance, choice = self._nuclei.sites(x, y)
        lymphoid = self._lymphoid_at(left, top)
        crowd = 0.16 + 0.05 * self._tone.at(left, top) + 0.65 * np.clip(lymphoid, 0, 1)
        there = (self._depth(left, top) * self.mpp > 3) & (chance < crowd)
        kind = np.where(lymphoid > 0.2, _DRAWINGS, 0)
        return left[there], top[there], (kind + (choice * _DRAWINGS).astype(np.intp))[there]

    def _red_in(self, x: Span, y: Span) -> Sites:
        left, top, chance, choice = self._red.sites(x, y)
        crowd = 0.06 + 0.5 * np.clip(self._weave.at(left, top) - 1.1, 0, 1)
        there = (self._depth(left, top) * self.mpp > 10) & (chance < crowd)
        stamp = (choice * len(self._red_stamps.radii)).astype(np.intp)
        return left[there], top[there], stamp[there]

    def _debris_in(self, x: Span, y: Span) -> Sites:
        left, top, chance, choice = self._debris.sites(x, y)
        stamp = (choice * len(self._debris_stamps.radii)).astype(np.intp)
        there = chance < 0.25
        return left[there], top[there], stamp[there]

    def _lymphoid_at(self, x: Floats, y: Floats) -> Floats:
        return 2.2 * (self._lymphoid.at(x, y) - 0.9)

    def _tissue_near(self, x: Span, y: Span) -> bool:
        return any(piece.near(x, y, margin=12 / self.mpp) for piece in self._pieces)

    def _depth(self, x: Floats, y: Floats) -> Floats:
        """Pixels inside the tissue; minus infinity where no piece is near."""
        if not x.size:
            return np.zeros(np.shape(x))
        box = (x.min(), x.max()), (y.min(), y.max())
        near = [piece for piece in self._pieces if piece.near(*box, margin=60 / self.mpp)]
        depths = [piece.depth(x, y) for piece in near]
        return np.max(depths, axis=0) if depths else np.full(np.shape(x), -np.inf)


def _between(values: Plane, start: int) -> Plane:
    """Interpolate the last axis, of nodes, at the `TILE` pixels from ``start``.

    As a product of matrices this kept every core busy waiting for the others, most of the time.
    """
    weight = np.arange(_STEP, dtype=np.float32) / np.float32(_STEP)
    fine: Plane = values[..., :-1, None] * (np.float32(1) - weight) + values[..., 1:, None] * weight
    return fine.reshape(*values.shape[:-1], -1)[..., start % _STEP :][..., :TILE]


def _develop(haematoxylin: Plane, eosin: Plane, other: Plane, noise: Plane) -> NDArray[np.uint8]:
    """RGB of the light that passes through stains of these concentrations."""
    pixels = np.empty((*haematoxylin.shape, 3), np.uint8)
    foreign = bool(other.any())
    for channel in range(3):
        density = haematoxylin * np.float32(_HAEMATOXYLIN[channel] * _LN10)
        density += eosin * np.float32(_EOSIN[channel] * _LN10)
        if foreign:
            density += other * np.float32(_RESIDUAL[channel] * _LN10)
        light = np.exp(-density) * np.float32(WHITE) + noise[channel]
        pixels[..., channel] = np.clip(light, 0, 255)
    return pixels
