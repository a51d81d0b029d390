"""A foreign file is fed what fits it, and the record says what that was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.bench.foreign import ForeignModel, open_foreign
from edgeaudio.bench.foreign_inputs import ForeignInputs, Input
from edgeaudio.bench.harness import bench_bundle
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.errors import ConfigError, LimitError, UnsupportedError, VerificationError
from edgeaudio.spec import limits
from tests import tiny_bundle as tiny
from tests.tiny_chained import chained_bundle

QUICK = BenchOptions(min_hops=30, min_seconds=0, warmup_hops=2, rounds=2)
SHOUT = "a foreign.onnx"


def onnx_file(
    inputs: dict[str, tuple[str, list[int | str | None]]], *, domain: str = "", operator: str = "Identity"
) -> bytes:
    """Each input comes back as it is."""
    from onnx import TensorProto, helper

    def info(name: str, kind: str, shape: list[int | str | None]) -> Any:
        return helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)

    nodes = [helper.make_node(operator, [name], [f"{name}_out"], domain=domain) for name in inputs]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [info(name, *kind) for name, kind in inputs.items()],
        [info(f"{name}_out", *kind) for name, kind in inputs.items()],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()  # type: ignore[no-any-return]


def inputs_of(payload: bytes) -> ForeignInputs:
    run = open_foreign(ForeignModel(SHOUT, payload), 1)
    inputs = ForeignInputs(run.inputs, 16_000, 1680)
    run.prepare(inputs.values)
    outputs = run.run(inputs.values)
    for given, answer in zip(inputs.values, outputs, strict=True):
        assert np.array_equal(given, answer)
    return inputs


@pytest.mark.parametrize(
    ("shape", "samples"),
    [
        ([4000], 4000),
        ([1, 15_600], 15_600),
        (["batch", 2000], 2000),
        ([1, None], 1680),
        (["batch", "samples"], 1680),
        ([1, 1, 2000], 2000),
    ],
)
def test_a_waveform_hears_the_stream_move_on(shape: list[int | str | None], samples: int) -> None:
    inputs = inputs_of(onnx_file({"wave": ("FLOAT", shape)}))
    assert inputs.values[0].size == samples
    assert not inputs.values[0].any()
    inputs.hear(np.arange(1, 11, dtype=np.float32))
    inputs.hear(np.arange(11, 14, dtype=np.float32))
    assert inputs.values[0].reshape(-1)[-14:].tolist() == list(range(14))
    inputs.hear(np.arange(samples + 5, dtype=np.float32))
    assert inputs.values[0].reshape(-1)[0] == 5
    assert "golden audio at 16000 Hz" in inputs.description


def test_what_is_no_waveform_is_made_up_and_the_same_each_time() -> None:
    payload = onnx_file(
        {
            "mel": ("FLOAT", [1, 96, 64]),
            "embedding": ("FLOAT", [1, 1024]),
            "state": ("FLOAT16", ["batch", 8]),
            "image": ("UINT8", [4, 4]),
            "rate": ("INT64", []),
            "flag": ("BOOL", [1]),
        }
    )
    inputs, again = inputs_of(payload), inputs_of(payload)
    assert all(np.array_equal(a, b) for a, b in zip(inputs.values, again.values, strict=True))
    mel, embedding, state, image, rate, flag = inputs.values
    assert [one.shape for one in inputs.values] == [(1, 96, 64), (1, 1024), (1, 8), (4, 4), (), (1,)]
    assert 0.9 < mel.std() < 1.1
    assert embedding.any()
    assert state.dtype == np.float16
    assert len(np.unique(image)) > 4
    assert (int(rate), bool(flag[0])) == (0, False)
    assert inputs.description.count("seeded generator") == 6
    with pytest.raises(UnsupportedError, match=r"'words' is tensor\(string\); wanted numbers"):
        ForeignInputs([Input("words", (1,), "tensor(string)")], 16_000, 1680)


def test_only_one_input_is_the_sound() -> None:
    inputs = inputs_of(onnx_file({"left": ("FLOAT", [1, 4000]), "right": ("FLOAT", [1, 4000])}))
    assert inputs.description == (
        "'left' float32[1, 4000]: golden audio at 16000 Hz; 'right' float32[1, 4000]: seeded generator"
    )


def test_a_tflite_file_of_an_open_length_is_given_one() -> None:
    model = ForeignModel("x.tflite", tiny.tflite_model())
    run = open_foreign(model, 1)
    (wanted,) = run.inputs
    assert wanted.shape == tiny.INPUT_SHAPE
    run.inputs = (wanted._replace(shape=(None, *wanted.shape[1:])),)
    inputs = ForeignInputs(run.inputs, 16_000, 1680)
    run.prepare(inputs.values)
    (logits,) = run.run(inputs.values)
    assert np.allclose(logits[0], tiny.linear(inputs.values[0][0]), atol=1e-3)


def test_a_foreign_file_is_timed_beside_the_bundle_and_is_what_ratios_are_of() -> None:
    files = [
        ForeignModel(SHOUT, onnx_file({"wave": ("FLOAT", [1, 4000])})),
        ForeignModel("b.tflite", tiny.tflite_model()),
    ]
    result = bench_bundle(chained_bundle(), ["onnx-fp32"], options=QUICK, foreign=files)
    assert [item.artefact for item in result.artefacts] == ["onnx-fp32", SHOUT, "b.tflite"]
    own, *foreign = result.artefacts
    for item, model, engine in zip(foreign, files, ("onnx", "litert"), strict=True):
        assert (item.form, item.parity, item.precision, item.engine) == ("foreign", None, "unknown", engine)
        assert (item.sha256, item.size_bytes, item.hop_ms) == (model.sha256, len(model.payload), 40)
        assert [stage.name for stage in item.stages if stage.in_path] == ["inference", "total"]
        assert all("not in path" in (stage.reason or "") for stage in item.stages if not stage.in_path)
        assert item.stages[-1].samples_us == item.stage("inference").samples_us  # type: ignore[union-attr]
        assert item.n_hops == 30
    assert "golden audio" in foreign[0].engine_info["input"]
    assert foreign[0].engine_info["provider"] == "CPUExecutionProvider"
    assert foreign[1].engine_info["delegate"] == "XNNPACK"
    assert [(ratio.artefact, ratio.baseline) for ratio in result.ratios[::2]] == [
        ("onnx-fp32", SHOUT),
        ("b.tflite", SHOUT),
    ]
    assert own.hop_ms == result.hop_ms


def test_a_foreign_file_is_not_resampled_to() -> None:
    options = QUICK.model_copy(update={"input_rate_hz": 48_000})
    model = ForeignModel(SHOUT, onnx_file({"wave": ("FLOAT", [1, 4000])}))
    own, foreign = bench_bundle(chained_bundle(), ["onnx-fp32"], options=options, foreign=[model]).artefacts
    assert own.stages[0].in_path
    assert not foreign.stages[0].in_path


def test_what_cannot_run_is_listed_or_refused_by_name() -> None:
    odd = ForeignModel("odd.onnx", onnx_file({"x": ("FLOAT", [1, 4])}, domain="com.acme", operator="Secret"))
    result = bench_bundle(chained_bundle(), options=QUICK, foreign=[odd])
    assert [item.artefact for item in result.not_run] == ["odd.onnx"]
    with pytest.raises(UnsupportedError, match=r"odd\.onnx: this onnxruntime lacks an operator"):
        bench_bundle(chained_bundle(), ["onnx-fp32"], options=QUICK, foreign=[odd])
    broken = ForeignModel("broken.tflite", b"TFL3 and no more")
    with pytest.raises(VerificationError, match=r"broken\.tflite: LiteRT refuses the model"):
        bench_bundle(chained_bundle(), ["onnx-fp32"], options=QUICK, foreign=[broken])


def test_an_input_that_a_file_does_not_take_names_the_file() -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("MatMul", ["x", "y"], ["z"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n"]) for name in "xyz"]
    graph = helper.make_graph([node], "foreign", values[:2], values[2:])
    payload = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(VerificationError, match=r"odd\.onnx: does not run with the input that was made for it"):
        bench_bundle(chained_bundle(), ["onnx-fp32"], options=QUICK, foreign=[ForeignModel("odd.onnx", payload)])


@pytest.mark.parametrize(
    "name", ["x.pt", "x", "", ".onnx/..", "a/b.onnx", "new\nline.onnx", "\x1b[31m.onnx", "n" * 130 + ".onnx"]
)
def test_names_that_are_no_plain_model_files_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        ForeignModel(name, b"")


@pytest.mark.parametrize("name", ["; rm -rf ~.onnx", "$(reboot).tflite", "ünï cödé.ONNX"])
def test_names_that_are_only_odd_are_names(name: str) -> None:
    assert ForeignModel(name, b"").format in ("onnx", "tflite")


@pytest.mark.parametrize("ending", ["engine", "plan", "trt"])
def test_an_engine_that_tensorrt_built_is_refused_with_the_way_out(ending: str) -> None:
    with pytest.raises(ConfigError, match=r"runs only on the GPU, driver and release that built it.*Give the \.onnx"):
        ForeignModel(f"yolo.{ending}", b"")


def test_reading_says_what_is_wrong_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(ConfigError, match=r"x\.onnx: cannot be read: No such file"):
        ForeignModel.read(path)
    path.write_bytes(b"1234")
    assert ForeignModel.read(path).payload == b"1234"
    monkeypatch.setattr("edgeaudio.bench.foreign.MODEL_FILE_BYTES", 3)
    with pytest.raises(LimitError, match=r"x\.onnx: bytes is 4, the limit is 3"):
        ForeignModel.read(path)
    assert limits.MODEL_FILE_BYTES >= 100 * 2**20


def test_two_files_of_one_name_are_refused() -> None:
    model = ForeignModel("x.tflite", tiny.tflite_model())
    with pytest.raises(ConfigError, match="each needs a name of its own"):
        bench_bundle(chained_bundle(), options=QUICK, foreign=[model, model])
