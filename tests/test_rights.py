"""Who may read and write what is left on a disk, and that no link leads a writer astray."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client

import pipeline
from pipeline.batch.submitting import Driver, submit
from pipeline.books.lease import Clock, Times, lease
from pipeline.cli import main
from pipeline.clusters.security import certified
from pipeline.clusters.share import TEMPORARY, own_scratch, scratch_named
from pipeline.config.runfile import parse_config
from pipeline.errors import ConfigError, SlideError
from pipeline.files.rights import scratch, write_private
from pipeline.readers.staging import CACHE_VARIABLE, SIZE_VARIABLE, stage
from tests.servers import Web
from tests.toys import noise, write_tiff, write_toy_model

UMASKS = [0o000, 0o022, 0o077]
ALL = 0o777


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of one small slide that makes files of every kind."""
    (tmp_path / "slides").mkdir()
    write_tiff(tmp_path / "slides" / "a.tiff", noise(200, 300))
    card = write_toy_model(tmp_path / "model", "per_patch")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"slides: slides\nmodel: {card}\noutput: {{block: 128}}\ntissue: {{method: none}}\n"
        "export: [overview, csv, ome-tiff, geojson, report]\n"
        "cluster: {kind: threads, workers: 2}\n"
    )
    return path


# By any umask


def test_results_are_for_whom_the_umask_says(umask: int, run_file: Path, tmp_path: Path) -> None:
    assert pipeline.run(run_file).complete
    made = list((tmp_path / "results").rglob("*"))
    assert {path.suffix for path in made} >= {".csv", ".json", ".jsonl", ".png", ".html", ".tiff"}
    for path in (tmp_path / "results", *made):
        assert mode_of(path) == (ALL if path.is_dir() else 0o666) & ~umask, path


def test_certificates_are_their_user_s_alone(umask: int, tmp_path: Path) -> None:
    with certified(str(tmp_path / "new" / "folders")) as folder:
        for each in (folder, folder.parent, folder.parent.parent):
            assert mode_of(each) == 0o700
        assert [mode_of(file) for file in folder.iterdir()] == [0o600, 0o600]


def test_a_cache_that_is_made_is_its_user_s_and_nobody_else_changes_copies(
    umask: int, web: Web, cache: Path
) -> None:
    web.files["/a.ndpi"] = b"slide"
    staged = stage(f"{web.url}/a.ndpi")
    staged.close()
    assert [mode_of(each) for each in (cache, cache.parent)] == [0o700, 0o700]
    assert mode_of(Path(staged.path).parent) == 0o755 & ~umask
    assert mode_of(Path(staged.path)) == 0o644 & ~umask


def test_a_cache_that_is_shared_stays_shared(web: Web, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o775)
    web.files["/a.ndpi"] = b"slide"
    stage(f"{web.url}/a.ndpi").close()
    assert mode_of(cache) == 0o775


