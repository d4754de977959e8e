"""The benchmarks run and say everything they promise; how fast anything is, is not tested."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import pipeline
from pipeline.demo import write_demo
from pipeline.execute.finding import find_tissue
from pipeline.lazy.tasks import block_tasks
from pipeline.results.stored import open_stored
from pipeline.tissue import TissueSettings
from tests.benchmarks import baselines, cohorts, dense, large, limits, predictions, published, small
from tests.benchmarks.cohorts import IN_PROCESSES, Took, many_row
from tests.benchmarks.contenders import Contender, Setting, write_sample
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.large import check_verified, large_row
from tests.benchmarks.measure import Measured
from tests.benchmarks.models import shared_model
from tests.benchmarks.overhead import idle_blocks, measure_overhead
from tests.benchmarks.predictions import plan_of
from tests.benchmarks.remote import MOST_BYTES, MOST_REQUESTS, available, read_region
from tests.benchmarks.rows import rows_of

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 700, 600
COLUMNS = (
    *("job", "ours (Mpx/s)", "limit (Mpx/s)", "baseline (Mpx/s)", "ratio to limit"),
    *("ratio to baseline", "wanted", "spread (min..max)", "peak memory (MiB)", "CPU (s)"),
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose last tiles are cut off, fine enough for every job."""
    path = tmp_path_factory.mktemp("benchmarks") / "slide.svs"
    write_demo(path, WIDTH, HEIGHT, mpp=0.25)
    return path


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide at the scale that the models of the benchmarks are for."""
    path = tmp_path_factory.mktemp("benchmarks") / "scaled.svs"
    write_demo(path, WIDTH, HEIGHT, mpp=0.5)
    return path


def stored(path: Path) -> NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r")[:])


def pixels_of(contender: Contender, slide: Path, folder: Path) -> int:
    with contender(Setting(str(slide), 2, str(folder))) as run:
        return run()


@pytest.mark.slow
def test_a_row_has_every_column_and_its_figures_are_positive(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    size = ("--width", str(WIDTH), "--height", str(HEIGHT))
    command = ("--quick", "--repeats", "1", "--only", "read level 0", "--json", str(told), *size)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *command, "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, _, shown, _ = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    )
    assert tuple(head) == COLUMNS
    assert shown[0] == "read level 0"
    numbers = [cell.split()[0] for i, cell in enumerate(shown) if i not in (0, 6, 7)]
    assert all(float(number) >= 0 for number in numbers)
    row, other = json.loads(told.read_text())["rows"]
    for name in ("ours_mpx_s", "limit_mpx_s", "baseline_mpx_s", "peak_mib", "cpu_s"):
        assert row[name] > 0, name
    assert (row["baseline"], other["baseline"]) == (
        "OpenSlide in processes",
        "tifffile in threads",
    )
    assert other["limit"] is None
    for name in ("ratio_to_limit", "ratio_to_baseline"):
        ratio = row[name]
        assert 0 < ratio["least"] <= ratio["median"] <= ratio["largest"], name
    runs = json.loads(told.read_text())["runs"]["read level 0"]
    assert {name: of[0]["pixels"] for name, of in runs.items()} == dict.fromkeys(
        JOBS["read level 0"].contenders, WIDTH * HEIGHT
    )


@pytest.mark.parametrize("job", [name for name in JOBS if JOBS[name].limit])
def test_ours_and_the_limit_decode_the_same_number_of_pixels(
    job: str, slide: Path, tmp_path: Path
) -> None:
    limit, model = JOBS[job].limit, JOBS[job].model
    assert limit is not None
    if model is not None and shared_model(model) is None:
        pytest.skip(f"no {model} here")
    assert pixels_of(JOBS[job].ours, slide, tmp_path) == pixels_of(limit.contender, slide, tmp_path)


def test_the_limit_decodes_the_pixels_of_the_slide(slide: Path) -> None:
    # What is measured drops them; here the same call is looked at.
    level = limits.levels_of(str(slide))[0]
    (rows, columns, _), across = level.shape, -(-WIDTH // level.shape[1])
    expected = pipeline.open_slide(slide).levels[0].compute(scheduler="synchronous")
    with slide.open("rb") as file:
        for number, tile in enumerate(limits.decoded(file.fileno(), level)):
            y, x = number // across * rows, number % across * columns
            part = expected[y : y + rows, x : x + columns]
            assert np.array_equal(tile[: part.shape[0], : part.shape[1]], part)


@pytest.mark.slow
def test_converters_store_the_same_level_0(slide: Path, tmp_path: Path) -> None:
    expected = pipeline.open_slide(slide).levels[0].compute(scheduler="synchronous")
    arrays = {
        JOBS["convert x2"].ours: "slide.zarr/0",
        baselines.ngff_zarr_converts: "slide.zarr/scale0/image",
        baselines.openslide_writes: "level-0.zarr",
    }
    for number, (contender, array) in enumerate(arrays.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert pixels_of(contender, slide, folder) == WIDTH * HEIGHT
        assert np.array_equal(stored(folder / array).transpose(1, 2, 0), expected)


def test_whoever_predicts_a_dense_map_stores_the_same_pyramid(scaled: Path, tmp_path: Path) -> None:
    job = JOBS["dense, 1 x 1 convolution"]
    for contender in (job.ours, job.baselines[0].contender):
        assert pixels_of(contender, scaled, tmp_path) == WIDTH * HEIGHT
    ours = open_stored(str(tmp_path / "out.zarr"))
    assert ours is not None
    assert len(ours.levels) == len(list((tmp_path / dense.DENSE).iterdir())) == 2
    for number, level in enumerate(ours.levels):
        other = stored(tmp_path / dense.DENSE / str(number))
        differing = level.compute()[0].astype(int) - other
        assert np.abs(differing).max() <= 1  # a step of uint8
        assert level.compute().std() > 1


def test_map_overlap_gives_the_scores_of_ours(scaled: Path, tmp_path: Path) -> None:
    job = JOBS["dense, small U-Net"]
    for contender in (job.ours, job.baselines[0].contender):
        assert pixels_of(contender, scaled, tmp_path) == WIDTH * HEIGHT
    ours, other = stored(tmp_path / "out.zarr/0")[0], stored(tmp_path / dense.DENSE)
    inside = (slice(dense.HALO, -dense.HALO),) * 2  # what lies beyond the slide is no one's truth
    assert np.abs(ours[inside].astype(int) - other[inside]).max() <= 1
    assert ours.std() > 1


@pytest.mark.slow
def test_whoever_classifies_gives_the_same_scores_of_the_same_patches(
    scaled: Path, tmp_path: Path
) -> None:
    # Of a model that costs nothing.
    counts = {pixels_of(predictions.predicts("means", tissue="otsu"), scaled, tmp_path)}
    ours = stored(tmp_path / "out.zarr/0") / 255
    plan = plan_of(Setting(str(scaled), 1, str(tmp_path)), "means", "none.zarr", tissue="otsu")
    whole = [[x < WIDTH // 256, y < HEIGHT // 256] for y, x in np.argwhere(plan.wanted)]
    for rival in (published.classifies_as_published, published.openslide_classifies):
        counts.add(pixels_of(rival("means"), scaled, tmp_path))
        scores = np.load(tmp_path / published.SCORES)
        assert len(scores) == plan.patch_count
        expected = ours[:, plan.wanted].T
        assert np.abs(scores - expected)[np.all(whole, axis=1)].max() < 1 / 255
    assert counts == {plan.patch_count * 256**2}


def test_ready_scores_are_the_same_files_whoever_writes_them(scaled: Path, tmp_path: Path) -> None:
    job = JOBS["write ready scores"]
    assert job.limit is not None
    found = []
    for name, contender in (("ours", job.ours), ("other", job.limit.contender)):
        (tmp_path / name).mkdir()
        assert pixels_of(contender, scaled, tmp_path / name) == WIDTH * HEIGHT
        array = tmp_path / name / "out.zarr/0"
        shards = [str(each.relative_to(array)) for each in array.rglob("c/**/*") if each.is_file()]
        found.append((sorted(shards), stored(array)))
    (ours, values), (other, others) = found
    assert ours == other
    assert np.array_equal(values, others)
    assert values.std() > 1


def test_a_quarter_of_the_large_slide_is_tissue(tmp_path: Path) -> None:
    path = tmp_path / "quarter.svs"
    large.write_quarter(path, 1500, 1200)
    mask = find_tissue(pipeline.open_slide(path), TissueSettings(), 8.0).mask
    assert 0.2 < mask.mean() < 0.3


def test_a_whole_run_finds_tissue_and_its_store_is_read_back(scaled: Path, tmp_path: Path) -> None:
    with large.runs_whole("means")(Setting(str(scaled), 2, str(tmp_path))) as run:
        pixels = run()
    assert 0 < pixels < WIDTH * HEIGHT
    check_verified(str(tmp_path / "out.zarr"))
    next(each for each in (tmp_path / "out.zarr/0/c").rglob("*") if each.is_file()).unlink()
    with pytest.raises(AssertionError, match="not whole"):
        check_verified(str(tmp_path / "out.zarr"))


def test_the_larger_slide_is_held_against_the_smaller_one() -> None:
    job = next(iter(large.LARGE_JOBS))
    small = [Measured(pixels=10**6, seconds=1.0, cpu_s=1.0, peak_bytes=100)]
    for seconds, peak, reached in ((10.5, 109, [True, True]), (12.0, 130, [False, False])):
        row = large_row(job, small, [Measured(10**7, seconds, 1.0, peak)])
        assert [each.reached for each in row.wanted] == reached


def test_a_row_says_which_of_its_figures_are_reached(slide: Path) -> None:
    job = JOBS["read level 0"]
    speeds = {"ours": 8, "imagecodecs": 10, "OpenSlide in processes": 2, "tifffile in threads": 5}
    rounds = {name: [Measured(speed * 10**6, 1.0, 1.0, 1)] for name, speed in speeds.items()}
    first, second = rows_of(job, slide, rounds)
    assert first.cells[6] == "limit >= 0.85 (no); baseline >= 4 (yes)"
    assert second.cells[6] == "-"


@pytest.mark.slow
def test_a_small_run_is_timed_beside_its_parts(tmp_path: Path) -> None:
    took = small.time_run(tmp_path, "1x1", (700, 600))
    assert min(took.read_s, took.predict_s, took.write_s) > 0
    assert took.bare_s < took.run_s < took.command_s


@pytest.mark.slow
def test_one_worker_and_two_do_the_same_slide(slide: Path, tmp_path: Path) -> None:
    job = JOBS["two workers, ResNet-18"]
    one, _ = job.baselines
    for number, contender in enumerate((job.ours, one.contender)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert pixels_of(contender, slide, folder) == WIDTH * HEIGHT
    results = [pipeline.open_results(tmp_path / str(number)) for number in (0, 1)]
    first, second = (np.asarray(each["out"].levels[0]) for each in results)
    assert np.array_equal(first, second)
    assert first.any()


def test_blocks_of_no_work_weigh_in_a_graph_what_those_of_a_run_do(tmp_path: Path) -> None:
    plan = plan_of(Setting(write_sample(str(tmp_path)), 1, str(tmp_path)), "means", "out.zarr")
    idle, grid = idle_blocks(plan, 12)
    assert grid.size == 12
    (real,), (task,) = (
        [len(pickle.dumps(each)) for each in block_tasks(blocks, [(0, 0)]).values()]
        for blocks in (plan.blocks, idle)
    )
    assert real < task < 1.3 * real


@pytest.mark.slow
def test_overhead_counts_the_client_alone(tmp_path: Path) -> None:
    took = measure_overhead(120, tmp_path)
    assert took.blocks == 120
    assert took.cpu_ms > 0
    assert took.peak_bytes > 2**20


@pytest.mark.slow
def test_many_slides_are_run_with_the_scheduler_in_the_clients_process(tmp_path: Path) -> None:
    on_one = IN_PROCESSES.replace("workers: 2", "workers: 1")
    row = many_row("many", tmp_path, (2, 4), on_one)
    assert row.job == "many: 4"
    assert row.said is not None
    assert "client" in row.said
    assert row.peak_mib is not None
    assert row.peak_mib > 1


def test_task_groups_that_pile_up_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "_run", lambda _: Took(1.0, 1, 2, 2, kept=cohorts.MOST_KEPT + 1))
    with pytest.raises(AssertionError, match="groups of tasks"):
        many_row("many", tmp_path, (2, 4), IN_PROCESSES)


@pytest.mark.skipif(not available(), reason="slides cannot be read from URLs here")
def test_a_region_over_http_takes_few_requests_and_bytes(demo_slide: Path) -> None:
    moved = read_region(demo_slide)
    assert 0 < moved.sent < MOST_BYTES
    assert 0 < moved.requests <= MOST_REQUESTS
