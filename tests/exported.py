"""Results that exports are made of, and what is true of their slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

import pipeline
from tests.test_outputs import CARD, write_many
from tests.toys import SCALE, Pixels, write_tiff

HEIGHT, WIDTH = 300, 500
MPP = (0.5, 0.25)
"""Um per pixel, (y, x): not the same, so that who takes one for the other is found out."""

STEP, HALO = 32, 1
"""Of the model's patches."""

RED = (64, 200, 80, 300)
"""Rows and columns of a red frame."""

HOLE = (100, 150, 150, 250)
"""What is green in the frame."""

BLUE = (20, 50, 320, 400)

TISSUE_ROWS = 192
"""The mask of the user's own ends here, which is the end of a row of patches."""


BRIGHT = 0.2
"""Of the weighted sum of a pixel and its neighbours."""


def drawn() -> Pixels:
    """Give a green image with a red frame and a blue square; no two patches are alike."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgb = np.stack([y % 61, 140 + x % 53, (y + x) % 47], axis=2).astype(np.uint8)
    for (top, bottom, left, right), channel in ((RED, 0), (HOLE, 1), (BLUE, 2)):
        inside = rgb[top:bottom, left:right]
        inside[...] = inside // 4
        inside[..., channel] = 200
    return rgb


def means(rgb: Pixels) -> NDArray[np.float64]:
    """Give the mean colour of every patch, its halo included, white beyond: (rows, columns, 3)."""
    rows, columns = -(-HEIGHT // STEP), -(-WIDTH // STEP)
    beyond = [(HALO, rows * STEP - HEIGHT + HALO), (HALO, columns * STEP - WIDTH + HALO), (0, 0)]
    padded = np.pad(rgb.astype(np.float64), beyond, constant_values=255)
    found = np.zeros((rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            side = STEP + 2 * HALO
            patch = padded[i * STEP : i * STEP + side, j * STEP : j * STEP + side]
            found[i, j] = patch.mean(axis=(0, 1)) * SCALE
    return found


def run_many(folder: Path) -> Path:
    """Run a model of every kind of output over `drawn`; give the results."""
    card_path = write_many(folder)
    grade = {"name": "grade", "tensor": "means", "channels": ["dull", "lush", "cold"]}
    outputs = [
        {**each, "threshold": BRIGHT} if each["name"] == "bright" else each
        for each in CARD["outputs"]
    ]
    card = {**CARD, "outputs": [*outputs, {**grade, "stride": STEP}]}
    card_path.write_text(yaml.safe_dump(card, sort_keys=False))
    write_tiff(folder / "drawn.tiff", drawn(), mpp=MPP)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:TISSUE_ROWS] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    settings = {
        "slides": "drawn.tiff",
        "model": "card.yaml",
        "output": {"directory": "results", "block": 96, "dtype": "float32"},
        "resolution": {"mpp": {"level": 0}},
        "tissue": {"method": "mask", "mask": "mask.png"},
    }
    return _run(folder, settings)


def run_demo(folder: Path, slide: Path) -> Path:
    """Find the nuclei of the demo slide in four blocks; give the results."""
    settings = {
        "slides": str(slide),
        "model": "builtin:nuclei-objects",
        "output": {"directory": "results", "block": 1024},
    }
    return _run(folder, settings)


def _run(folder: Path, settings: dict[str, Any]) -> Path:
    cluster = {"kind": "threads", "workers": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "cluster": cluster}))
    assert pipeline.run(folder / "run.yaml").complete
    return folder / "results"
