"""``wsi-pipeline doctor``: what is well is said, and whatever is broken is named with a remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openslide
import pytest
import yaml
from distributed import Client
from onnx import helper

import pipeline
from pipeline.books.lease import lease
from pipeline.config.runfile import load_config
from pipeline.doctor import Finding, examine
from pipeline.doctor.cluster import differing
from pipeline.files import places
from tests.servers import S3
from tests.test_cli import Command, command
from tests.toys import noise, spoil_first_tile, write_graph, write_tiff

__all__ = ["command"]

OK, INCOMPLETE, REFUSED = 0, 1, 2

RunFile = Callable[..., Path]

IN_NAMESPACES = shutil.which("unshare") is not None and (
    subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0
)

needs_disks = pytest.mark.skipif(
    not IN_NAMESPACES, reason="disks of one's own need namespaces: unshare -rm fails"
)


@pytest.fixture
def run_file(tmp_path: Path, toy_model: Callable[..., Path]) -> RunFile:
    """Give ``run_file(**changes) -> path`` of a run in threads over one slide of noise."""

    def write(**changes: Any) -> Path:
        slide = write_tiff(tmp_path / "a.tiff", noise(600, 500), mpp=0.5)
        settings = {
            "slides": str(slide),
            "model": str(toy_model("per_patch", batch=1)),
            "output": {"directory": str(tmp_path / "out" / "results"), "block": 256},
            "tissue": {"method": "none"},
            "cluster": {"kind": "threads", "workers": 2},
            **changes,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


ADDRESSES = r"(this machine|[\da-f.:]+( or .+)?)"
"""What others may call a machine."""

Found = dict[str, list[Finding]]


def examined(path: Path | None = None, **options: Any) -> Found:
    """Give what is found, by check."""
    found: Found = {}
    for each in examine(None if path is None else load_config(path), **options):
        found.setdefault(each.check, []).append(each)
    return found


def ill(found: Found) -> set[str]:
    """Name the checks with a problem."""
    return {check for check, many in found.items() if any(e.state == "problem" for e in many)}


def the(found: Found, check: str, state: str) -> Finding:
    """Give the one finding of a check, which must be of that state."""
    (one,) = found[check]
    assert one.state == state, one
    assert (one.remedy != "") == (state in ("warning", "problem"))
    return one


def install(folder: Path, name: str, version: str, *more: str) -> Path:
    """Write what a package of that name leaves in ``site-packages`` to be known."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *more]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_run_in_threads_that_is_well_is_said_so_in_lines(
    command: Command, run_file: RunFile, tmp_path: Path
) -> None:
    path = run_file()
    said = command("doctor", path)
    assert (said.code, said.err) == (OK, "")
    lines = said.out.splitlines()
    for pattern in (
        r"ok       python        3\.\d+\.\d+ at .+",
        r"ok       packages      wsi-pipeline .+ and all \d+ packages that it needs: dask .+",
        r"ok       known faults  none of the \d combinations known to fail is installed",
        r"ok       openslide     OpenSlide 4\..+ \(openslide-bin 4\..+\)",
        r"ok       onnxruntime   onnxruntime \S+; providers that it is built for: .*cpu",
        r"ok       imports       .+/pipeline",
        r"ok       slides        1 slide: a",
        r"ok       missing       every slide .* is there",
        r"ok       first slide   \S+a\.tiff: 500 x 600 px, 0\.5 x 0\.5 um/px, read by tiff .+",
        r"ok       model         toy-per_patch \(SHA-256 [0-9a-f]{12}\), .+ for cpu, got cpu, .+",
        r"ok       results       \S+/out/results: a file written, read back and removed in .+ ms",
        r"ok       lease         no other run holds the results directory",
        r"ok       plan          a: 6 blocks of 256 px at 0\.5 um/px .*, 0 of them stored",
        r"ok       space         .+ files are free; .+ files predicted",
        r"ok       memory        [\d,]+ MiB predicted .+; the worker may use .+, with 2 threads",
        r"no problems and no warnings, in [\d.]+ s",
        rf"  wsi-pipeline run {re.escape(str(path))}",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, said.out)
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_without_a_run_file_the_installation_alone_is_looked_at(command: Command) -> None:
    said = command("doctor", "--json")
    found = json.loads(said.out)
    assert said.code == OK
    assert (found["format"], found["directory"], found["problems"]) == (1, None, 0)
    checks = [each["check"] for each in found["findings"]]
    assert checks == [
        *("python", "packages", "known faults", "openslide", "onnxruntime", "imports"),
    ]
    assert found["findings"][1]["values"]["versions"]["openslide-bin"]


