"""Models on an NVIDIA GPU: what the CPU gives, told as what it is, and refused where it cannot be.

They run where ONNX Runtime has CUDA and the driver shows a GPU; what fails then is a failure.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import Client
from numpy.typing import NDArray

import pipeline
from pipeline.errors import ModelError
from pipeline.model import Model, facts, runtime
from pipeline.model import session as session_module
from pipeline.model.runtime import PROVIDERS, open_graph
from pipeline.model.session import run_batch, sessions
from tests.benchmarks.models import model_card

NAMES = ("resnet-18", "u-net")
STEP = 1 / 255
"""Of a score stored as uint8."""

FLOAT32 = 1e-4
"""How far sums of float32 in another order may lead."""

Told = Callable[[str], None]


def gpus() -> int:
    """Give how many GPUs NVIDIA's driver shows, whatever ONNX Runtime says."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def why_not() -> str:
    """Say why nothing can be tested here; nothing where it can."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    return "" if gpus() else "NVIDIA's driver shows no GPU"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture(autouse=True)
def no_session_stays() -> Iterator[None]:
    yield
    sessions.clear()
    session_module._chosen.clear()


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: model_card(name, folder) for name in NAMES}


@pytest.fixture
def run_file(tmp_path: Path, cards: dict[str, Path], demo_slide: Path) -> Path:
    """A run over a small slide; of the classifier, unless it is told another one."""
    run = {
        "slides": str(demo_slide),
        "model": str(cards["resnet-18"]),
        "tissue": {"method": "none"},
        "inference": {"provider": "cuda"},
        "cluster": {"kind": "threads", "workers": 2, "dashboard": "none"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "run.yaml"


def on(provider: str, card: Path, batch: int) -> Model:
    """Load a model to be run on a provider, so many patches at a time."""
    model = pipeline.load_model(card).running(provider)
    (member,) = model.ref.members
    fixed = replace(member, batch=batch, batch_auto=False)
    return replace(model, ref=replace(model.ref, members=(fixed,)))


def scores(model: Model, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the first map of patches, of which there are as many as the model has in a batch."""
    (member,) = model.ref.members
    return run_batch(member, model.ref.maps, patches, len(patches))[0]