def test_a_job_s_run_file_with_the_signatures_of_its_slides_is_private(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 7\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    text = "slides: https://host/a.svs?signature=secret\nmodel: builtin:nuclei\n"
    text += "cluster: {driver: {cores: 1, memory: 1 GiB}}\n"
    driver = Driver.of(parse_config(text, "run.yaml", tmp_path))
    assert submit(driver) == "7"
    assert "signature=secret" in driver.run_file.read_text()
    assert mode_of(driver.run_file) == 0o600
    assert mode_of(driver.script_file) == 0o666 & ~umask


# Links where something is to be written


def test_no_link_among_results_leads_elsewhere(run_file: Path, tmp_path: Path) -> None:
    """All that a run writes is linked to files elsewhere, as somebody might who knows its names."""
    assert pipeline.run(run_file).complete
    results, away = tmp_path / "results", tmp_path / "away"
    away.mkdir()
    there = [path for path in (*results.iterdir(), *results.glob("logs/*")) if path.is_file()]
    victims = {}
    for path in there:
        victim = path.rename(away / path.name)
        path.symlink_to(victim)
        victims[path] = (victim, victim.read_bytes(), victim.stat().st_mtime_ns)
    assert {path.name for path in there} >= {"status.csv", "run.json", "config.yaml", "run.jsonl"}
    run_file.write_text(f"{run_file.read_text()}on_error: stop\n")  # the kept one is another, too
    assert pipeline.run(run_file).complete
    for path, (victim, content, when) in victims.items():
        assert (victim.read_bytes(), victim.stat().st_mtime_ns) == (content, when), path.name
    assert (results / "status.csv").read_bytes()
    assert not (results / "status.csv").is_symlink()


def test_a_link_in_the_place_of_a_lease_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    results = tmp_path / "results"
    results.mkdir()
    (results / ".lease.json").symlink_to(victim)
    soon = Times(renew_s=0.05, expire_s=0.1, look_s=0.02)
    with lease(str(results), lost=pytest.fail, times=soon, clock=Clock()) as held:
        assert held.renew()
        assert not (results / ".lease.json").is_symlink()
    assert victim.read_text() == "mine"


def entry_of(web: Web, cache: Path) -> Path:
    """Give the place of a slide's copy, which is gone again."""
    web.files["/a.ndpi"] = b"slide"
    staged = stage(f"{web.url}/a.ndpi")
    staged.close()
    entry = Path(staged.path).parent
    entry.rename(cache.parent / "gone")
    return entry


@pytest.mark.parametrize("ending", ["", ".partial"])
def test_a_link_in_the_place_of_a_copy_is_refused(ending: str, web: Web, cache: Path) -> None:
    entry = entry_of(web, cache)
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    entry.with_name(entry.name + ending).symlink_to(elsewhere)
    with pytest.raises(SlideError, match=r"a\.ndpi: cannot be copied into .*Not a directory"):
        stage(f"{web.url}/a.ndpi")
    assert not list(elsewhere.iterdir())


def test_what_others_could_prepare_is_not_filled(web: Web, cache: Path) -> None:
    entry = entry_of(web, cache)
    victim = cache.parent / "victim"
    victim.write_text("mine")
    prepared = entry.with_name(f"{entry.name}.partial")
    prepared.mkdir()
    prepared.chmod(0o777)
    (prepared / "a.ndpi").symlink_to(victim)
    staged = stage(f"{web.url}/a.ndpi")
    staged.close()
    assert victim.read_text() == "mine"
    assert Path(staged.path).read_bytes() == b"slide"
    assert [each.name for each in cache.iterdir()] == [entry.name]


def test_what_has_the_name_of_a_copy_and_is_none_is_left_where_room_is_made(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, "0.000000008")  # a slide and a half
    entry_of(web, cache)
    (cache / ("a" * 24)).symlink_to(cache.parent)
    (cache / ("b" * 24)).write_text("a file")
    stage(f"{web.url}/a.ndpi").close()
    web.files["/b.ndpi"] = b"other"
    stage(f"{web.url}/b.ndpi").close()
    assert len(list(cache.iterdir())) == 3


def test_a_secret_is_never_written_into_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name in ("victim", "link", "dangling"):
        with pytest.raises(FileExistsError):
            write_private(tmp_path / name, b"secret")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "none").exists()


# Temporary files of workers


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_temporary_files_of_workers_are_in_a_folder_of_one_s_own(
    umask: int, temporary: Path
) -> None:
    assert scratch() == scratch() == temporary / f"wsi-pipeline-{os.geteuid()}"
    assert mode_of(scratch()) == 0o700


def opened_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def linked_to_my_own(folder: Path) -> None:
    (folder.parent / "home").mkdir(0o700)
    folder.symlink_to(folder.parent / "home")


@pytest.mark.parametrize("prepare", [opened_to_all, linked_to_my_own, Path.touch])
def test_a_folder_that_somebody_else_has_prepared_is_not_used(
    prepare: Callable[[Path], None], temporary: Path
) -> None:
    prepared = temporary / f"wsi-pipeline-{os.geteuid()}"
    prepare(prepared)
    assert scratch().parent == temporary
    assert scratch() != prepared
    assert mode_of(scratch()) == 0o700


def test_python_looks_for_no_modules_where_others_could_put_them(client: Client) -> None:
    """Dask puts the folder of its temporary files before all others."""
    import sys

    def looked_at(dask_worker: Any = None) -> tuple[str, list[str]]:
        return getattr(dask_worker, "local_directory", ""), sys.path

    shared = Path(tempfile.gettempdir()) / "dask-scratch-space"
    told = client.run(looked_at)
    assert len(told) == 2
    for folder, looked in (*told.values(), looked_at()):
        assert str(shared) not in looked
        assert Path(folder or scratch()).is_relative_to(scratch())
    assert mode_of(scratch()) == 0o700


def test_a_folder_that_dask_s_config_names_is_left() -> None:
    with dask.config.set({TEMPORARY: "/scratch/me"}):
        assert scratch_named()
        assert own_scratch() == {}
    with dask.config.set(own_scratch()):
        assert not scratch_named()


# Results that lie elsewhere


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Give what a command prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    return capsys.readouterr().out


def test_a_results_directory_may_be_a_link_and_a_run_goes_on_in_it(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, results = tmp_path / "other-disk" / "here", tmp_path / "results"
    disk.mkdir(parents=True)
    results.symlink_to(disk)
    assert pipeline.run(run_file).complete
    next(path for path in (disk / "a.zarr" / "0" / "c").rglob("*") if path.is_file()).unlink()
    assert said(capsys, "run", str(run_file)).count("(1 computed now") == 1
    assert results.is_symlink()
    assert "nothing is torn or missing" in said(capsys, "status", str(results), "--verify")
    assert "1 of 1 slides exported" in said(capsys, "export", "csv", str(results))
    assert pipeline.open_results(results)["a"].state == "done"


def test_a_results_directory_that_leads_nowhere_is_refused(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match=r"results: cannot hold results: .*; name another"):
        pipeline.run(run_file)
    assert not (tmp_path / "unmounted").exists()
