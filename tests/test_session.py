"""Sessions: opened once, on what was asked for; what a graph gives, held against its card."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from distributed import Client
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ConfigError, MissingExtraError, ModelError
from pipeline.model import Footprint, MapRef, ModelRef, SessionRef, runtime, session
from pipeline.model.runtime import PROVIDERS, Graph, Node, read_graph, runtime_version
from pipeline.model.session import (
    NotFinite,
    check_card,
    facts,
    input_buffer,
    run_batch,
    session_batch,
    sessions,
)

Weights = dict[str, NDArray[Any]]
SIDE = 16


@pytest.fixture(autouse=True)
def no_session_stays() -> Iterator[None]:
    yield
    sessions.clear()
    session._chosen.clear()


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., str]:
    """Give ``graph(*nodes, weights) -> path``: a graph from ``image`` to the last node's output."""

    def write(
        *nodes: onnx.NodeProto,
        weights: Weights | None = None,
        outputs: dict[str, int] | None = None,
        shape: tuple[int | str, ...] = ("N", 3, "H", "W"),
        kind: int = TensorProto.FLOAT,
        given: int = TensorProto.FLOAT,
        inputs: tuple[str, ...] = ("image",),
    ) -> str:
        names = outputs or {nodes[-1].output[0]: 4}
        model = helper.make_model(
            helper.make_graph(
                list(nodes),
                "graph",
                [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs],
                [
                    helper.make_tensor_value_info(name, given, [f"{name}{i}" for i in range(rank)])
                    for name, rank in names.items()
                ],
                [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        path.write_bytes(model.SerializeToString())
        return str(path)

    return write


def node(kind: str, given: list[str], to: str = "scores", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, given, [to], **attributes)


IDENTITY = node("Identity", ["image"])
POOL = node("GlobalAveragePool", ["image"], "pooled")
FLAT = node("Flatten", ["pooled"])


def member(path: str, **changes: Any) -> SessionRef:
    ref = SessionRef(
        onnx=path,
        digest="0" * 64,
        layout="NCHW",
        order="RGB",
        scale=1 / 256,
        mean=(0.0,),
        std=(1.0,),
        zscore="none",
        tensors=("scores",),
        patch=SIDE,
        batch=4,
    )
    return replace(ref, **changes)


def model_of(
    *members: SessionRef, maps: tuple[MapRef, ...] | None = None, **changes: Any
) -> ModelRef:
    ref = ModelRef(members, members[0].patch, SIDE, 0, "crop", maps or (dense(),), ())
    return replace(ref, **changes)


def dense(activation: str = "none", channels: int = 3, tensor: int = 0, stride: int = 1) -> MapRef:
    return MapRef(tensor, activation, channels, stride)


def noise(ref: SessionRef, low: float = -2, high: float = 2) -> NDArray[np.float32]:
    """Fill this thread's buffer, as it is meant to be used."""
    batch = input_buffer(ref)
    batch[:] = np.random.default_rng(0).uniform(low, high, batch.shape)
    return batch


# Running


def test_a_batch_gives_a_map_for_each_output_and_only_of_what_is_counted(
    graph: Callable[..., str],
) -> None:
    half = node("AveragePool", ["image"], "half", kernel_shape=[2, 2], strides=[2, 2])
    ref = member(
        graph(half, IDENTITY, outputs={"scores": 4, "half": 4}), tensors=("half", "scores")
    )
    batch = noise(ref)
    small, large = run_batch(ref, (dense(stride=2), dense(tensor=1)), batch, 3)
    np.testing.assert_array_equal(large, batch[:3])
    expected = batch[:3].reshape(3, 3, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(small, expected, rtol=1e-5, atol=1e-6)


def test_a_vector_per_patch_is_a_map_of_one_pixel(graph: Callable[..., str]) -> None:
    ref = member(graph(POOL, FLAT, outputs={"scores": 2}))
    batch = noise(ref)
    (means,) = run_batch(ref, (dense(stride=SIDE),), batch, 4)
    assert means.shape == (4, 3, 1, 1)
    np.testing.assert_allclose(means[..., 0, 0], batch.mean((2, 3)), rtol=1e-4, atol=1e-6)


def test_the_class_of_each_pixel_is_a_map_of_one_channel(graph: Callable[..., str]) -> None:
    largest = node("ArgMax", ["image"], axis=1, keepdims=0)
    ref = member(graph(largest, outputs={"scores": 3}, given=TensorProto.INT64))
    batch = noise(ref)
    (classes,) = run_batch(ref, (dense(channels=1),), batch, 2)
    assert classes.dtype == np.float32
    np.testing.assert_array_equal(classes[:, 0], batch[:2].argmax(1))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activations_agree_with_float64_and_never_overflow(
    graph: Callable[..., str], activation: str
) -> None:
    """Raw values to 1000 and beyond, whose exponentials no float holds."""
    ref = member(graph(IDENTITY))
    batch = noise(ref)
    batch[1] *= 600
    raw = batch.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-raw))
    if activation == "softmax":
        powers = np.exp(raw - raw.max(1, keepdims=True))
        expected = powers / powers.sum(1, keepdims=True)
    (scores,) = run_batch(ref, (dense(activation),), batch, 4)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-30)


def test_maps_that_share_a_tensor_do_not_change_each_others_values(
    graph: Callable[..., str],
) -> None:
    ref = member(graph(IDENTITY))
    batch = noise(ref)
    raw, shares, again = run_batch(ref, (dense(), dense("softmax"), dense("softmax")), batch, 4)
    np.testing.assert_array_equal(raw, batch)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(shares, again)


def test_the_input_is_left_as_it_was(graph: Callable[..., str]) -> None:
    """A graph may give its input back: what is activated in place must not be the buffer."""
    ref = member(graph(IDENTITY))
    batch = noise(ref)
    before = batch.copy()
    run_batch(ref, (dense("sigmoid"),), batch, 4)
    np.testing.assert_array_equal(batch, before)


def test_half_precision_is_given_and_taken(graph: Callable[..., str]) -> None:
    half = TensorProto.FLOAT16
    ref = member(graph(IDENTITY, kind=half, given=half))
    check_card("card.yaml", model_of(ref))
    batch = noise(ref)
    (scores,) = run_batch(ref, (dense(),), batch, 4)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, batch.astype(np.float16))