def patches_for(model: Model, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Give coarse noise, from dark to light, so that the patches' scores differ."""
    (member,) = model.ref.members
    n, c, side, _ = member.input_shape(count)
    coarse = np.random.default_rng(seed).uniform(0, 1, (n, c, side // 16, side // 16))
    lightest = np.linspace(0.2, 1, n)[:, None, None, None]
    return (lightest * np.kron(coarse, np.ones((16, 16)))).astype(np.float32)


def worst(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def with_tf32(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have sessions opened from now on round the factors of products to ten bits, or not."""
    asked = runtime._chain

    def chain(provider: str, gpu_bytes: int) -> list[Any]:
        first, *others = asked(provider, gpu_bytes)
        return [(first[0], {**first[1], "use_tf32": value}), *others]

    monkeypatch.setattr(runtime, "_chain", chain)


# The numbers


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_cpus(
    name: str, cards: dict[str, Path], tell: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, cuda = (on(provider, cards[name], 4) for provider in ("cpu", "cuda"))
    patches = patches_for(cpu, 4)
    expected = scores(cpu, patches)
    assert np.ptp(expected) > 10 * STEP  # there is something to see
    as_run = worst(scores(cuda, patches), expected)
    found = {}
    for tf32 in ("1", "0"):
        sessions.clear()
        with monkeypatch.context() as patched:
            with_tf32(tf32, patched)
            found[tf32] = worst(scores(cuda, patches), expected)
    tell(
        f"{name}, CUDA against the CPU, largest difference of scores: {as_run:.2e} as it is run, "
        f"{found['1']:.2e} with TF32, {found['0']:.2e} without"
    )
    assert found["0"] < FLOAT32
    assert as_run < STEP


@pytest.mark.parametrize("name", NAMES)
def test_stored_scores_are_the_cpus_to_one_step(
    name: str, run_file: Path, cards: dict[str, Path], tell: Told
) -> None:
    stored = {}
    for provider in ("cpu", "cuda"):
        results = run_file.parent / f"{provider}-results"
        given = (f"model={cards[name]}", f"inference.provider={provider}")
        assert pipeline.run(run_file, [*given, f"output.directory={results}"]).complete
        (slide,) = pipeline.open_results(results).values()
        stored[provider] = np.asarray(slide.levels[0].compute(scheduler="synchronous"))
    assert stored["cpu"].dtype == np.uint8
    assert np.ptp(stored["cpu"]) > 10
    apart = np.abs(stored["cpu"].astype(int) - stored["cuda"].astype(int))
    tell(f"{name}, CUDA against the CPU, as stored: {(apart > 0).mean():.3%} differ by a step")
    assert apart.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_gets_all_but_the_same_scores_wherever_in_a_batch_and_beside_whatever(
    name: str, cards: dict[str, Path], tell: Told
) -> None:
    model = on("cuda", cards[name], 8)
    patches = patches_for(model, 8)
    expected = scores(model, patches)
    np.testing.assert_array_equal(scores(model, patches), expected)
    others = patches_for(model, 8, seed=1)
    others[5] = patches[2]
    moved = max(
        worst(scores(model, patches[::-1].copy())[::-1], expected),
        worst(scores(model, others)[5], expected[2]),
    )
    tell(f"{name} on CUDA, elsewhere in a batch: at most {moved:.2e} apart")
    assert moved < 1e-4
    sizes = {
        size: worst(scores(on("cuda", cards[name], size), patches[:size]), expected[:size])
        for size in (2, 3, 4)
    }
    tell(f"{name} on CUDA, in smaller batches: at most {max(sizes.values()):.2e} apart")
    assert max(sizes.values()) < STEP


def test_a_session_that_is_opened_anew_gives_the_same(cards: dict[str, Path]) -> None:
    model = on("cuda", cards["u-net"], 4)
    patches = patches_for(model, 4)
    first = scores(model, patches)
    sessions.clear()
    np.testing.assert_array_equal(scores(model, patches), first)


# What runs, and what is said of it


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_model_runs_on_the_gpu(name: str, cards: dict[str, Path]) -> None:
    import onnxruntime

    (member,) = on("cuda", cards[name], 2).ref.members
    assert open_graph(member.onnx, "cuda").get_providers()[0] == "CUDAExecutionProvider"
    options = runtime._options()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    (cuda, _) = runtime._chain("cuda", 0)
    # Raises where a node is left that CUDA cannot run.
    onnxruntime.InferenceSession(member.onnx, options, providers=[cuda], enable_fallback=False)


def test_the_record_of_a_run_says_cuda(run_file: Path, cards: dict[str, Path]) -> None:
    assert pipeline.run(run_file).complete
    (slide,) = pipeline.open_results(run_file.parent / "results").values()
    assert slide.provenance["model"]["provider"] == "cuda"
    ((session_facts,),) = slide.provenance["sessions"]
    assert session_facts["provider"] == "cuda"
    assert session_facts["patches_per_s"] > 0
    assert facts(on("cuda", cards["resnet-18"], 2).ref.members[0])["provider"] == "cuda"


def test_two_workers_share_one_gpu(run_file: Path, client: Client) -> None:
    seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert len(seen) == 2
    assert len(set(seen.values())) == min(gpus(), 2)
    assert pipeline.run(run_file, ["cluster.kind=local", "cluster.memory_limit=16 GiB"]).complete
    (slide,) = pipeline.open_results(run_file.parent / "results").values()
    (processes,) = slide.provenance["sessions"]
    assert [each["provider"] for each in processes] == ["cuda", "cuda"]


# Refusals


@pytest.mark.parametrize("kind", ["threads", "local"])
def test_a_hidden_gpu_is_an_error_and_never_the_cpu(kind: str, run_file: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(run_file), "-o", f"cluster.kind={kind}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
    )
    assert said.returncode == 2, said.stderr
    assert "error: provider: cuda was asked for and cannot be had" in said.stderr
    assert "Traceback" not in said.stdout + said.stderr
    assert not (run_file.parent / "results" / "demo.zarr").exists()


def test_too_little_memory_of_the_gpu_is_refused_before_any_slide(
    run_file: Path, cards: dict[str, Path]
) -> None:
    asked = [f"model={cards['u-net']}", "inference.gpu_memory=8 MiB"]
    with pytest.raises(ModelError, match=r"u-net\.onnx: .*([Mm]emory|allocat)"):
        pipeline.run(run_file, asked)
    assert not (run_file.parent / "results" / "demo.zarr").exists()


def test_a_bound_that_suffices_is_kept_to(
    cards: dict[str, Path], tell: Told, run_file: Path
) -> None:
    """The batch is what fits: the largest that would be tried takes more than the bound."""
    asked = [f"model={cards['u-net']}", "inference.gpu_memory=512 MiB", "cluster.workers=1"]
    assert pipeline.run(run_file, asked).complete
    (slide,) = pipeline.open_results(run_file.parent / "results").values()
    ((session_facts,),) = slide.provenance["sessions"]
    tell(f"u-net in 512 MiB of a GPU: batches of {session_facts['batch']}")


def test_a_worker_with_cuda_is_measured_against_its_prediction(run_file: Path, tell: Told) -> None:
    given = ["cluster.kind=local", "cluster.workers=1", "cluster.memory_limit=16 GiB"]
    (outcome,) = pipeline.run(run_file, given).outcomes
    assert outcome.state == "done"
    predicted, peak = outcome.predicted_bytes / 2**20, outcome.peak_bytes / 2**20
    tell(
        f"memory of a worker with CUDA: {predicted:.0f} MiB predicted, {peak:.0f} MiB at its "
        f"peak, {peak - predicted:+.0f}"
    )
    assert 0 < outcome.peak_bytes < 16 * 2**30
