"""The README's first command, as a new user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo import read_truth
from pipeline.results import open_results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run configs/demo.yaml on a local cluster, into a folder of its own."""
    folder = tmp_path_factory.mktemp("demo-run")
    slide, results = folder / "demo.svs", folder / "results"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pipeline", "run", str(ROOT / "configs" / "demo.yaml")),
            *("-o", f"demo.slide={slide}", "-o", f"slides={slide}"),
            *("-o", f"output.directory={results}", "-o", "cluster.dashboard=127.0.0.1:0"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return results, done.stdout


def test_it_says_where_things_are_and_what_to_do_next(ran: tuple[Path, str]) -> None:
    results, out = ran
    assert "dashboard: http://127.0.0.1:" in out
    assert str(results / "demo.zarr") in out
    assert str(results / "demo.overview.png") in out
    assert str(results / "report.html") in out
    assert "1 of 1 slides done" in (results / "report.html").read_text("utf-8")
    assert f"  wsi-pipeline view {results}\n  wsi-pipeline status {results}\n" in out
    assert (results / "config.yaml").is_file()


def test_the_store_is_committed_and_complete(ran: tuple[Path, str]) -> None:
    results, _ = ran
    assert open_results(results)["demo"].state == "done"
    assert zarr.open_group(results / "demo.zarr", mode="r").attrs["ome"]


def test_the_nuclei_of_the_demo_are_where_the_heat_map_says(
    ran: tuple[Path, str], tell: Callable[[str], None]
) -> None:
    results, _ = ran
    truth = read_truth(results.parent / "demo.svs")
    scores = open_results(results)["demo"].levels[0][0].compute(scheduler="synchronous")
    positives = at(scores, truth.nuclei)
    background = away_from(truth.nuclei, truth.radii, scores.shape)
    auc = area_under_curve(positives, at(scores, background))
    tell(f"nuclei of the demo against background: ROC AUC {auc:.4f}")
    assert auc >= 0.95
    # A mirrored or shifted map must not do as well: the positions are what is tested.
    assert area_under_curve(at(scores[:, ::-1], truth.nuclei), at(scores, background)) < 0.8


def test_the_overview_is_a_picture_of_both_panels(ran: tuple[Path, str]) -> None:
    results, _ = ran
    with Image.open(results / "demo.overview.png") as picture:
        assert picture.width > 1.8 * picture.height
        pixels = np.asarray(picture.convert("RGB"), np.int32)
    # Pink tissue on the left panel only; the right one is grey under its heat map.
    left, right = np.array_split(pixels, 2, axis=1)
    pink = [((p[..., 0] - p[..., 1]) > 50).mean() for p in (left, right)]
    assert pink[0] > 0.05
    assert pink[1] < 0.01


def at(scores: NDArray[np.uint8], xy: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Give the scores at level-0 positions (x, y)."""
    found: NDArray[np.uint8] = scores[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    return found


def away_from(
    nuclei: NDArray[np.float64], radii: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Give random positions farther than 1.5 radii from every nucleus."""
    random = np.random.default_rng(0)
    points = random.uniform((0, 0), (shape[1], shape[0]), (20_000, 2))
    free = np.ones(len(points), np.bool_)
    for start in range(0, len(nuclei), 500):
        part = slice(start, start + 500)
        distance = np.linalg.norm(points[:, None] - nuclei[None, part], axis=2)
        free &= (distance > 1.5 * radii[part]).all(axis=1)
    return points[free]


def area_under_curve(positives: NDArray[np.uint8], negatives: NDArray[np.uint8]) -> float:
    """Give the ROC AUC: how often a positive scores higher, ties counting half."""
    hits = np.bincount(positives, minlength=256)
    misses = np.bincount(negatives, minlength=256)
    below = np.concatenate([[0], np.cumsum(misses)[:-1]])
    return float((hits * (below + misses / 2)).sum() / (hits.sum() * misses.sum()))
