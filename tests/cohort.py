"""Two synthetic slides, a run file, and what an undisturbed run in threads makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from pipeline.demo import write_demo
from tests.toys import write_toy_model

__all__ = ["BLOCKS", "Cohort", "write_cohort"]

BLOCKS = 120
"""Blocks of each slide, where they are of 128 px."""


@dataclass(frozen=True)
class Cohort:
    """The slides' folder, and the run file in it."""

    folder: Path
    run_file: Path

    def stored_blocks(self, directory: Path) -> int:
        """Give how many blocks are stored in a results directory, of both slides."""
        return len(list(directory.glob("*.zarr/0/c/0/*/*")))

    def assert_same(self, directory: Path | str) -> None:
        """Hold a results directory against the undisturbed one, array by array."""
        whole, other = map(pipeline.open_results, (self.folder / "whole", directory))
        assert set(other) == set(whole)
        for slide_id, stored in other.items():
            assert stored.state == "done", slide_id
            np.testing.assert_array_equal(stored.coverage, whole[slide_id].coverage)
            for ours, theirs in zip(stored.levels, whole[slide_id].levels, strict=True):
                np.testing.assert_array_equal(*(_values(each) for each in (ours, theirs)))


def write_cohort(folder: Path, block: int = 128) -> Cohort:
    """Write slides, model and run file, of kind threads, and do the undisturbed run."""
    (folder / "slides").mkdir(parents=True)
    for number, name in enumerate(("a", "b")):
        write_demo(folder / "slides" / f"{name}.svs", 1500, 1200, seed=number)
    card = write_toy_model(folder / "model", "neighbours", outputs={"range": [0, 128]})
    run_file = folder / "run.yaml"
    run_file.write_text(
        "slides: slides\n"
        f"model: {card}\n"
        f"output: {{block: {block}, chunk: 64, directory: whole}}\n"
        "tissue: {method: none}\n"
        "cluster: {kind: threads, workers: 1, dashboard: none}\n"
    )
    assert pipeline.run(run_file, ["cluster.workers=2"]).complete
    return Cohort(folder, run_file)


def _values(array: Any) -> Any:
    return array.compute(scheduler="threads")
