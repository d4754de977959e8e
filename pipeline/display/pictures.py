"""What is done to the pixels of small pictures: fading a part, laying colours over another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["faded", "laid_over", "limits_of"]

_HIGHEST_PERCENTILE = 99.5  # a few bright pixels must not make all others dark


def faded(picture: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give ``(y, x, 3)`` pixels, pale and grey where they are not ``kept`` ``(y, x)``.

    >>> faded(np.array([[[250, 10, 40], [250, 10, 40]]], np.uint8), np.array([[True, False]]))
    array([[[250,  10,  40],
            [203, 203, 203]]], dtype=uint8)
    """
    grey = picture.mean(axis=2, keepdims=True)
    pale = np.broadcast_to((grey + 510) / 3, picture.shape).astype(np.uint8)
    mixed: NDArray[np.uint8] = np.where(kept[..., None], picture, pale)
    return mixed


def laid_over(picture: NDArray[np.uint8], colours: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Give ``(y, x, 3)`` pixels under ``(y, x, 4)`` colours from 0 to 1, the last their opacity.

    >>> laid_over(np.full((1, 1, 3), 200, np.uint8), np.array([[[1.0, 0.0, 0.0, 0.5]]]))
    array([[[228, 100, 100]]], dtype=uint8)
    """
    opacity = colours[..., 3:]
    mixed = picture * (1 - opacity) + 255 * colours[..., :3] * opacity
    rounded: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return rounded


def limits_of(scores: NDArray[np.float32], score_range: tuple[float, float]) -> tuple[float, float]:
    """Give the ends of the colours: the least score there can be, and nearly the highest there is.

    At least a twentieth of the range, or noise would be drawn as findings.
    """
    low, high = score_range
    if scores.size == 0:
        return score_range
    top = float(np.percentile(scores, _HIGHEST_PERCENTILE))
    return (low, min(max(top, low + (high - low) / 20), high))
