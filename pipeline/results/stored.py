"""One slide's results: its store, opened for looking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.display.describe import as_html, as_text
from pipeline.errors import DamagedStoreError, StoreError
from pipeline.files.urls import stem
from pipeline.lazy import sliceable
from pipeline.ngff import Placement
from pipeline.results import glance
from pipeline.store import (
    Look,
    StoredArray,
    look,
    read_coverage,
    read_patches,
    read_placements,
    read_table,
    read_tissue,
    stored_outputs,
)
from pipeline.store.labels import read_label

__all__ = ["ENDING", "StoredSlide", "open_stored"]

ENDING = ".zarr"
"""What the name of a slide's store ends with."""


@dataclass(frozen=True, repr=False)
class StoredSlide:
    """One slide's results.

    ``state`` is ``done``, ``partial`` (committed, with failed blocks) or ``unfinished``.
    """

    slide_id: str
    path: str
    seen: Look

    @property
    def state(self) -> str:
        """Whether every block is there."""
        if not self.seen.committed:
            return "unfinished"
        return "partial" if self.failures else "done"

    @property
    def kinds(self) -> Mapping[str, str]:
        """What each output is: its name -> ``scores``, ``features``, ``labels`` or ``objects``."""
        arrays = {each["name"]: each["kind"] for each in self._described}
        return {**arrays, **dict.fromkeys(self.seen.attributes.get("tables", ()), "objects")}

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each channel of the first scores; none where the model gives no scores."""
        image = self._image
        return () if image is None else tuple(image["channels"])

    def channels_of(self, name: str) -> tuple[str, ...]:
        """Give the name of each channel of an output, or of each class of labels."""
        return tuple(self._output(name)["channels"])

    def classes(self, name: str) -> Mapping[int, str]:
        """Give what the values of labels mean; 0 is whatever is none of them."""
        output = self._output(name, "labels")
        pairs = zip(output["values"], output["channels"], strict=True)
        return {value: channel for value, channel in pairs if value}

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest of the first scores that can be stored, as the card says."""
        if self._image is None:
            raise StoreError(f"{self.path}: the model gives no scores; there is {self._listed}")
        return self.range_of(self._image["name"])

    def range_of(self, name: str) -> tuple[float, float]:
        """Give the least and the greatest score of an output that can be stored."""
        low, high = self.provenance["settings"][
            f"model.range.{self._output(name, 'scores')['name']}"
        ]
        return (low, high)

    def as_scores(self, values: NDArray[Any], name: str | None = None) -> NDArray[np.float32]:
        """Give stored values as the scores they stand for; float types are scores already.

        Of the output of that name, or of the first scores.
        """
        scores = values.astype(np.float32)
        if np.issubdtype(values.dtype, np.integer):
            low, high = self.score_range if name is None else self.range_of(name)
            scores *= (high - low) / 255
            scores += low
        return scores

    @property
    def outputs(self) -> tuple[StoredArray, ...]:
        """The tokens of the levels of the first scores, finest first."""
        return stored_outputs(self.path)

    @property
    def levels(self) -> tuple[da.Array, ...]:
        """The levels of the first scores as lazy ``(c, y, x)`` arrays, finest first."""
        return tuple(sliceable(token, token.chunks) for token in self.outputs)

    def levels_of(self, name: str) -> tuple[da.Array, ...]:
        """Give the levels of an output, finest first: ``(c, y, x)``, labels ``(y, x)``."""
        output = self._output(name)
        found = stored_outputs(self.path, self.folder_of(name))
        arrays = (sliceable(token, token.chunks) for token in found)
        return tuple(each[0] if output["kind"] == "labels" else each for each in arrays)

    def features(self, name: str) -> tuple[da.Array, NDArray[np.float64]]:
        """Give lazy ``(n, c)`` features of the patches analysed, and where they lie.

        The coordinates are ``(n, 2)``, x and y of the corner of what each patch stands for, in
        level-0 pixels, as CLAM's ``coords``.
        """
        output = self._output(name, "features")
        index, coordinates = read_patches(self.path, output["folder"])
        (array,) = self.levels_of(name)
        return array.transpose(1, 2, 0).vindex[index[:, 0], index[:, 1]], coordinates

    def objects(self, name: str | None = None) -> Any:
        """Give all objects of an output as one `pyarrow.Table`, the first one's by default.

        See `pipeline.store.tables` for its columns; `read_parts` there reads block by block.
        """
        names = self.seen.attributes.get("tables", ())
        if not names or (name is not None and name not in names):
            raise StoreError(f"{self.path}: no objects {name or ''}; there is {self._listed}")
        return read_table(self.path, name or names[0])

    def folder_of(self, name: str) -> str:
        """Give where the levels of an output that is an array are in the store."""
        folder: str = self._output(name)["folder"]
        return folder

    @property
    def _described(self) -> list[dict[str, Any]]:
        described: list[dict[str, Any]] = self.seen.attributes.get("outputs", [])
        return described

    @property
    def _image(self) -> dict[str, Any] | None:
        return next((each for each in self._described if not each["folder"]), None)

    @property
    def _listed(self) -> str:
        return ", ".join(f"{name} ({kind})" for name, kind in self.kinds.items()) or "nothing"

    def _output(self, name: str, kind: str | None = None) -> dict[str, Any]:
        for each in self._described:
            if each["name"] == name and kind in (None, each["kind"]):
                return each
        raise StoreError(f"{self.path}: no {kind or 'array'} {name}; there is {self._listed}")

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Micrometres per pixel and position of every level, as stored."""
        return read_placements(self.path)

    def placement_of(self, name: str) -> Placement:
        """Give where the finest level of an output that is an array lies."""
        folder = self.folder_of(name)
        return read_placements(f"{self.path}/{folder}" if folder else self.path)[0]

    @property
    def level0_mpp(self) -> tuple[float, float]:
        """Micrometres per level-0 pixel of the slide, ``(y, x)``."""
        y, x = self.provenance["settings"]["slide.mpp"]
        return (y, x)

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """Per block ``(rows, columns)``: see `pipeline.store.Coverage`."""
        return read_coverage(self.path)

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """The tissue mask ``(y, x)`` over the whole slide."""
        return read_tissue(self.path)

    @property
    def quality(self) -> NDArray[np.uint8] | None:
        """What spoils the slide, ``(y, x)`` where the tissue mask is; None if not looked for.

        `pipeline.tissue.quality.MEANINGS` says what the values are.
        """
        return read_label(self.path, "quality")

    @property
    def tissue_placement(self) -> Placement:
        """Micrometres per pixel and position of the tissue mask, as stored."""
        return read_placements(f"{self.path}/labels/tissue")[0]

    @property
    def blocks(self) -> Mapping[str, int]:
        """Blocks in each state; empty until the store is committed."""
        blocks: Mapping[str, int] = self.seen.attributes.get("blocks", {})
        return blocks

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The failed blocks with their reasons."""
        failures: list[dict[str, Any]] = self.seen.attributes.get("failures", [])
        return failures

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, digests and settings the store was made with."""
        said = self.seen.attributes.get("provenance", {})
        return _Said(
            self.path,
            {
                **{k: _Said(self.path, v) if isinstance(v, dict) else v for k, v in said.items()},
                # By member of the model, then by worker process of the run that ended it.
                "sessions": self.seen.attributes.get("sessions", []),
                "settings": _Said(self.path, self.seen.settings or {}),
            },
        )

    def __repr__(self) -> str:
        return as_text(f"Results of {self.slide_id}", glance.facts_of(self))

    def _repr_html_(self) -> str:
        picture, why = glance.picture_or_why(self)
        return as_html(f"Results of {self.slide_id}", glance.facts_of(self) | why, picture=picture)


class _Said(dict[str, Any]):
    """What a store's metadata say; what they do not say and somebody needs is damage."""

    def __init__(self, path: str, said: Mapping[str, Any]) -> None:
        super().__init__(said)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise DamagedStoreError(
            f"{self._path}: damaged: its metadata do not say {key}; remove the store, and run again"
        )


def open_stored(path: str) -> StoredSlide | None:
    """Open one slide's store; None where there is none. `StoreError` where it is not ours."""
    seen = look(path)
    if seen is None or seen.kind is not None:  # nothing is yet, or a slide's own pixels
        return None
    return StoredSlide(stem(path), path, seen)