def test_a_run_file_that_cannot_be_read_is_refused(command: Command, run_file: RunFile) -> None:
    path = run_file()
    assert "nowhere.yaml" in command("doctor", "nowhere.yaml").refusal()
    assert "inference.provider" in command("doctor", path, "-o", "inference.provider=x").refusal()
    assert command("doctor", "-o", "reader=tiff").code == REFUSED


def test_a_terminal_gets_colours_and_a_log_none(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b" not in command("doctor").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = command("doctor").out
    assert re.search(r"\x1b\[32mok +\x1b\[0m +python", out)
    assert "looking at: packages" in out


def test_what_is_needed_and_not_there_or_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = ("Requires-Dist: no-such-package>=2", "Requires-Dist: zarr>=99")
    install(tmp_path, "wsi-pipeline", "9.0", "Requires-Python: >=4", *needs)
    monkeypatch.syspath_prepend(tmp_path)
    found = examined()
    assert ill(found) == {"python", "packages"}
    assert the(found, "python", "problem").said.endswith("; wsi-pipeline needs >=4")
    missing, old = found["packages"]
    assert missing.said == "no-such-package is not installed, and wsi-pipeline needs it"
    assert missing.remedy == "pip install 'no-such-package>=2'"
    assert re.fullmatch(r"zarr \S+: wsi-pipeline needs >=99", old.said)


def test_what_a_needed_package_needs_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "distributed", "2099.1.0", "Requires-Dist: dask==2099.1.0")
    monkeypatch.syspath_prepend(tmp_path)
    said = the(examined(), "packages", "problem").said
    assert re.fullmatch(r"dask \S+: distributed needs ==2099\.1\.0", said)


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("openslide-bin", "4.0.0.11", "problem"),
        ("openslide-bin", "4.0.0.12", "ok"),
        ("numcodecs", "0.16.0", "warning"),
        ("numcodecs", "0.16.1", "ok"),
    ],
)
def test_versions_that_are_known_to_fail_are_named_with_who_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, state: str
) -> None:
    install(tmp_path, name, version)
    monkeypatch.syspath_prepend(tmp_path)
    fault = the(examined(), "known faults", state)
    if state != "ok":
        assert fault.said.startswith(f"{name} {version}: ")
        assert re.search(r"\(https://github\.com/\S+/issues/\d+\)$", fault.said)
        assert fault.remedy.startswith("pip install --upgrade")


def test_a_pair_that_fails_needs_both_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "zarr", "2.18.5")
    monkeypatch.syspath_prepend(tmp_path)
    assert the(examined(), "known faults", "problem").said.startswith("zarr 2.18.5 and numcodecs")


def test_two_builds_of_onnxruntime_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "onnxruntime-gpu", "1.22.0")
    monkeypatch.syspath_prepend(tmp_path)
    both = the(examined(), "onnxruntime", "problem")
    assert "onnxruntime-gpu 1.22.0 are installed side by side" in both.said
    assert both.remedy.startswith("pip uninstall onnxruntime onnxruntime-gpu, then pip install")


def test_an_old_openslide_of_the_system_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openslide, "__library_version__", "3.4.1")
    assert "gives black areas" in the(examined(), "openslide", "problem").said


BROKEN = """
import sys
sys.modules["imagecodecs"] = None  # what is imported is not there
from pipeline.cli import main
main(["doctor"])
"""