def test_a_value_that_is_no_number_is_told_with_its_pixel(graph: Callable[..., str]) -> None:
    ref = member(graph(node("Sqrt", ["image"], "root"), node("Add", ["root", "root"])))
    batch = noise(ref, 0, 1)
    batch[2, 1, 5, 11] = -1
    with pytest.raises(NotFinite, match=r"scores is NaN or infinite in patch 2") as caught:
        run_batch(ref, (dense("sigmoid"),), batch, 4)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.patch, error.y, error.x, error.output) == (2, 5, 11, "scores")
    run_batch(ref, (dense(),), batch, 2)  # what is not counted may be anything
    batch[2, 1, 5, 11] = np.inf
    with pytest.raises(NotFinite):
        run_batch(ref, (dense(),), batch, 3)


def test_large_finite_values_are_no_error(graph: Callable[..., str]) -> None:
    """Their sum is infinite."""
    ref = member(graph(IDENTITY))
    batch = noise(ref)
    batch[:] = np.finfo(np.float32).max
    (scores,) = run_batch(ref, (dense(),), batch, 4)
    assert np.isfinite(scores).all()


def test_a_graph_that_fails_is_a_model_error_with_the_batchs_shape(
    graph: Callable[..., str],
) -> None:
    ref = member(
        graph(node("Constant", [], "to", value_ints=[4, 7]), node("Reshape", ["image", "to"]))
    )
    with pytest.raises(ModelError, match=r"onnx: the model failed on a batch \(4, 3, 16, 16\): .*"):
        run_batch(ref, (dense(),), noise(ref), 4)


