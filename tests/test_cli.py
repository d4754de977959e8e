"""The command, as a person at a terminal meets it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.cli import main
from pipeline.model import MapRef, SessionRef, patches, session
from pipeline.slide import Slide
from tests.toys import noise, write_tiff

OK, INCOMPLETE, REFUSED, INTERRUPTED = 0, 1, 2, 130

ToyModel = Callable[..., Path]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    def refusal(self) -> str:
        """Give the one line that was said, which must be on the error stream."""
        assert self.code == REFUSED
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


Command = Callable[..., Said]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Give ``command(*arguments) -> Said``; a traceback on either stream fails the test."""
    monkeypatch.setenv("COLUMNS", "250")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code or 0
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return call


@pytest.fixture
def run_file(tmp_path: Path, demo_slide: Path, toy_model: ToyModel) -> Callable[..., Path]:
    """Give ``run_file(**changes) -> path`` of a small run in this process over the demo."""

    def write(**changes: Any) -> Path:
        settings = {
            "slides": str(demo_slide),
            "model": str(toy_model("neighbours", batch=1)),
            "output": {"directory": str(tmp_path / "results"), "block": 256},
            "cluster": {"kind": "threads"},
            **changes,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {str(path): path.stat() for path in sorted(folder.rglob("*"))}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def stored_files(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file()]


# Looking


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'dask', 'numpy', 'openslide', 'rich', 'zarr'} & {*sys.modules}))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    for name in ("inspect", "thumbnail", "run", "status"):
        assert re.search(rf"^  {name} ", told.stdout, re.MULTILINE)
    assert told.stdout.splitlines()[-1] == "[]"
    assert told.stderr == ""


def test_the_installed_command_is_this_one() -> None:
    (script,) = entry_points(group="console_scripts", name="wsi-pipeline")
    assert script.load() is main


def test_the_version_is_the_packages(command: Command) -> None:
    said = command("--version")
    assert said.code == OK
    assert pipeline.__version__ in said.out


def test_an_unknown_command_is_named(command: Command) -> None:
    said = command("frobnicate")
    assert said.code == REFUSED
    assert said.out == ""
    assert "No such command 'frobnicate'" in said.err


def test_inspect_says_the_facts_and_the_levels(command: Command, demo_slide: Path) -> None:
    said = command("inspect", demo_slide)
    assert (said.code, said.err) == (OK, "")
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    for line in (
        f"path {demo_slide}",
        "vendor aperio",
        "size 1500 x 1200 px",
        "mpp 0.5 x 0.5 um/px (header)",
        "0 1500 x 1200 1 0.5 256 x 256",
        "1 375 x 300 4 2 256 x 256",
    ):
        assert line in lines
    assert "openslide.vendor" not in said.out


def test_inspect_lists_properties_as_they_are(command: Command, demo_slide: Path) -> None:
    said = command("inspect", demo_slide, "--properties")
    with openslide.OpenSlide(demo_slide) as slide:
        expected = {key: value for key, value in slide.properties.items() if "\n" not in value}
    for key, value in expected.items():
        assert f"{key} = {value}".rstrip() in [line.rstrip() for line in said.out.splitlines()]


def test_inspect_shows_a_name_in_brackets_whole(command: Command, tmp_path: Path) -> None:
    """Brackets are markup to rich."""
    for name in ("a [bold] (1).tif", "b [", "c [a]"):
        path = write_tiff(tmp_path / name, noise(64, 64))
        assert f"{path}\n" in re.sub(" +\n", "\n", command("inspect", path).out)


def test_a_thumbnail_is_a_png_of_the_size_asked_for(
    command: Command, demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.png"
    said = command("thumbnail", demo_slide, out, "--size", 200)
    assert (said.code, said.out, said.err) == (OK, f"{out}: 200 x 160 px\n", "")
    with Image.open(out) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (200, 160), "RGB")


# Running