def test_a_package_that_cannot_be_imported_is_a_problem_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False
    )
    assert done.returncode == INCOMPLETE, done.stderr
    assert re.search(r"^problem +imports +.*imagecodecs.* imported$", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout + done.stderr


def test_the_command_starts_the_workers_of_a_run_file_and_ends_them(run_file: RunFile) -> None:
    path = run_file(cluster={"kind": "local", "workers": 1, "dashboard": "none"})
    command = [sys.executable, "-m", "pipeline", "doctor", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ok +shared files .* is seen by the one worker", done.stdout, re.MULTILINE)
    assert not done.stderr


def test_slides_that_are_missing_are_named_and_the_first_that_is_there_is_read(
    run_file: RunFile, tmp_path: Path
) -> None:
    gone = [str(tmp_path / f"gone-{n}.svs") for n in range(5)]
    found = examined(run_file(slides=[*gone, str(tmp_path / "a.tiff")]))
    assert ill(found) == {"missing"}
    *three, more = [each.said for each in found["missing"]]
    assert three == [f"{path}: no such file" for path in gone[:3]]
    assert more == "and 2 more"
    assert "a.tiff: 500 x 600 px" in the(found, "first slide", "ok").said


def test_no_slide_at_all_is_a_problem_that_leaves_out_what_needs_one(
    run_file: RunFile, tmp_path: Path
) -> None:
    found = examined(run_file(slides=str(tmp_path / "*.ndpi")))
    assert "no file matches" in the(found, "slides", "problem").said
    skipped = {check for check, (one, *_) in found.items() if one.state == "skipped"}
    assert skipped == {"missing", "first slide", "plan", "space", "memory"}


def test_a_slide_whose_sample_cannot_be_read_is_a_problem(
    run_file: RunFile, tmp_path: Path
) -> None:
    path = run_file(reader="tiff")
    spoil_first_tile(tmp_path / "a.tiff")
    found = examined(path)
    assert ill(found) == {"first slide"}
    assert "a.tiff: cannot read level 0" in the(found, "first slide", "problem").said


def test_a_slide_without_a_scale_is_a_problem(run_file: RunFile, tmp_path: Path) -> None:
    path = run_file()
    write_tiff(tmp_path / "a.tiff", noise(600, 500), mpp=None)
    assert "um per pixel" in the(examined(path), "first slide", "problem").said


def test_a_model_that_is_none_is_a_problem(
    command: Command, run_file: RunFile, toy_model: Callable[..., Path]
) -> None:
    card = toy_model("per_patch")
    (card.parent / "toy.onnx").write_bytes(b"no graph")
    said = command("doctor", run_file(model=str(card)))
    assert said.code == INCOMPLETE
    assert re.search(r"^problem +model +\S+toy\.onnx: not an ONNX model", said.out, re.MULTILINE)
    assert "not looked at, because of that: plan, space, memory" in said.out


def test_a_model_that_gives_no_numbers_is_a_problem(
    run_file: RunFile, toy_model: Callable[..., Path]
) -> None:
    roots = [  # of negative numbers, but where all is black
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Neg", ["mean"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], ["scores"]),
    ]
    card = write_graph(toy_model("neighbours"), roots)
    found = examined(run_file(model=str(card)))
    assert "is NaN or infinite" in the(found, "model", "problem").said


def test_a_provider_that_is_not_there_is_a_problem_with_what_is(run_file: RunFile) -> None:
    found = examined(run_file(inference={"provider": "migraphx"}))
    one = the(found, "model", "problem")
    assert "migraphx was asked for and cannot be had" in one.said
    assert "is built for" in one.said
    assert one.remedy == "install onnxruntime-migraphx in the place of onnxruntime"


def test_a_directory_that_cannot_be_written_to_is_a_problem(
    run_file: RunFile, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("no folder", encoding="utf-8")
    found = examined(run_file(output={"directory": str(file / "results")}))
    assert "cannot be written to: Not a directory" in the(found, "results", "problem").said
    assert the(found, "lease", "skipped").said == "results"


def test_buckets_are_written_to_as_well(
    run_file: RunFile, moto: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    directory = "s3://test/doctor/results"
    found = examined(run_file(output={"directory": directory}))
    assert ill(found) == set()
    assert the(found, "results", "ok").said.startswith(f"{directory}: a file written, read back")
    assert places.names(directory) == [], "nothing is left behind"
    found = examined(run_file(output={"directory": "s3://no-such-bucket/results"}))
    assert "s3://no-such-bucket/results: cannot be written to" in (
        the(found, "results", "problem").said
    )


def test_a_run_that_holds_the_directory_is_named(run_file: RunFile, tmp_path: Path) -> None:
    folder = str(tmp_path / "out" / "results")
    with lease(folder, (2, 3), lost=print):
        said = the(examined(run_file()), "lease", "problem").said
    assert f"{folder}: shard 2 of 3 of a run by " in said
    assert f"(process {os.getpid()}) holds it since" in said


def test_a_lease_of_a_machine_that_is_silent_is_a_warning(
    run_file: RunFile, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "results"
    with lease(str(folder), lost=print):
        held = json.loads((folder / ".lease.json").read_text())
    held |= {"host": "elsewhere", "renewed": held["renewed"] - 300}
    (folder / ".lease.json").write_text(json.dumps(held))
    assert "has not renewed it for 30" in the(examined(run_file()), "lease", "warning").said


def test_results_of_other_settings_are_a_problem_before_the_run(run_file: RunFile) -> None:
    pipeline.run(str(run_file()))
    assert "9 of them stored" not in the(examined(run_file()), "plan", "ok").said
    assert "6 of them stored" in the(examined(run_file()), "plan", "ok").said
    path = run_file(tissue={"method": "none", "min_fraction": 0.5})
    assert "tissue.min_fraction" in the(examined(path), "plan", "problem").said


def test_a_worker_with_too_little_memory_is_a_problem(run_file: RunFile) -> None:
    settings = {"kind": "local", "workers": 1, "memory_limit": "150 MiB"}
    found = examined(run_file(cluster=settings), cluster=False)
    one = the(found, "memory", "problem")
    assert "may use 150 MiB" in one.said
    assert one.remedy.startswith("raise cluster.memory_limit")
    needed = the(examined(run_file(cluster={"kind": "local"}), cluster=False), "memory", "ok")
    just = {**settings, "memory_limit": int(needed.values["predicted_bytes"] * 1.05)}
    found = examined(run_file(cluster=just), cluster=False)
    assert the(found, "memory", "warning").remedy.startswith("raise cluster.memory_limit")


DISKS = """
import json, sys
from pipeline.doctor import examine
from pipeline.config.runfile import load_config
for folder in sys.argv[2:]:
    found = examine(load_config(sys.argv[1], [f"output.directory={folder}/results"]))
    print(json.dumps([[each.state, each.said] for each in found if each.check == "space"]))
"""


@needs_disks
def test_a_disk_without_room_for_the_results_is_told(
    run_file: RunFile, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    path = run_file(model=str(toy_model("neighbours")))  # 6 blocks of 64 KiB, and a third more
    expected = {
        "size=64k": ("problem", "no room for one block"),
        "size=400k": ("warning", "before compression"),
        "size=1g,nr_inodes=15": ("problem", "14 files are free"),
        "size=1g": ("ok", "before compression"),
    }
    folders = [tmp_path / f"disk-{number}" for number in range(len(expected))]
    mounts = ""
    for disk, folder in zip(expected, folders, strict=True):
        folder.mkdir()
        mounts += f"mount -t tmpfs -o {disk} none {folder} && "
    out = subprocess.check_output(
        [
            *("unshare", "-rm", "sh", "-c", f'{mounts} exec "$@"', "-"),
            *(sys.executable, "-c", DISKS, str(path), *map(str, folders)),
        ],
        text=True,
    )
    for line, (state, said) in zip(out.splitlines(), expected.values(), strict=True):
        ((found, text),) = json.loads(line)
        assert (found, said in text) == (state, True), text


@pytest.mark.parametrize(
    ("where", "state", "said"),
    [
        ("none", "ok", "switched off"),
        ("localhost:8787", "ok", "this machine alone"),
        ("127.0.0.1:8787", "ok", "this machine alone"),
        ("0.0.0.0:8787", "warning", rf"network reaches {ADDRESSES}, port 8787, .+ a password"),
        (":8787", "warning", rf"network reaches {ADDRESSES}, port 8787, .+ a password"),
        ("node7:8787", "warning", "network reaches node7, port 8787"),
    ],
)
def test_a_dashboard_that_others_can_reach_is_a_warning(
    run_file: RunFile, where: str, state: str, said: str
) -> None:
    path = run_file(cluster={"kind": "local", "dashboard": where})
    found = examined(path, cluster=False)
    assert re.search(said, the(found, "dashboard", state).said)
    assert "workers" not in found


def test_a_local_cluster_is_started_asked_and_ended(run_file: RunFile, tmp_path: Path) -> None:
    settings = {"kind": "local", "workers": 1, "dashboard": "none", "memory_limit": "1 GiB"}
    found = examined(run_file(cluster=settings))
    assert not ill(found), found
    for check, said in {
        "workers": r"local: 1 on 127\.0\.0\.1, with 1 thread and 1,024 MiB each",
        "round trips": r"the one worker answered, in .+ ms",
        "clocks": r"within .+ ms of this machine's",
        "versions": r"Python 3\.\S+ and \d+ packages are the same everywhere",
        "shared files": r"\S+: a file written here is seen by the one worker, and theirs .+",
        "slide there": r"the one worker read the samples of a\.tiff",
        "model there": r"the one worker can run it: asked for cpu, got cpu",
    }.items():
        assert re.fullmatch(said, the(found, check, "ok").said), check
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_an_address_where_nobody_answers_is_a_problem_in_time(run_file: RunFile) -> None:
    settings = {"kind": "address", "address": "tcp://127.0.0.1:1"}
    found = examined(run_file(cluster=settings), timeout_s=0.5)
    one = the(found, "workers", "problem")
    assert one.said.startswith("tcp://127.0.0.1:1: no Dask scheduler answers there")
    assert one.remedy == "check cluster.address"
    assert the(found, "round trips", "skipped").said == "workers"


def at(client: Client) -> dict[str, str]:
    """Give the ``cluster`` block of a run on a cluster that runs already."""
    return {"kind": "address", "address": client.scheduler_info()["address"]}


def test_workers_that_are_found_are_held_against_the_memory_that_is_predicted(
    run_file: RunFile, client: Client
) -> None:
    found = examined(run_file(cluster=at(client)))
    assert not ill(found), found
    assert "memory" not in found
    assert "each of 2 workers may use" in the(found, "memory there", "ok").said


@pytest.mark.skipif(sys.platform != "linux", reason="a worker is stopped as Linux does it")
@pytest.mark.parametrize("which", [0, 1])
def test_a_worker_that_hangs_is_named_in_time(
    which: int, run_file: RunFile, client: Client
) -> None:
    pids = client.run(os.getpid)
    address, pid = sorted(pids.items())[which]
    path = run_file(cluster=at(client))
    os.kill(pid, signal.SIGSTOP)
    try:
        found = examined(path, timeout_s=1.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    one = the(found, "round trips", "problem")
    name = client.scheduler_info()["workers"][address]["name"]
    assert (
        one.said
        == f"{name} at {address} cannot be asked: no answer in 1 s (--timeout waits longer)"
    )
    assert the(found, "clocks", "skipped").said == "round trips"


def test_a_worker_without_this_package_is_a_problem_and_without_another_a_warning() -> None:
    here = {"wsi-pipeline": "0.1.0", "zarr": "3.1.6", "numpy": "2.4.6"}
    ours, zarr = differing(here, {"a": here, "b": {**here, "wsi-pipeline": None, "zarr": None}})
    assert (ours.state, zarr.state) == ("problem", "warning")
    assert ours.said == "wsi-pipeline is 0.1.0 here and not installed on b"


ODD = """
import time
if not hasattr(time, "right"):  # it is imported twice
    time.right = time.time
    time.time = lambda: time.right() + 3600.0
"""


@contextmanager
def odd_worker(client: Client, folder: Path, results: Path) -> Iterator[None]:
    """Have a worker of another numcodecs, whose clock is wrong and disk its own, for a while."""
    (folder / "odd.py").write_text(textwrap.dedent(ODD), encoding="utf-8")
    packages = install(folder / "packages", "numcodecs", "0.15.0")
    shell = f'mount -t tmpfs none {results} && exec "$@"'
    command = [
        *(sys.executable, "-m", "distributed.cli.dask_worker"),
        *(client.scheduler_info()["address"], "--no-nanny", "--nthreads", "1", "--name", "odd"),
        *("--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(folder)),
        *("--preload", str(folder / "odd.py")),
    ]
    process = subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", shell, "-", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), *sys.path])},
        stderr=subprocess.DEVNULL,
    )
    try:
        client.wait_for_workers(3, timeout=60)
        yield
    finally:
        process.kill()
        process.wait()


@needs_disks
def test_a_worker_that_is_not_like_this_machine_is_named_with_all_that_differs(
    run_file: RunFile, client: Client, tmp_path: Path
) -> None:
    results = tmp_path / "out" / "results"
    results.mkdir(parents=True)
    with odd_worker(client, tmp_path, results):
        found = examined(run_file(cluster=at(client)))
    assert ill(found) == {"shared files"}
    assert re.fullmatch(
        r"odd at tcp://\S+: its clock is 3[56]\d\d\.\d s ahead of this machine's",
        the(found, "clocks", "warning").said,
    )
    assert re.fullmatch(
        r"numcodecs is \S+ here and 0\.15\.0 on odd at tcp://\S+",
        the(found, "versions", "warning").said,
    )
    one = the(found, "shared files", "problem")
    assert re.fullmatch(
        r"a file written here is not seen by odd at tcp://\S+: No such file or directory", one.said
    )
    assert "file system that all machines share" in one.remedy
    assert list(results.iterdir()) == [], "nothing is left behind"
