"""The built-in nucleus model: what is committed is what is built, and it finds nuclei."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openslide
import pytest
import yaml
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu
from skimage.color import rgb2hed

import pipeline.model.builtin
from pipeline.demo import write_demo
from pipeline.model.builtin.build import build_nuclei, write_nuclei

HOME = Path(pipeline.model.builtin.__file__).parent
HALO = 32

Image = NDArray[np.float32]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        HOME / "nuclei.onnx", options, providers=["CPUExecutionProvider"]
    )


def score(session: onnxruntime.InferenceSession, images: Image) -> Image:
    (scores,) = session.run(["nucleus"], {"image": images})
    return np.asarray(scores)


def test_the_committed_model_is_the_one_the_code_builds() -> None:
    stored, built = onnx.load(HOME / "nuclei.onnx"), build_nuclei()
    assert list(stored.graph.node) == list(built.graph.node)
    assert list(stored.graph.input) == list(built.graph.input)
    assert list(stored.graph.output) == list(built.graph.output)
    assert (stored.ir_version, stored.opset_import) == (built.ir_version, built.opset_import)
    names = [constant.name for constant in built.graph.initializer]
    assert [constant.name for constant in stored.graph.initializer] == names
    for one, other in zip(stored.graph.initializer, built.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_nuclei(tmp_path / "a.onnx")
    write_nuclei(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_model_can_be_read_by_onnxruntime_1_16() -> None:
    model = onnx.load(HOME / "nuclei.onnx")
    assert model.ir_version <= 9
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]


def test_the_card_describes_the_model() -> None:
    card = yaml.safe_load((HOME / "nuclei.yaml").read_text(encoding="utf-8"))
    graph = onnx.load(HOME / card["onnx"]).graph
    assert [output["name"] for output in card["outputs"]] == [graph.output[0].name]
    assert card["stitch"] == {"method": "crop", "halo": HALO}
    assert (card["input"]["patch"] - 2 * HALO) % 64 == 0
    assert card["input"]["scale"] == 1 / 255
    assert card["mpp"] == 0.5


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 100, 37), (1, 3, 1, 1)])
def test_scores_have_the_shape_of_the_images(
    session: onnxruntime.InferenceSession, shape: tuple[int, ...]
) -> None:
    scores = score(session, np.random.default_rng(0).random(shape, np.float32))
    assert scores.shape == (shape[0], 1, *shape[2:])
    assert scores.dtype == np.float32
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_black_and_white_give_finite_scores(session: onnxruntime.InferenceSession) -> None:
    images = np.zeros((2, 3, 64, 64), np.float32)
    images[1] = 1
    assert np.isfinite(score(session, images)).all()
    assert score(session, images)[1].max() < 0.2


def test_a_score_does_not_depend_on_pixels_beyond_the_halo(
    session: onnxruntime.InferenceSession,
) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((1, 3, 160, 160), np.float32)
    changed = rng.random((1, 3, 160, 160), np.float32)
    kept = slice(64 - HALO, 96 + HALO)
    changed[..., kept, kept] = image[..., kept, kept]
    one, other = score(session, image), score(session, changed)
    np.testing.assert_array_equal(one[..., 64:96, 64:96], other[..., 64:96, 64:96])
    assert np.abs(one - other)[..., 32:128, 32:128].max() > 1e-3


def test_the_stain_found_is_that_of_colour_deconvolution(
    session: onnxruntime.InferenceSession,
) -> None:
    """Far from all borders a flat colour's response is the gain times its haematoxylin."""
    image = np.full((1, 3, 101, 101), 1, np.float32)
    colours = np.array([[0.35, 0.25, 0.55], [0.9, 0.55, 0.8], [0.6, 0.45, 0.75]], np.float32)
    responses = []
    for colour in colours:
        image[:] = colour[:, None, None]
        middle = float(score(session, image)[0, 0, 50, 50])
        responses.append(np.log(middle / (1 - middle)))
    stains = np.maximum(rgb2hed(colours[None])[0, :, 0], 0)
    slope = (responses[0] - responses[1]) / (stains[0] - stains[1])
    assert slope > 0
    assert responses[2] == pytest.approx(responses[1] + slope * (stains[2] - stains[1]), abs=1e-3)


def test_nuclei_score_above_tissue_and_glass(
    session: onnxruntime.InferenceSession, tmp_path: Path
) -> None:
    truth = write_demo(tmp_path / "a.svs", 1500, 1200, seed=11)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, (1500, 1200)).convert("RGB"))
    scores = score(session, (pixels.transpose(2, 0, 1)[None] / 255).astype(np.float32))[0, 0]

    points = np.random.default_rng(0).uniform(0, (1500, 1200), (30_000, 2))
    distance, nearest = cKDTree(truth.nuclei).query(points, k=8)
    away = points[(distance > 1.5 * truth.radii[nearest]).all(axis=1)]
    centres, elsewhere = (
        scores[y, x] for x, y in (at.astype(int).T for at in (truth.nuclei, away))
    )
    auc = mannwhitneyu(centres, elsewhere).statistic / (len(centres) * len(elsewhere))
    print(f"AUC {auc:.4f}: {len(centres)} nuclei, {len(elsewhere)} points elsewhere")
    assert auc >= 0.95
    assert np.mean(centres > 0.7) > 0.9
    assert np.mean(elsewhere < 0.2) > 0.95
