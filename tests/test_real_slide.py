"""The main job on a real slide with a real model, against the model run on the region at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openslide
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.batch import dry_run
from pipeline.books.outcomes import Silence, SlideOutcome
from pipeline.config.runfile import load_config
from pipeline.execute.distributing import Distributed
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.geometry import Box
from pipeline.model import Model
from pipeline.plan import Plan
from tests.toys import read_directly, write_tiff

HALO, PATCH = 96, 512  # what the network sees of a pixel's surroundings, and 320 that are kept
KEPT = Box(6080, 5120, 3 * 320, 2 * 320)  # whole patches, deep in the tissue
MASK_STEP = 64


@pytest.fixture
def run_file(shared_data: Path, tmp_path: Path) -> Path:
    """A run over `KEPT` alone, by a mask of the user's own; its card is DESIGN's for this model."""
    slide = shared_data / "slides" / "erosion-HE.svs"
    with openslide.OpenSlide(slide) as opened:
        width, height = opened.dimensions
    mask = np.zeros((-(-height // MASK_STEP), -(-width // MASK_STEP)), np.uint8)
    mask[KEPT.divided(MASK_STEP).within(Box(0, 0, *mask.shape))] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    card = {
        "name": "nuclei-seed",
        "onnx": str(shared_data / "models" / "instanseg_brightfield_seed.onnx"),
        "input": {"patch": PATCH},
        "mpp": 0.5,
        "outputs": [{"name": "seed", "channels": ["nucleus"]}],
        "stitch": {"halo": HALO},
    }
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    run = {
        "slides": str(slide),
        "model": "card.yaml",
        "resolution": {"mpp": {"level": 0}},
        "tissue": {"method": "mask", "mask": "mask.png"},
        "cluster": {"kind": "local", "workers": 2, "dashboard": "none"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "run.yaml"


def peak_bytes() -> int:
    """Give the most memory this process ever had."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


class Measured(Silence):
    """Asks every worker for its peak when the slide is done."""

    peaks: tuple[int, ...] = ()

    def ended(self, outcome: SlideOutcome) -> None:
        assert outcome.state == "done", outcome
        cluster = scheduler_in_force()
        assert isinstance(cluster, Distributed)
        self.peaks = tuple(cluster.client.run(peak_bytes).values())


@pytest.mark.slow
def test_stored_scores_of_a_real_slide_equal_the_model_run_on_the_whole_region(
    run_file: Path, shared_data: Path, tell: Callable[[str], None]
) -> None:
    report = Measured()
    assert pipeline.run(run_file, report=report).complete
    assert "made for 0.5 um/px and is run at 0.26" in report.notes[0]
    stored = pipeline.open_results(run_file.parent / "results")["erosion-HE"]
    kept = KEPT.within(Box(0, 0, *stored.outputs[0].plane))
    scores = stored.levels[0][0][kept].compute(scheduler="synchronous")
    expected = at_once(shared_data, KEPT)
    difference = np.abs(scores - 255 * expected)
    ((_, plan),) = dry_run(load_config(run_file))
    assert isinstance(plan, Plan)
    tell(
        f"real slide, real model: stored scores differ from the region at once by at most "
        f"{difference.max():.3f} of a uint8 step; peak of a worker "
        f"{max(report.peaks) / 2**20:.0f} MiB, predicted {plan.memory_bytes / 2**20:.0f} MiB"
    )
    assert np.ptp(expected) > 0.9
    assert difference.max() <= 0.51
    # A shift by one pixel is no rounding: the comparison can tell.
    assert np.abs(scores[1:] - 255 * expected[:-1]).max() > 25
    assert not stored.levels[0][0, :1920, :1920].compute(scheduler="synchronous").any()
    assert 0.9 * max(report.peaks) <= plan.memory_bytes <= 1.25 * max(report.peaks)


def at_once(shared_data: Path, box: Box) -> NDArray[np.float32]:
    """Give the scores of ``box`` from one call, without any of this package's code."""
    outer = box.expanded(HALO)
    region = (outer.x, outer.y, outer.width, outer.height)
    rgb = read_directly(shared_data / "slides" / "erosion-HE.svs", 0, region)
    session = onnxruntime.InferenceSession(
        shared_data / "models" / "instanseg_brightfield_seed.onnx",
        providers=["CPUExecutionProvider"],
    )
    image = (rgb.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    (scores,) = session.run(None, {"image": image})
    inner: NDArray[np.float32] = scores[0, 0][box.within(outer)]
    return inner


SHOWN = (600, 900, 300, 250)
"""A part of CMU-1-Small-Region full of nuclei: level-0 x, y, width, height."""


@pytest.mark.slow
def test_a_stitched_map_is_bit_for_bit_that_of_the_whole_image_if_the_halo_is_wide_enough(
    shared_data: Path, tmp_path: Path
) -> None:
    rgb = read_directly(shared_data / "slides" / "CMU-1-Small-Region.svs", 0, SHOWN)
    slide = pipeline.open_slide(write_tiff(tmp_path / "part.tiff", rgb, mpp=0.499))
    whole = whole_image(shared_data, rgb)
    wide = seed_model(shared_data, tmp_path, halo=96)
    for block in (128, 2048):
        scores = pipeline.predict(slide, wide, block=block).compute(scheduler="synchronous")
        np.testing.assert_array_equal(scores[0], whole)
    narrow = seed_model(shared_data, tmp_path, halo=48)
    scores = pipeline.predict(slide, narrow).compute(scheduler="synchronous")
    assert np.abs(scores[0] - whole).max() > 0.01


def seed_model(shared_data: Path, folder: Path, *, halo: int) -> Model:
    """Load InstanSeg's seed map, of whose patches 128 pixels are kept: a multiple of its 8."""
    card = {
        "name": "nuclei-seed",
        "onnx": str(shared_data / "models" / "instanseg_brightfield_seed.onnx"),
        "input": {"patch": 128 + 2 * halo},
        "mpp": 0.499,
        "outputs": [{"name": "seed", "channels": ["nucleus"]}],
        "stitch": {"halo": halo},
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return pipeline.load_model(folder / "card.yaml")


def whole_image(shared_data: Path, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give InstanSeg's seeds from one call, the glass around the image as white as the slide's."""
    height, width = rgb.shape[:2]
    outer = [(96, 96 + -n % 8) for n in (height, width)]
    padded = np.pad(rgb, (*outer, (0, 0)), constant_values=255)
    session = onnxruntime.InferenceSession(
        shared_data / "models" / "instanseg_brightfield_seed.onnx",
        providers=["CPUExecutionProvider"],
    )
    image = (padded.transpose(2, 0, 1)[None] * np.float32(1 / 255)).astype(np.float32)
    (scores,) = session.run(None, {"image": image})
    inner: NDArray[np.float32] = scores[0, 0][96 : 96 + height, 96 : 96 + width]
    return inner
