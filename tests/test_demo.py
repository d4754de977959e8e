"""The synthetic slide: real to a reader, true to its truth, never seen half-written."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.color import rgb2hed
from skimage.measure import points_in_poly

from pipeline.demo import DemoTruth, read_truth, svs, write_demo
from pipeline.demo.scene import TILE, Scene
from pipeline.errors import ConfigError, SlideError

WIDTH, HEIGHT = 2100, 1201


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "slide.svs"
    write_demo(path, WIDTH, HEIGHT)
    return path


@pytest.fixture(scope="module")
def truth(slide: Path) -> DemoTruth:
    return read_truth(slide)


def read(path: Path, left: int, top: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    with openslide.OpenSlide(path) as opened:
        return np.asarray(opened.read_region((left, top), 0, size).convert("RGB"))


def scene(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Scene:
    return Scene(width, height, mpp=0.5, seed=seed)


@pytest.mark.parametrize(("mpp", "power"), [(0.5, "20"), (0.25, "40")])
def test_openslide_takes_it_for_an_aperio_slide(tmp_path: Path, mpp: float, power: str) -> None:
    write_demo(tmp_path / "a.svs", 700, 600, mpp=mpp)
    with openslide.OpenSlide(tmp_path / "a.svs") as opened:
        assert opened.properties["openslide.vendor"] == "aperio"
        assert float(opened.properties["openslide.mpp-x"]) == mpp
        assert float(opened.properties["openslide.mpp-y"]) == mpp
        assert opened.properties["openslide.objective-power"] == power
        assert opened.properties["openslide.level[0].tile-width"] == str(TILE)
        assert set(opened.associated_images) == {"thumbnail", "label", "macro"}
        assert all(max(image.size) > 100 for image in opened.associated_images.values())


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((64, 64), [(64, 64)]),
        ((300, 200), [(300, 200)]),
        ((1001, 257), [(1001, 257), (250, 64)]),
        ((3000, 130), [(3000, 130), (750, 32), (187, 8)]),
        ((2100, 1700), [(2100, 1700), (525, 425), (131, 106)]),
    ],
)
def test_levels_are_quarters_down_to_about_500_pixels(
    tmp_path: Path, size: tuple[int, int], levels: list[tuple[int, int]]
) -> None:
    truth = write_demo(tmp_path / "a.svs", *size)
    assert (truth.width, truth.height) == size
    with openslide.OpenSlide(tmp_path / "a.svs") as opened:
        assert list(opened.level_dimensions) == levels


def test_pixels_read_are_the_pixels_rendered(slide: Path) -> None:
    for left, top in ((512, 256), (2048, 1024)):
        high, wide = min(TILE, HEIGHT - top), min(TILE, WIDTH - left)
        rendered = scene().render(left, top)[:high, :wide].astype(int)
        difference = read(slide, left, top, (wide, high)) - rendered
        assert np.abs(difference).mean() < 4
        assert np.abs(difference.mean(axis=(0, 1))).max() < 0.5


def test_a_reduced_level_is_the_average_of_the_one_above(slide: Path) -> None:
    with openslide.OpenSlide(slide) as opened:
        levels = [
            np.asarray(opened.read_region((0, 0), level, size).convert("RGB"), float)
            for level, size in enumerate(opened.level_dimensions)
        ]
    assert len(levels) == 3
    for full, small in pairwise(levels):
        high, wide, _ = small.shape
        blocks = full[: high * 4, : wide * 4].reshape(high, 4, wide, 4, 3)
        difference = small - blocks.mean(axis=(1, 3))
        assert np.abs(difference.mean(axis=(0, 1))).max() < 0.5
        # JPEG blurs colours, so in grey, and by comparison with picking a corner of each 4 x 4.
        picked = small - blocks[:, 0, :, 0]
        assert np.abs(difference.mean(axis=2)).mean() < 0.6 * np.abs(picked.mean(axis=2)).mean()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo(tmp_path / f"{name}.svs", 300, 200, seed=seed)
    for suffix in (".svs", ".truth.npz"):
        first, same, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "abc")
        assert first == same
        assert first != other


def test_a_square_is_the_same_wherever_its_borders_lie() -> None:
    whole = scene()
    mosaic = np.block([[[whole.render(x, y)] for x in (512, 768)] for y in (256, 512)])
    for left, top in ((513, 257), (600, 300), (767, 511)):
        alone = scene().render(left, top)
        part = mosaic[top - 256 : top - 256 + TILE, left - 512 : left - 512 + TILE]
        np.testing.assert_array_equal(alone, part)


def test_nuclei_are_richer_in_haematoxylin_than_their_surroundings(
    slide: Path, truth: DemoTruth
) -> None:
    stain = rgb2hed(read(slide, 0, 0, (WIDTH, HEIGHT)))[..., 0]
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = truth.nuclei[:, None] + 1.7 * truth.radii[:, None, None] * np.stack(
        [np.cos(turn), np.sin(turn)], axis=1
    )
    x, y = np.clip(ring, 0, (WIDTH - 1, HEIGHT - 1)).astype(int).transpose(2, 0, 1)
    around = np.median(stain[y, x], axis=1)
    x, y = truth.nuclei.astype(int).T
    assert len(truth.nuclei) > 200
    assert np.mean(stain[y, x] > 2 * around) > 0.98


def test_nuclei_keep_5_um_from_each_other_and_inside_the_tissue(truth: DemoTruth) -> None:
    nearest = cKDTree(truth.nuclei).query(truth.nuclei, k=2)[0][:, 1]
    assert nearest.min() * truth.mpp >= 5 - 2 * truth.mpp  # both are rounded to pixel centres
    inside = [points_in_poly(truth.nuclei, outline) for outline in truth.tissue]
    assert np.sum(inside, axis=0).tolist() == [1] * len(truth.nuclei)
    assert (truth.radii.min() * truth.mpp, truth.radii.max() * truth.mpp) == (
        pytest.approx(2.5, abs=0.3),
        pytest.approx(4.5, abs=0.3),
    )


def test_tissue_is_coloured_inside_its_outlines_and_glass_is_not(
    slide: Path, truth: DemoTruth
) -> None:
    pixels = read(slide, 0, 0, (WIDTH, HEIGHT))
    points = np.random.default_rng(0).uniform(0, (WIDTH, HEIGHT), (4000, 2))
    x, y = points.astype(int).T
    coloured = np.ptp(pixels[y, x].astype(int), axis=1) > 12
    inside = np.any([points_in_poly(points, outline) for outline in truth.tissue], axis=0)
    assert all(np.array_equal(outline[0], outline[-1]) for outline in truth.tissue)
    assert coloured[inside].mean() > 0.95
    assert coloured[~inside].mean() < 0.05


def test_the_truth_read_back_is_the_truth_written(tmp_path: Path) -> None:
    written = write_demo(tmp_path / "a.svs", 300, 200, mpp=0.25, seed=3)
    stored = read_truth(tmp_path / "a.svs")
    assert (stored.width, stored.height, stored.mpp) == (300, 200, 0.25)
    np.testing.assert_array_equal(stored.nuclei, written.nuclei)
    np.testing.assert_array_equal(stored.radii, written.radii)
    assert stored.nuclei.dtype == stored.radii.dtype == np.float64
    assert len(stored.tissue) == len(written.tissue) == 5
    for one, other in zip(stored.tissue, written.tissue, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_slide_without_truth_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"a\.truth\.npz.*write_demo"):
        read_truth(tmp_path / "a.svs")
    (tmp_path / "b.truth.npz").write_bytes(b"not a zip")
    with pytest.raises(SlideError, match=r"b\.truth\.npz"):
        read_truth(tmp_path / "b.svs")


def test_a_half_written_slide_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = Scene.render
    seen: list[Path] = []

    def fail_at_the_end(self: Scene, left: int, top: int) -> NDArray[np.uint8]:
        seen.extend(tmp_path.rglob("*.svs"))
        seen.extend(tmp_path.glob("*.npz"))
        if (left, top) == (256, 256):
            raise OSError("disk full")
        return render(self, left, top)

    monkeypatch.setattr(Scene, "render", fail_at_the_end)
    with pytest.raises(OSError, match="disk full"):
        write_demo(tmp_path / "a.svs", 300, 300)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_slide_and_its_truth_is_left(slide: Path) -> None:
    names = sorted(path.name for path in slide.parent.iterdir())
    assert names == ["slide.svs", "slide.truth.npz"]


def test_a_slide_that_might_not_fit_a_tiff_is_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svs, "_BIGTIFF_PIXELS", 300 * 200)
    write_demo(tmp_path / "a.svs", 300, 200)
    assert (tmp_path / "a.svs").read_bytes()[:4] == b"II\x2b\x00"
    with openslide.OpenSlide(tmp_path / "a.svs") as opened:
        assert opened.properties["openslide.vendor"] == "aperio"


def test_writing_holds_rows_and_not_the_image(tmp_path: Path) -> None:
    tile = np.full((TILE, TILE, 3), 200, np.uint8)
    tracemalloc.start()
    try:
        svs.write_svs(tmp_path / "slide", lambda _left, _top: tile, (4096, 6144), mpp=0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 15e6  # the image has 75e6 bytes


@pytest.mark.parametrize(
    ("name", "size", "mpp", "seed", "says"),
    [
        ("a.svs", (63, 200), 0.5, 0, "63 x 200.*at least 64"),
        ("a.svs", (200, 0), 0.5, 0, "200 x 0.*at least 64"),
        ("a.svs", (300, 200), 0.0, 0, r"mpp 0\.0.*micrometres per pixel"),
        ("a.svs", (300, 200), -0.5, 0, r"mpp -0\.5"),
        ("a.svs", (300, 200), float("nan"), 0, "mpp nan"),
        ("a.svs", (300, 200), 0.5, -1, "seed -1"),
        ("a.tif", (300, 200), 0.5, 0, r"a\.tif.*\.svs"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(
    tmp_path: Path, name: str, size: tuple[int, int], mpp: float, seed: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        write_demo(tmp_path / name, *size, mpp=mpp, seed=seed)
    assert list(tmp_path.iterdir()) == []
