"""What blocks are read from and written to, and a source that is indexed as arrays are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["Indexable", "Source", "Target"]


class Source(Protocol):
    """Something whose pixels can be read box by box: a slide level, a stored output."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape, in the order of ``axes``."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` returns."""
        ...

    @property
    def axes(self) -> str:
        """``"yxs"`` (slides: rows, columns, samples) or ``"cyx"`` (outputs)."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Give the pixels of ``box``; what lies outside the array is background."""
        ...


class Target(Protocol):
    """Something that keeps what a block's task gives for a box: values ``(c, y, x)``, a table."""

    def write(self, box: Box, values: Any) -> None:
        """Store ``values`` for ``box``, whole or not at all."""
        ...


@dataclass(frozen=True)
class Indexable:
    """A source that can be indexed as numpy arrays can; it reads the box the index spans."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Source`."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `Source`."""
        return self.source.dtype

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.source.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        spans = {}
        inner = list(index)
        for axis, (name, n) in enumerate(zip(self.source.axes, self.shape, strict=True)):
            if name not in "yx":
                continue
            asked = np.atleast_1d(np.arange(n)[index[axis]])
            start, stop = (int(asked.min()), int(asked.max()) + 1) if asked.size else (0, 0)
            spans[name] = (start, stop)
            # The box begins and ends with a pixel that was asked for: only the step is left.
            inner[axis] = (
                slice(None, None, index[axis].step)
                if isinstance(index[axis], slice)
                else np.arange(n)[index[axis]] - start
            )
        (y, y_stop), (x, x_stop) = spans["y"], spans["x"]
        pixels: NDArray[Any] = self.source.read(Box.spanning(y, x, y_stop, x_stop))[tuple(inner)]
        return pixels
