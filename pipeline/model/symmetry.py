"""The ways a patch can be turned and mirrored, for test-time augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WAYS", "Symmetry", "symmetries"]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """A quarter turn some times, after mirroring left and right or not."""

    turns: int = 0
    mirrored: bool = False

    def of_batch(self, batch: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
        """Give a batch of square patches, each turned and mirrored; itself where none is."""
        if self == _AS_IT_IS:
            return batch
        axes = (2, 3) if layout == "NCHW" else (1, 2)
        flipped = np.flip(batch, axes[1]) if self.mirrored else batch
        return np.ascontiguousarray(np.rot90(flipped, self.turns, axes))

    def undone(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give the maps ``(n, c, y, x)`` of such a batch as those of the batch before.

        >>> way, batch = Symmetry(1, True), np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
        >>> bool((way.undone(way.of_batch(batch, "NCHW")) == batch).all())
        True
        """
        turned = np.rot90(values, -self.turns, (2, 3)) if self.turns else values
        return np.flip(turned, 3) if self.mirrored else turned


_AS_IT_IS = Symmetry()

WAYS: dict[str, tuple[Symmetry, ...]] = {
    "none": (_AS_IT_IS,),
    "flips": (_AS_IT_IS, Symmetry(0, True), Symmetry(2, True), Symmetry(2, False)),
    "rotations": tuple(Symmetry(turns) for turns in range(4)),
    "all": tuple(Symmetry(turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}
"""What test-time augmentation can be asked for: flips are 4, rotations 4, all 8."""


def symmetries(tta: str) -> tuple[Symmetry, ...]:
    """Give the ways a patch is predicted in; the first one is as it is."""
    return WAYS[tta]
