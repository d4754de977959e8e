"""Raw outputs -> dense float32 maps ``(n, c, y, x)`` -> activated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.model.refs import CLASSES

__all__ = ["activated", "as_map", "first_not_finite"]


def as_map(values: NDArray[Any]) -> NDArray[np.float32]:
    """Give a graph's output as a map ``(n, c, y, x)`` float32, as far as it is one.

    One vector per patch is a map of 1 x 1 pixels; whole numbers ``(n, y, x)``, the class of
    each pixel, are a map of one channel.

    >>> as_map(np.zeros((2, 5), np.float32)).shape
    (2, 5, 1, 1)
    >>> as_map(np.zeros((2, 8, 8), np.int64)).shape
    (2, 1, 8, 8)
    """
    if values.ndim == 2:
        values = values[:, :, None, None]
    elif values.ndim == 3 and values.dtype.kind in "iu":
        values = values[:, None]
    return np.asarray(values, np.float32)


def first_not_finite(values: NDArray[np.float32]) -> tuple[int, ...] | None:
    """Give where the first NaN or infinity is, None where there is none."""
    # What is not finite makes the sum so, too; that is a third of the time of looking at each.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return None
    finite = np.isfinite(values)
    if finite.all():
        return None
    return tuple(int(each) for each in np.unravel_index(int(finite.argmin()), finite.shape))


def activated(
    values: NDArray[np.float32], activation: str, *, in_place: bool
) -> NDArray[np.float32]:
    """Apply ``none``, ``sigmoid`` or ``softmax`` over the channels of ``(n, c, y, x)``.

    Numbers of classes (`CLASSES`) stay what they are.
    ``in_place`` where the values are ours to change: batches are large.
    """
    if activation in ("none", CLASSES):
        return values
    owned = np.require(values, requirements="W") if in_place else values.copy()
    if activation == "sigmoid":
        expit(owned, out=owned)
    else:
        owned -= owned.max(axis=1, keepdims=True)  # exp of what is at most 0 cannot overflow
        np.exp(owned, out=owned)
        owned /= owned.sum(axis=1, keepdims=True)
    return owned