def test_each_thread_fills_a_buffer_of_its_own_and_keeps_it(graph: Callable[..., str]) -> None:
    ref = member(graph(IDENTITY))
    other = replace(ref, patch=8, layout="NHWC", order="grey")
    mine = input_buffer(ref)
    assert mine.shape == (4, 3, 16, 16)
    assert np.shares_memory(mine, input_buffer(ref))
    assert input_buffer(other).shape == (4, 8, 8, 1)
    # One for all models, so that it is bounded by the largest.
    assert np.shares_memory(mine, input_buffer(other))
    with ThreadPoolExecutor(1) as pool:
        assert not np.shares_memory(mine, pool.submit(input_buffer, ref).result())


# One per process


def opened_in(counts: list[str]) -> Callable[..., Any]:
    def counted(onnx: str, provider: str, gpu_bytes: int) -> Any:
        counts.append(onnx)
        return runtime.open_graph(onnx, provider, gpu_bytes)

    return counted


def test_threads_share_one_session(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = member(graph(IDENTITY))
    opened: list[str] = []
    monkeypatch.setattr(session, "open_graph", opened_in(opened))
    together = threading.Barrier(4)

    def predict(_: int) -> None:
        together.wait(10)
        for _ in range(5):
            batch = noise(ref)
            (scores,) = run_batch(ref, (dense(),), batch, 4)
            np.testing.assert_array_equal(scores, batch)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predict, range(4)))
    assert opened == [ref.onnx]


def test_a_worker_process_opens_a_model_once(graph: Callable[..., str], client: Client) -> None:
    ref = member(graph(IDENTITY))

    def count_openings() -> None:
        from pipeline.model import session

        module: Any = session
        module.openings = []
        module.open_graph = opened_in(module.openings)

    def openings() -> int:
        from pipeline.model import session

        module: Any = session
        return len(module.openings)

    def predict(_: int) -> int:
        session.run_batch(ref, (MapRef(0, "none", 3, 1),), session.input_buffer(ref), 0)
        return os.getpid()

    client.run(count_openings)
    workers = set(client.gather(client.map(predict, range(16))))
    assert list(client.run(openings).values()) == [1] * len(workers)
    assert len(workers) == 2
    assert os.getpid() not in workers


# Batches


def test_the_batch_is_the_graphs_where_that_is_fixed_else_the_cards(
    graph: Callable[..., str],
) -> None:
    fixed = graph(IDENTITY, shape=(2, 3, SIDE, SIDE))
    assert session_batch(member(fixed, batch=8, batch_auto=True)) == 2
    assert session_batch(member(graph(IDENTITY), batch=3)) == 3


def test_an_automatic_batch_is_measured_once_and_kept(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = member(graph(IDENTITY), batch=8, batch_auto=True)
    runs: list[int] = []

    def counted(
        opened: Any, tensors: tuple[str, ...], feed: dict[str, Any], onnx: str
    ) -> list[Any]:
        runs.append(len(feed["image"]))
        return runtime.run_graph(opened, tensors, feed, onnx)

    monkeypatch.setattr(session, "run_graph", counted)
    batch = session_batch(ref)
    assert batch in (2, 4, 8)
    assert runs == [2] * 4 + [4] * 4 + [8] * 4
    assert input_buffer(ref).shape[0] == batch
    sessions.clear()  # as an error does, in the middle of what uses it
    assert session_batch(ref) == batch
    assert len(runs) == 12


def test_a_batch_of_one_is_not_measured(graph: Callable[..., str]) -> None:
    ref = member(graph(IDENTITY), batch=1, batch_auto=True)
    assert session_batch(ref) == 1
    assert facts(ref)["patches_per_s"] is None


def test_facts_say_how_a_model_is_run_as_json(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "2")
    said = json.loads(json.dumps(facts(member(graph(IDENTITY), batch=2, batch_auto=True))))
    assert said.pop("patches_per_s") > 0
    assert said == {
        "provider": "cpu",
        "threads": 2,
        "batch": 2,
        "onnxruntime": runtime_version(),
    }


def conv_head(graph: Callable[..., str]) -> str:
    """A strided convolution, two more, and a score per pixel."""
    rng = np.random.default_rng(1)
    sizes = {"a": (16, 3, 3, 3), "b": (32, 16, 3, 3), "c": (5, 32, 1, 1)}
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in sizes.items()}
    return graph(
        node("Conv", ["image", "a"], "x", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["x"], "y"),
        node("Conv", ["y", "b"], "z", pads=[1] * 4),
        node("Conv", ["z", "c"]),
        weights=weights,
    )


