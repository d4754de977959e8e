"""How much each pixel of a patch counts where patches are averaged."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["patch_weights"]

_SIGMA = 0.125
"""Standard deviation of the Gaussian in patches: that of nnU-Net and of MONAI's sliding window."""

_LEAST = 1e-3
"""Least weight, or the corners of a slide, seen by one patch only, would be divided by nothing."""


@lru_cache(maxsize=16)
def patch_weights(method: str, side: int) -> NDArray[np.float32]:
    """Give the weights ``(side, side)`` of a patch: all 1 for ``mean``, a bell for ``gaussian``.

    >>> patch_weights("gaussian", 8).argmax() in (27, 28, 35, 36), patch_weights("mean", 2).sum()
    (True, np.float32(4.0))
    """
    if method == "mean":
        weights = np.ones((side, side), np.float32)
    else:
        from_middle = (np.arange(side) - (side - 1) / 2) / (_SIGMA * side)
        bell = np.exp(-0.5 * from_middle**2)
        weights = np.maximum(np.outer(bell, bell), _LEAST).astype(np.float32)
    weights.setflags(write=False)
    return weights