def test_a_dry_run_writes_nothing_and_says_what_the_run_then_does(
    command: Command,
    run_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    demo_slide: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = run_file()
    before = tree(tmp_path), tree(demo_slide.parent)
    said = command("run", config, "--dry-run")
    assert (said.code, said.err) == (OK, "")
    assert (tree(tmp_path), tree(demo_slide.parent)) == before
    head, row = (
        [word for word in line.split() if word not in ("px", "MiB")]
        for line in said.out.splitlines()[:2]
    )
    told = dict(zip(head, row, strict=True))
    predicted = []

    def counting(
        ref: SessionRef, maps: tuple[MapRef, ...], batch: NDArray[np.float32], count: int
    ) -> list[NDArray[np.float32]]:
        predicted.append(count)
        return session.run_batch(ref, maps, batch, count)

    monkeypatch.setattr(patches, "run_batch", counting)
    assert command("run", config).code == OK
    store = tmp_path / "results" / "demo.zarr"
    stored = pipeline.open_results(tmp_path / "results")["demo"]
    assert told["slide"] == "demo"
    assert told["block"] == "256"
    assert int(told["blocks"]) == len(stored_files(store / "0" / "c")) == stored.blocks["analysed"]
    assert int(told["skipped"]) == stored.blocks["background"] > 0
    assert int(told["blocks"]) + int(told["skipped"]) == 5 * 6
    assert int(told["patches"]) == sum(predicted)
    assert int(told["files"]) == len(stored_files(store))
    pixels = sum(1200 * 1500 / 4**level for level in range(len(stored.levels))) / 2**20
    assert float(told["output"]) <= 1.5 * pixels + 1


def test_a_run_says_where_its_results_are_and_status_says_they_are_done(
    command: Command, run_file: Callable[..., Path], tmp_path: Path
) -> None:
    said = command("run", run_file())
    assert (said.code, said.err) == (OK, "")
    assert "demo: done: " in said.out
    assert "1 of 1 slides done in" in said.out
    assert f"  {tmp_path / 'results' / 'demo.zarr'}\n" in said.out
    again = command("run", run_file())
    assert "(0 computed now" in again.out
    status = command("status", tmp_path / "results")
    assert (status.code, status.err) == (OK, "")
    assert re.search(r"^demo +done +\d+ +\d+ +0 ", status.out, re.MULTILINE)


def test_what_a_run_tells_to_do_next_works(
    command: Command, run_file: Callable[..., Path], tmp_path: Path
) -> None:
    output = {"directory": str(tmp_path / "it's mine"), "block": 256}
    lines = command("run", run_file(output=output)).out.splitlines()
    (code,) = (line for line in lines if line.strip().startswith("python -c"))
    told = subprocess.run(
        [sys.executable, *shlex.split(code)[1:]],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "dask.array<" in told.stdout
    (status,) = (line for line in lines if line.strip().startswith("wsi-pipeline status"))
    assert command(*shlex.split(status)[1:]).code == OK


def test_an_override_changes_the_run(
    command: Command, run_file: Callable[..., Path], tmp_path: Path
) -> None:
    said = command("run", run_file(), "--dry-run", "-o", "output.block=512")
    assert " 512 px " in said.out


def test_ctrl_c_says_how_to_go_on(
    command: Command, run_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.batch.run", interrupt)
    said = command("run", run_file())
    assert said.code == INTERRUPTED
    assert said.err.lstrip() == "interrupted: what is stored stays; run again to continue\n"


# Refusing


@pytest.fixture(params=["missing", "directory", "text", "truncated"])
def no_slide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give something that is not a slide."""
    path = tmp_path / f"{request.param}.svs"
    if request.param == "directory":
        path.mkdir()
    elif request.param == "text":
        path.write_text("hello")
    elif request.param == "truncated":
        write_tiff(path, noise(300, 300))
        path.write_bytes(path.read_bytes()[:2000])
    return path


def test_what_is_no_slide_is_refused_in_a_line(
    command: Command, no_slide: Path, tmp_path: Path
) -> None:
    for arguments in (("inspect", no_slide), ("thumbnail", no_slide, tmp_path / "a.png")):
        assert re.match(f"error: {no_slide}: .*; .*", command(*arguments).refusal())
    assert not (tmp_path / "a.png").exists()


def test_a_run_over_what_is_no_slide_says_so_in_a_line_and_goes_on(
    command: Command, run_file: Callable[..., Path], no_slide: Path, demo_slide: Path
) -> None:
    """A folder is named by a pattern here: by its name it would mean the slides inside."""
    given = str(no_slide).replace("directory", "director?")
    said = command("run", run_file(slides=[given, str(demo_slide)]))
    assert (said.code, said.err) == (INCOMPLETE, "")
    *notes, line = [line for line in said.out.splitlines() if str(no_slide) in line]
    assert re.fullmatch(f"{no_slide.stem}: failed: {no_slide}: .*; .*", line)
    # What is not there is said before anything begins, too.
    assert len(notes) == (no_slide.stem == "missing")
    assert "demo: done: " in said.out
    assert "1 of 2 slides done" in said.out


def test_a_dry_run_says_which_slide_would_fail_and_plans_the_others(
    command: Command, run_file: Callable[..., Path], tmp_path: Path, demo_slide: Path
) -> None:
    said = command("run", run_file(slides=[f"{tmp_path}/none.svs", str(demo_slide)]), "--dry-run")
    assert (said.code, said.err) == (INCOMPLETE, "")
    (line,) = [line for line in said.out.splitlines() if "would fail" in line]
    assert line.startswith(f"none: would fail: {tmp_path}/none.svs: no such file; ")
    assert re.search(r"^demo +0 +0\.5 +256 px ", said.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slides": "/nowhere/*.svs"}, r"slides: /nowhere/\*\.svs: no file matches; check"),
        ({"modl": 1}, r"run\.yaml: modl: unknown key; did you mean model\?"),
        ({"output": {"blok": 1}}, r"run\.yaml: output\.blok: unknown key; did you mean block\?"),
        ({"output": {"dtype": "int8"}}, r"output\.dtype: int8 is not allowed; give uint8,"),
        ({"model": "/nowhere/card.yaml"}, r"/nowhere/card\.yaml: no such model card; give"),
        ({"model": "builtin:tea"}, r"builtin:tea: no such built-in model; there is builtin:nuc"),
    ],
)
def test_a_run_file_that_cannot_be_meant_is_refused_in_a_line(
    command: Command, run_file: Callable[..., Path], changes: dict[str, Any], said: str
) -> None:
    assert re.search(said, command("run", run_file(**changes)).refusal())


def test_a_run_file_that_is_not_there_is_refused_in_a_line(
    command: Command, tmp_path: Path
) -> None:
    refusal = command("run", tmp_path / "none.yaml").refusal()
    assert (
        refusal
        == f"error: {tmp_path / 'none.yaml'}: No such file or directory; name a run file (YAML)"
    )


def test_a_model_that_is_no_onnx_is_refused_in_a_line(
    command: Command, run_file: Callable[..., Path], toy_model: ToyModel
) -> None:
    card = toy_model("neighbours")
    card.with_name("toy.onnx").write_text("hello")
    refusal = command("run", run_file(model=str(card))).refusal()
    assert f"{card.parent}/toy.onnx: not an ONNX model that can be run" in refusal


def test_a_card_that_disagrees_is_refused_in_a_line_and_nothing_is_begun(
    command: Command, run_file: Callable[..., Path], toy_model: ToyModel, tmp_path: Path
) -> None:
    card = toy_model("neighbours", outputs={"channels": ["a", "b"]})
    refusal = command("run", run_file(model=str(card))).refusal()
    assert re.search(rf"{card}: outputs: 2 channels.*; the graph gives \(4, 1, 34, 34\)", refusal)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("inner", ["", "/below"])
def test_results_that_are_a_file_are_refused_in_a_line(
    command: Command, run_file: Callable[..., Path], tmp_path: Path, inner: str
) -> None:
    (tmp_path / "taken").write_text("mine")
    directory = f"{tmp_path / 'taken'}{inner}"
    refusal = command("run", run_file(output={"directory": directory})).refusal()
    assert re.search(
        f"output.directory: {directory}: cannot hold results: .*; name another", refusal
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_thumbnail_that_cannot_be_written_is_refused_in_a_line(
    command: Command, demo_slide: Path, tmp_path: Path
) -> None:
    jpeg = command("thumbnail", demo_slide, tmp_path / "a.jpg").refusal()
    assert "a.jpg: a thumbnail is a PNG; let its name end in .png" in jpeg
    lost = command("thumbnail", demo_slide, tmp_path / "none" / "a.png").refusal()
    assert "a.png: cannot be written: No such file or directory" in lost
    none = command("thumbnail", demo_slide, tmp_path / "a.png", "--size", 0).refusal()
    assert "--size 0: at least 1" in none


def test_status_of_what_is_no_results_is_refused_in_a_line(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    saying = {
        "empty": "holds no results",
        "file": "cannot be read: Not a directory",
        "none": "no such",
    }
    for name, said in saying.items():
        assert f"{tmp_path / name}: {said}" in command("status", tmp_path / name).refusal()


def test_status_names_the_slides_that_have_no_store(
    command: Command, run_file: Callable[..., Path], tmp_path: Path, demo_slide: Path
) -> None:
    missing = tmp_path / "none.svs"
    assert command("run", run_file(slides=[str(demo_slide), str(missing)])).code == INCOMPLETE
    said = command("status", tmp_path / "results")
    assert said.code == INCOMPLETE
    assert ["none", "failed", *"----"] in [line.split() for line in said.out.splitlines()]
    (tmp_path / "results" / "config.yaml").unlink()
    told = command("status", tmp_path / "results")
    assert told.code == INCOMPLETE
    assert ["none", "failed", *"----"] in [line.split() for line in told.out.splitlines()]
    assert "slides without a store are not known" in told.out
    (tmp_path / "results" / "status.csv").unlink()
    assert command("status", tmp_path / "results").code == OK


def test_help_shows_one_example_a_line(command: Command) -> None:
    lines = [" ".join(line.split()) for line in command("--help").out.splitlines()]
    assert "wsi-pipeline status results say what a run has done" in lines


def test_status_of_an_unfinished_run_does_not_pass_for_done(
    command: Command,
    run_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.execute.commit", interrupt)
    assert command("run", run_file()).code == INTERRUPTED
    said = command("status", tmp_path / "results")
    assert said.code == INCOMPLETE
    assert re.search(r"^demo +unfinished ", said.out, re.MULTILINE)


def test_a_slide_without_a_scale_fails_with_what_to_set(
    command: Command, run_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(200, 200), mpp=None)
    said = command("run", run_file(slides=str(path)))
    assert said.code == INCOMPLETE
    assert f"a: failed: {path}: the file does not say its um per pixel; set resolution" in said.out
    resolution = {"missing": "assume", "assume_mpp": 0.5}
    said = command("run", run_file(slides=str(path), resolution=resolution))
    assert said.code == OK
    assert "note: a: its um per pixel are assumed: 0.5" in said.out


# Real files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fixtures/unreadable.svs", "cannot read level 0"),
        ("fixtures/unopenable.tiff", "TIFF compression 52479"),
        ("histolab-broken.svs", "not a slide that OpenSlide"),
        ("gri?", "is a directory without DICOM files"),
    ],
)
@pytest.mark.parametrize("method", ["otsu", "none"])
def test_a_broken_real_slide_is_one_clear_line(
    command: Command,
    run_file: Callable[..., Path],
    shared_data: Path,
    name: str,
    said: str,
    method: str,
) -> None:
    config = run_file(
        slides=f"{shared_data}/slides/{name}",
        model="builtin:nuclei",
        tissue={"method": method},
        resolution={"missing": "assume", "assume_mpp": 0.5},
    )
    given = command("run", config)
    assert (given.code, given.err) == (INCOMPLETE, "")
    (line,) = [line for line in given.out.splitlines() if said in line]
    assert re.match(r"\S+: (failed|partial): ", line)
    assert "0 of 1 slides done" in given.out
    assert "next:" not in given.out


def test_a_real_slide_is_inspected(command: Command, shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    said = command("inspect", path)
    assert said.code == OK
    assert "0.499 x 0.499 um/px (header)" in said.out


def test_a_slide_whose_scale_cannot_be_is_inspected_with_what_to_do(
    command: Command, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=352.8)
    said = command("inspect", path)
    assert said.code == OK
    problem = "problem the file says 352.8 x 352.8 um per pixel, which cannot be"
    assert problem in " ".join(said.out.split())
    assert "resolution.assume_mpp" in said.out


def test_a_dry_run_says_what_the_model_will_see(
    command: Command, run_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(300, 300), mpp=0.25, levels=2)
    for asked, said in (
        ("model", "a 1 0.5"),
        (0.4, "a 0 resampled 0.4"),
        (0.2, "a 0 resampled 0.2"),
    ):
        config = run_file(slides=str(path), resolution={"mpp": asked})
        given = command("run", config, "--dry-run")
        assert given.code == OK
        assert any(" ".join(line.split()).startswith(said) for line in given.out.splitlines())


def test_a_slide_without_a_scale_says_unknown(command: Command, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=None)
    lines = [line.split() for line in command("inspect", path).out.splitlines()]
    assert ["mpp", "unknown"] in lines
    assert ["0", "64", "x", "64", "1", "unknown", "64", "x", "64"] in lines
    assert isinstance(pipeline.open_slide(path), Slide)
