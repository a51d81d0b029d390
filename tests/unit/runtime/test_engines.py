"""The two engines: exact int8 conversion, copies, and typed refusals of wrong models."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeaudio.bundle.manifest import Artefact, TensorInfo
from edgeaudio.errors import BundleError, ShapeError, UnsupportedError
from edgeaudio.runtime.cascade import stages_info
from edgeaudio.runtime.engines.litert_engine import LiteRTEngine, delegated_operators
from edgeaudio.runtime.engines.onnx_engine import OnnxEngine
from edgeaudio.runtime.engines.tensors import check_tensor, dequantise, quantise
from tests import tiny_bundle as tiny


def _changed(
    artefact: Artefact, *, output: dict[str, Any] | None = None, given: dict[str, Any] | None = None
) -> Artefact:
    return artefact.model_copy(
        update={
            "input": artefact.input.model_copy(update=given or {}),
            "outputs": (artefact.outputs[0].model_copy(update=output or {}),),
        }
    )


def test_quantise_rounds_halves_to_even_and_clips() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 127.4], np.float32)
    assert quantise(values, 1.0, 0).tolist() == [0, 2, 2, 0, -2, 127, -128, 127]
    assert quantise(values, 1.0, -10).tolist() == [-10, -8, -8, -10, -12, 117 + 10, -128, 117]


def test_dequantise_undoes_quantise_for_every_code() -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    for scale, zero_point in ((0.1, 0), (5 / 255, -26), (3.0, 127)):
        assert np.array_equal(quantise(dequantise(codes, scale, zero_point), scale, zero_point), codes)


@pytest.mark.parametrize(("engine", "format"), [(OnnxEngine, "onnx"), (LiteRTEngine, "tflite")])
def test_integer_models_answer_in_steps_of_their_output_scale(engine: Any, format: str) -> None:
    payload = tiny.payloads()[format, "int8"]
    ran = engine(tiny.artefact(format, "int8", payload), payload)
    for seed in range(5):
        log_mel = np.random.default_rng(seed).uniform(-2, 3, tiny.INPUT_SHAPE[1:]).astype(np.float32)
        logits = ran.run(log_mel)
        steps = logits / np.float32(tiny.OUTPUT_SCALE)
        assert steps == pytest.approx(np.rint(steps), abs=1e-3)
        assert logits == pytest.approx(tiny.linear(log_mel), abs=2 * tiny.OUTPUT_SCALE)


def test_symbolic_dimensions_fit_any_size_and_numbers_must_match() -> None:
    artefact = tiny.artefact("onnx", "fp32", tiny.onnx_model())
    info = TensorInfo(name="x", shape=(1, 9, 64))
    check_tensor("input", ("batch", 9, None), "float32", info, artefact)
    for shape, dtype in (((1, 9), "float32"), ((1, 9, 63), "float32"), ((1, 9, 64), "float16")):
        with pytest.raises(BundleError, match=r"artefacts/fp32\.onnx: input 'x' of the model is"):
            check_tensor("input", shape, dtype, info, artefact)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"output": {"name": "other"}}, "outputs of the model are"),
        ({"given": {"name": "other"}}, "inputs of the model are"),
        ({"output": {"shape": (1, 4)}}, "output 'logits' of the model is"),
        ({"given": {"dtype": "int8"}}, "input 'log_mel' of the model is"),
    ],
)
def test_an_onnx_model_unlike_its_manifest_is_refused(change: dict[str, Any], match: str) -> None:
    payload = tiny.onnx_model()
    with pytest.raises(BundleError, match=match):
        OnnxEngine(_changed(tiny.artefact("onnx", "fp32", payload), **change), payload)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"output": {"shape": (1, 4)}}, "output 'logits' of the model is"),
        ({"given": {"dtype": "float32"}}, "input 'log_mel' of the model is"),
        ({"given": {"scale": 0.02}}, r"scale 0\.0196\d+ and zero point -26, the manifest says 0\.02 and -26"),
        ({"output": {"zero_point": 0}}, "zero point -26, the manifest says"),
    ],
)
def test_a_tflite_model_unlike_its_manifest_is_refused(change: dict[str, Any], match: str) -> None:
    payload = tiny.tflite_model(int8=True)
    with pytest.raises(BundleError, match=match):
        LiteRTEngine(_changed(tiny.artefact("tflite", "int8", payload), **change), payload)


def test_integer_onnx_without_a_scale_is_refused() -> None:
    payload = tiny.onnx_model(integer_io=True)
    artefact = _changed(tiny.artefact("onnx", "int8", payload), output={"scale": None})
    with pytest.raises(BundleError, match="'logits' is int8 but has no scale"):
        OnnxEngine(artefact, payload).run(np.zeros(tiny.INPUT_SHAPE[1:], np.float32))


def _onnx_with(nodes: list[Any], *opsets: tuple[str, int]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, tiny.INPUT_SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 3))],
        [numpy_helper.from_array(np.zeros((1, 9, 1)), "w")],
    )
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def test_onnx_operators_that_are_not_there_are_unsupported() -> None:
    from onnx import TensorProto, helper

    double_convolution = [
        helper.make_node("Cast", ["log_mel"], ["x"], to=TensorProto.DOUBLE),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT),
    ]
    custom = [helper.make_node("Foo", ["log_mel"], ["logits"], domain="my.ops")]
    relu = [helper.make_node("Relu", ["log_mel"], ["logits"])]
    for payload in (
        _onnx_with(double_convolution, ("", 17)),
        _onnx_with(custom, ("", 17), ("my.ops", 1)),
        _onnx_with(relu, ("", 99)),
    ):
        with pytest.raises(UnsupportedError, match=r"artefacts/fp32\.onnx: this onnxruntime lacks an operator"):
            OnnxEngine(tiny.artefact("onnx", "fp32", payload), payload)


def test_tflite_operators_that_are_not_there_are_unsupported() -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def edited(change: Callable[[Any], None]) -> bytes:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny.tflite_model()))
        change(model)
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def custom(model: Any) -> None:
        code, operator = model.operatorCodes[0], model.subgraphs[0].operators[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, operator.builtinOptionsType, operator.builtinOptions = b"MyOp", 0, None

    def newer(model: Any) -> None:
        model.operatorCodes[1].version = 99

    def unknown(model: Any) -> None:
        model.operatorCodes[1].builtinCode = 5_000

    for change in (custom, newer, unknown):
        payload = edited(change)
        with pytest.raises(UnsupportedError, match=r"artefacts/fp32\.tflite: this LiteRT lacks an operator"):
            LiteRTEngine(tiny.artefact("tflite", "fp32", payload), payload)


def test_external_data_is_refused() -> None:
    import onnx

    model = onnx.load_from_string(tiny.onnx_model())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    payload = model.SerializeToString()
    with pytest.raises(BundleError, match="refuses the model"):
        OnnxEngine(tiny.artefact("onnx", "fp32", payload), payload)


def test_tflite_runtime_runs_where_only_it_is_installed_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module("ai_edge_litert.interpreter")
    stand_in = types.ModuleType("tflite_runtime.interpreter")
    stand_in.Interpreter = real.Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", types.ModuleType("tflite_runtime"))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", stand_in)
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"version of {package}")
    payload = tiny.tflite_model()
    engine = LiteRTEngine(tiny.artefact("tflite", "fp32", payload), payload)
    assert engine.info["library"] == "tflite-runtime"
    assert engine.info["version"] == "version of tflite-runtime"


@pytest.mark.parametrize("int8", [False, True])
def test_litert_says_whether_its_delegate_took_the_graph(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    library = importlib.import_module("ai_edge_litert.interpreter")
    payload, artefact = tiny.tflite_model(int8=int8), tiny.artefact("tflite", "int8" if int8 else "fp32", b"")
    info = LiteRTEngine(artefact, payload).info
    assert (info["delegate"], info["delegated"]) == ("XNNPACK", "2 of 2 operators")
    # As on a machine where XNNPACK does not start: LiteRT goes on without a word.
    without = functools.partial(
        library.Interpreter,
        experimental_op_resolver_type=library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    monkeypatch.setattr(library, "Interpreter", without)
    info = LiteRTEngine(artefact, payload).info
    assert (info["delegate"], info["delegated"]) == ("none", "0 of 2 operators")


def test_operators_between_two_delegates_are_not_counted_as_taken() -> None:
    def node(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"op_name": name, "inputs": inputs, "outputs": outputs}

    # 0 -> A -> 1 -> B -> 2 -> C -> 3, and D takes 1 too; A and C are taken. 9 is a weight.
    file = [node("A", [0, 9], [1]), node("B", [1], [2]), node("C", [2, 9], [3]), node("D", [1], [4])]
    taken = [node("DELEGATE", [0, 9], [1]), node("DELEGATE", [2, 9], [3])]
    assert delegated_operators([*file, *taken]) == (2, 4)
    assert delegated_operators(file) == (0, 4)
    assert delegated_operators([*file, node("DELEGATE", [0, 9], [3, 4])]) == (4, 4)


def test_the_provider_is_asked_for_when_it_is_told() -> None:
    payload = tiny.onnx_model()
    engine = OnnxEngine(tiny.artefact("onnx", "fp32", payload), payload)
    engine._session = types.SimpleNamespace(get_providers=lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    assert engine.info["provider"] == "AzureExecutionProvider, CPUExecutionProvider"


def test_stages_that_run_differently_say_both() -> None:
    class Stage:
        def __init__(self, delegate: str) -> None:
            self.info = {"engine": "litert", "delegate": delegate}

    stages: Any = (Stage("XNNPACK"), Stage("none"), Stage("none"))
    assert stages_info(stages) == {"engine": "litert", "delegate": "XNNPACK; none", "stages": "3"}


def test_a_broken_litert_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'numpy.core'", name="numpy.core")

    monkeypatch.setattr("importlib.import_module", broken)
    payload = tiny.tflite_model()
    with pytest.raises(UnsupportedError, match=r"ai-edge-litert is installed but cannot load: No module named 'numpy"):
        LiteRTEngine(tiny.artefact("tflite", "fp32", payload), payload)


@pytest.mark.parametrize("threads", [1, 2])
def test_info_states_what_runs(threads: int) -> None:
    payload = tiny.onnx_model()
    info = OnnxEngine(tiny.artefact("onnx", "fp32", payload), payload, threads=threads).info
    assert info["provider"] == "CPUExecutionProvider"
    assert info["threads"] == str(threads)


def test_a_strided_window_is_read_right() -> None:
    payload = tiny.onnx_model()
    engine = OnnxEngine(tiny.artefact("onnx", "fp32", payload), payload)
    log_mel = np.random.default_rng(1).standard_normal((64, 9)).astype(np.float32).T
    assert not log_mel.flags.c_contiguous
    assert np.array_equal(engine.run(log_mel), engine.run(log_mel.copy()))
    with pytest.raises(ShapeError, match=r"wants float32 \(9, 64\)"):
        engine.run(log_mel.T)