def gemm_head(graph: Callable[..., str]) -> str:
    """A vector per patch, and two dense layers over it."""
    rng = np.random.default_rng(1)
    sizes = {"a": (64, 3, 5, 5), "b": (64, 200), "c": (7, 200)}
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in sizes.items()}
    return graph(
        node("Conv", ["image", "a"], "x"),
        node("GlobalAveragePool", ["x"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("MatMul", ["flat", "b"], "hidden"),
        node("Gemm", ["hidden", "c"], transB=1),
        weights=weights,
        outputs={"scores": 2},
    )


@pytest.mark.parametrize("head", [conv_head, gemm_head])
def test_a_patchs_values_are_the_same_in_batches_of_any_size_from_two_on(
    graph: Callable[..., str], head: Callable[[Callable[..., str]], str]
) -> None:
    """To the last bit, wherever in the batch, beside whatever: workers may choose differently."""
    ref = member(head(graph), batch=8)
    patches = noise(ref).copy()
    maps = (dense(),)
    (expected,) = run_batch(ref, maps, patches, 8)
    for size in (2, 3, 4, 7):
        smaller = replace(ref, batch=size)
        for first in range(8 - size + 1):
            (given,) = run_batch(smaller, maps, patches[first : first + size], size)
            np.testing.assert_array_equal(given, expected[first : first + size])


# What was asked for


def test_a_provider_that_is_not_built_in_is_refused_with_what_there_is(
    graph: Callable[..., str],
) -> None:
    missing = [name for name, long in PROVIDERS.items() if long not in _offered()]
    assert missing
    for name in missing:
        with pytest.raises(ModelError, match=rf"provider: {name} was asked .* built for .*cpu.*; "):
            session_batch(member(graph(IDENTITY), provider=name))
    with pytest.raises(ModelError, match=r"pip install 'wsi-pipeline\[gpu\]'"):
        session_batch(member(graph(IDENTITY), provider="cuda"))


def _offered() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def test_a_provider_that_falls_back_in_silence_is_refused(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a runtime built for GPUs does where there is none: it lists CUDA, and runs on the CPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(runtime, "_chain", lambda *_: ["CPUExecutionProvider"])
    with pytest.raises(ModelError, match=r"cuda was asked .*: its libraries, driver or device are"):
        session_batch(member(graph(IDENTITY), provider="cuda"))


def test_a_provider_whose_libraries_are_missing_is_refused_with_what_it_says(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's registration raises a plain RuntimeError; a wrong option a ValueError."""

    def refusing(*_: object, **__: object) -> None:
        raise RuntimeError("Please install\nTensorRT libraries")

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr("onnxruntime.InferenceSession", refusing)
    with pytest.raises(
        ModelError, match=r"tensorrt .*: Please install TensorRT libraries; .*nvidia"
    ):
        session_batch(member(graph(IDENTITY), provider="tensorrt"))


def test_a_gpus_memory_is_bounded_and_its_algorithms_are_chosen_alike() -> None:
    (name, options), cpu = runtime._chain("cuda", 2**30)
    assert (name, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": str(2**30),
    }
    assert "gpu_mem_limit" not in runtime._chain("cuda", 0)[0][1]
    first, second, _ = runtime._chain("tensorrt", 0)
    assert (first[0], second[0]) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_is_one_the_runtime_knows(name: str) -> None:
    import onnxruntime

    assert PROVIDERS[name] in onnxruntime.get_all_providers()
    assert runtime._chain(name, 0)[0][0 if name != "cpu" else slice(None)] == PROVIDERS[name]


def test_a_session_has_its_workers_share_of_cores(
    graph: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> int:
        sessions.clear()
        with sessions.using(member(graph(IDENTITY))) as opened:
            return int(opened.opened.get_session_options().intra_op_num_threads)

    monkeypatch.delenv(runtime.THREADS_VARIABLE, raising=False)
    assert threads() == 1
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "3")
    assert threads() == 3
    monkeypatch.setenv(runtime.THREADS_VARIABLE, "all")
    with pytest.raises(ConfigError, match=r"SESSION_THREADS: 'all' is no whole number"):
        threads()


def test_without_a_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[cpu\]'"):
        runtime_version()


def test_two_runtimes_side_by_side_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "onnxruntime_gpu-1.22.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.22.0\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    anew = cache(runtime._warn_of_others.__wrapped__)
    monkeypatch.setattr(runtime, "_warn_of_others", anew)
    with pytest.warns(UserWarning, match="onnxruntime and onnxruntime-gpu are installed side by"):
        runtime_version()


# Reading


def test_a_graph_says_what_it_takes_and_gives(graph: Callable[..., str]) -> None:
    path = graph(IDENTITY, shape=(2, 3, "H", "W"))
    image = Node("image", "tensor(float)", (2, 3, "H", "W"))
    scores = Node("scores", "tensor(float)", (2, 3, "H", "W"))
    assert read_graph(path) == Graph(
        (image,), (replace(scores, shape=read_graph(path).outputs[0].shape),)
    )
    assert read_graph(path).outputs[0].name == "scores"


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hello.onnx"
    path.write_text("hello")
    with pytest.raises(ModelError, match=r"hello\.onnx: not an ONNX model that can be run: "):
        read_graph(str(path))
    with pytest.raises(ModelError, match=f"^{re.escape(str(path))}: not an ONNX model"):
        session_batch(member(str(path)))


@pytest.mark.parametrize("location", ["../outside.bin", "{folder}/outside.bin", "link.bin"])
def test_weights_outside_the_models_folder_are_not_read(tmp_path: Path, location: str) -> None:
    """By the runtime itself, whatever was checked before: a relative path, a full one, a link."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(np.ones(3, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    weights = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT)
    weights.data_location = TensorProto.EXTERNAL
    place = location.format(folder=tmp_path)
    for key, value in {"location": place, "offset": "0", "length": "12"}.items():
        weights.external_data.add(key=key, value=value)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    made = helper.make_graph([node("Mul", ["image", "w"])], "g", [image], [scores], [weights])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"m\.onnx: not an ONNX model that can be run: .*[Ee]xternal"
    ):
        read_graph(str(folder / "m.onnx"))


# Checking


def test_a_card_that_agrees_is_told_its_memory(graph: Callable[..., str]) -> None:
    """Of all its members: the wide convolution of the second needs some, whatever the first."""
    wide = node("Conv", ["image", "w"], "x", pads=[1] * 4)
    weights = {"w": np.ones((256, 3, 3, 3), np.float32), "v": np.ones((3, 256, 1, 1), np.float32)}
    large = member(graph(wide, node("Conv", ["x", "v"]), weights=weights), patch=128)
    small = member(graph(IDENTITY), patch=128)
    taken = check_card("card.yaml", model_of(small, large, step=128))
    assert isinstance(taken, Footprint)
    assert taken.running_bytes > 4 * 256 * 128**2 * 4


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (("N", "H", "W", 3), "give (4, 3, 16, 16), the graph takes (N, H, W, 3)"),
        (("N", 3, "H"), "give (4, 3, 16, 16), the graph takes (N, 3, H)"),
        (
            ("N", 1, "H", "W"),
            "channels RGB and patch 16 give (4, 3, 16, 16), the graph takes (N, 1,",
        ),
        (("N", 3, 32, 32), "layout NCHW, channels RGB and patch 16 give (4, 3, 16, 16), the graph"),
        ((2, 3, 16, 16), "give (4, 3, 16, 16), the graph takes (2, 3, 16, 16)"),
    ],
)
def test_an_input_of_another_shape_is_refused_with_both(
    graph: Callable[..., str], shape: tuple[int | str, ...], said: str
) -> None:
    path = graph(IDENTITY, shape=shape, outputs={"scores": len(shape)})
    with pytest.raises(ModelError, match=f"^card.yaml: input: .*{re.escape(said)}"):
        check_card("card.yaml", model_of(member(path)))


def test_an_input_of_another_type_is_refused_with_both(graph: Callable[..., str]) -> None:
    path = graph(IDENTITY, kind=TensorProto.UINT8, given=TensorProto.UINT8)
    with pytest.raises(ModelError, match=r"float32 is given, the graph takes tensor\(uint8\)"):
        check_card("card.yaml", model_of(member(path)))


def test_a_graph_of_no_input_or_two_is_refused_with_their_names(
    graph: Callable[..., str],
) -> None:
    none = graph(node("Constant", [], value_float=1.0), inputs=(), outputs={"scores": 0})
    with pytest.raises(ModelError, match="describes one, the graph has none"):
        check_card("card.yaml", model_of(member(none)))
    two = graph(node("Add", ["image", "prompt"]), inputs=("image", "prompt"))
    with pytest.raises(ModelError, match="describes one, the graph has image, prompt"):
        check_card("card.yaml", model_of(member(two)))


def test_a_tensor_that_is_not_there_is_refused_with_those_that_are(
    graph: Callable[..., str],
) -> None:
    ref = member(graph(IDENTITY), tensors=("logits",))
    with pytest.raises(ModelError, match=r"^card.yaml: .* the card says logits, .* has scores"):
        check_card("card.yaml", model_of(ref))


def test_an_output_that_is_no_tensor_is_refused(graph: Callable[..., str]) -> None:
    path = graph(IDENTITY)
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("SequenceConstruct", ["image"], ["scores"]))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_sequence_value_info("scores", TensorProto.FLOAT, None)
    )
    onnx.save(model, path)
    with pytest.raises(ModelError, match="output scores is no tensor but list; export"):
        check_card("card.yaml", model_of(member(path)))


@pytest.mark.parametrize(
    ("made", "changes", "said"),
    [
        (dense(channels=2), {}, "2 channels, stride 1 and patch 16 ask for scores of shape"),
        (dense(channels=2), {}, "(batch, 2, 16, 16); the graph gives (4, 3, 16, 16)"),
        (dense(stride=2), {}, "(batch, 3, 8, 8); the graph gives (4, 3, 16, 16)"),
        # Averages need all of a patch, not its middle alone.
        (
            dense(),
            {"patch": 24, "step": 16, "halo": 4, "method": "mean"},
            "(batch, 3, 24, 24); the",
        ),
        # Stride 16 and halo 4: of two values a side, neither is that of the middle.
        (dense(stride=16), {"patch": 32, "step": 24, "halo": 4}, "(batch, 3, 1, 1); the graph"),
    ],
)
def test_an_output_of_another_shape_is_refused_with_both(
    graph: Callable[..., str], made: MapRef, changes: dict[str, Any], said: str
) -> None:
    ref = model_of(member(graph(IDENTITY)), maps=(made,), **changes)
    with pytest.raises(ModelError, match=f"^card.yaml: outputs: .*{re.escape(said)}"):
        check_card("card.yaml", ref)


def test_a_graph_may_give_the_middle_of_a_patch_only_where_it_is_cropped(
    graph: Callable[..., str],
) -> None:
    pads = {"starts": [4, 4], "ends": [-4, -4], "axes": [2, 3]}
    weights = {name: np.array(value, np.int64) for name, value in pads.items()}
    middle = graph(node("Slice", ["image", *pads]), weights=weights)
    ref = model_of(member(middle, patch=24), patch=24, step=16, halo=4)
    check_card("card.yaml", ref)
    with pytest.raises(ModelError, match=r"the graph gives \(4, 3, 16, 16\)"):
        check_card("card.yaml", replace(ref, method="gaussian"))


def test_each_map_and_each_member_is_checked(graph: Callable[..., str]) -> None:
    good, bad = member(graph(IDENTITY)), member(graph(POOL, FLAT, outputs={"scores": 2}))
    with pytest.raises(ModelError, match=r"the graph gives \(4, 3, 1, 1\)"):
        check_card("card.yaml", model_of(good, bad))
    with pytest.raises(ModelError, match="1 channels, stride 1"):
        check_card("card.yaml", model_of(good, maps=(dense(), dense(channels=1))))
