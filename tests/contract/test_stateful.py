"""A stateful file of every format and precision answers as the windowed file beside it, on its own engine."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from edgeaudio_export.artefact import ExportedStateful
from edgeaudio_export.export import FORMATS, PRECISIONS, export_student
from edgeaudio_export.parity import engine_for, run_windows
from edgeaudio_export.stateful import export_stateful
from numpy.typing import NDArray
from torch import nn

from edgeaudio.bundle import Stateful
from edgeaudio.bundle.manifest import ArtefactFormat, Precision
from edgeaudio.compress.ptq import QuantisedStudent, quantise_ptq
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.engines.base import Engine
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits
from edgeaudio.spec import WindowSpec
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import MNSpec
from tests.tiny_student import CLASSES, FRAMES, N_MELS, windows, with_statistics
from tests.tolerances import STATEFUL_FP32_RELATIVE, STATEFUL_INT8_MAX_STEPS

pytestmark = pytest.mark.slow
every_form = pytest.mark.parametrize("precision", PRECISIONS)
every_format = pytest.mark.parametrize("format", FORMATS)


@functools.cache
def student() -> nn.Module:
    """As `tiny_student`, with fewer layers: converters take their time for each."""
    torch.manual_seed(0)
    return with_statistics(DSCNN(CLASSES, n_mels=N_MELS, width=8, blocks=(1, 1, 1)))


@functools.cache
def quantised() -> QuantisedStudent:
    return quantise_ptq(student(), windows(32))


@functools.cache
def exported(format: ArtefactFormat, precision: Precision, step: int) -> ExportedStateful:
    (artefact,) = export_stateful(
        student(), quantised(), FRAMES, N_MELS, step, formats=[format], precisions=[precision]
    )
    return artefact


@functools.cache
def windowed(format: ArtefactFormat, precision: Precision) -> Engine:
    (artefact,) = export_student(student(), quantised(), FRAMES, N_MELS, formats=[format], precisions=[precision])
    return engine_for(artefact.manifest_entry(), artefact.payload)


@functools.cache
def heard() -> NDArray[np.float32]:
    """A stream `(frames, N_MELS)` whose level and tilt change."""
    stream: NDArray[np.float32] = windows(2, seed=3).reshape(-1, N_MELS).numpy()
    return stream


def streamed(artefact: ExportedStateful, log_mel: NDArray[np.float32]) -> NDArray[np.float32]:
    entry = artefact.manifest_entry()
    stateful = Stateful.of(WindowSpec(frames=FRAMES), entry.input.shape[1], artefact.macs_per_step, [entry])
    return stream_logits(StatefulRunner(engine_for(entry, artefact.payload), entry), stateful, log_mel)


def assert_equals_windows(artefact: ExportedStateful, engine: Engine, log_mel: NDArray[np.float32]) -> None:
    starts = range(0, len(log_mel) - FRAMES + 1, artefact.input.shape[1])
    wanted = run_windows(engine, np.stack([log_mel[start : start + FRAMES] for start in starts]))
    answers = streamed(artefact, log_mel)
    assert answers.shape == wanted.shape
    gap = np.abs(answers - wanted).max()
    if artefact.precision == "fp32":
        assert gap <= STATEFUL_FP32_RELATIVE * np.abs(wanted).max()
    else:
        assert artefact.logit_step is not None
        assert gap <= STATEFUL_INT8_MAX_STEPS * artefact.logit_step
    assert np.array_equal(answers.argmax(axis=1), wanted.argmax(axis=1))


@every_format
@pytest.mark.parametrize(("precision", "step"), [("fp32", 2), ("int8", 2), ("int8", 20)])
def test_a_stream_answers_as_the_windowed_file(format: ArtefactFormat, precision: Precision, step: int) -> None:
    assert_equals_windows(exported(format, precision, step), windowed(format, precision), heard())


@every_format
def test_states_of_int8_files_are_eight_bit_and_are_handed_on_as_they_are(format: ArtefactFormat) -> None:
    artefact = exported(format, "int8", 2)
    entry = artefact.manifest_entry()
    assert {state.dtype for state in entry.states} == {"uint8" if format == "onnx" else "int8"}
    assert [output.shape for output in entry.outputs[:-1]] == [state.shape for state in entry.states]
    # Steps shorter than the strides take turns; the same sums whatever the precision.
    assert {state.phases for state in entry.states} == {1, 2}
    assert artefact.macs_per_step == exported(format, "fp32", 2).macs_per_step


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp32"), ("tflite", "int8")])
def test_exporting_twice_gives_the_same_bytes(format: ArtefactFormat, precision: Precision) -> None:
    (again,) = export_stateful(student(), quantised(), FRAMES, N_MELS, 2, formats=[format], precisions=[precision])
    assert again.payload == exported(format, precision, 2).payload


@every_format
def test_layers_left_float_stay_so_in_a_stream(format: ArtefactFormat) -> None:
    kept = quantise_ptq(student(), windows(32), keep_float=("head",))
    (whole,) = export_student(student(), kept, FRAMES, N_MELS, formats=[format], precisions=["int8"])
    (stepped,) = export_stateful(student(), kept, FRAMES, N_MELS, 4, formats=[format], precisions=["int8"])
    assert stepped.logit_step is None
    assert stepped.outputs[-1].dtype == "float32"
    starts = range(0, 25, 4)
    wanted = run_windows(
        engine_for(whole.manifest_entry(), whole.payload), np.stack([heard()[at : at + FRAMES] for at in starts])
    )
    answers = streamed(stepped, heard()[: FRAMES + 24])
    assert np.abs(answers - wanted).max() <= STATEFUL_FP32_RELATIVE * np.abs(wanted).max()


@every_format
def test_gates_over_trailing_means_stream_in_int8(format: ArtefactFormat) -> None:
    torch.manual_seed(0)
    spec = MNSpec(blocks=4, embedding=16, squeeze_steps=3, activation="hardswish")
    student = with_statistics(MN.build(spec, CLASSES, n_mels=N_MELS, frames=FRAMES))
    quantised = quantise_ptq(student, windows(32))
    (window,) = export_student(student, quantised, FRAMES, N_MELS, formats=[format], precisions=["int8"])
    (stateful,) = export_stateful(student, quantised, FRAMES, N_MELS, 4, formats=[format], precisions=["int8"])
    assert_equals_windows(stateful, engine_for(window.manifest_entry(), window.payload), heard()[: FRAMES + 8])


def test_int8_wants_an_int8_student() -> None:
    with pytest.raises(ConfigError, match="not quantised"):
        export_stateful(student(), None, FRAMES, N_MELS, 2, precisions=["int8"])
