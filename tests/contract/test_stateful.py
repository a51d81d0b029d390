"""A stateful file of every format and precision answers as the windowed file beside it, on its own engine."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from edgeaudio_export.artefact import ExportedStateful
from edgeaudio_export.export import FORMATS, PRECISIONS, export_student
from edgeaudio_export.parity import engine_for, run_windows
from edgeaudio_export.stateful import export_stateful, stream_logits
from numpy.typing import NDArray

from edgeaudio.bundle.manifest import ArtefactFormat, Precision
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.errors import ConfigError, ShapeError
from edgeaudio.runtime.stateful import StatefulRunner
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import MNSpec
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_quantised, tiny_student, windows, with_statistics
from tests.tolerances import STATEFUL_FP32_RELATIVE, STATEFUL_INT8_MAX_STEPS

pytestmark = pytest.mark.slow
every_form = pytest.mark.parametrize("precision", PRECISIONS)
every_format = pytest.mark.parametrize("format", FORMATS)


@functools.cache
def exported(format: ArtefactFormat, precision: Precision, step: int) -> ExportedStateful:
    (artefact,) = export_stateful(
        tiny_student(), tiny_quantised(), FRAMES, N_MELS, step, formats=[format], precisions=[precision]
    )
    return artefact


@functools.cache
def heard() -> NDArray[np.float32]:
    """A stream `(frames, N_MELS)` whose level and tilt change."""
    stream: NDArray[np.float32] = windows(2, seed=3).reshape(-1, N_MELS).numpy()
    return stream


def windowed_logits(format: ArtefactFormat, precision: Precision, step: int) -> NDArray[np.float32]:
    (artefact,) = export_student(
        tiny_student(), tiny_quantised(), FRAMES, N_MELS, formats=[format], precisions=[precision]
    )
    starts = range(0, len(heard()) - FRAMES + 1, step)
    engine = engine_for(artefact.manifest_entry(), artefact.payload)
    return run_windows(engine, np.stack([heard()[start : start + FRAMES] for start in starts]))


@every_format
@every_form
@pytest.mark.parametrize("step", [2, 20])
def test_a_stream_answers_as_the_windowed_file(format: ArtefactFormat, precision: Precision, step: int) -> None:
    artefact = exported(format, precision, step)
    answers = stream_logits(artefact.manifest_entry(), artefact.payload, heard(), FRAMES)
    wanted = windowed_logits(format, precision, step)
    assert answers.shape == wanted.shape
    gap = np.abs(answers - wanted).max()
    if precision == "fp32":
        assert gap <= STATEFUL_FP32_RELATIVE * np.abs(wanted).max()
    else:
        assert artefact.logit_step is not None
        assert gap <= STATEFUL_INT8_MAX_STEPS * artefact.logit_step
    assert np.array_equal(answers.argmax(axis=1), wanted.argmax(axis=1))


@every_format
def test_states_of_int8_files_are_eight_bit_and_are_handed_on_as_they_are(format: ArtefactFormat) -> None:
    entry = exported(format, "int8", 2).manifest_entry()
    assert {state.dtype for state in entry.states} == {"uint8" if format == "onnx" else "int8"}
    assert [output.shape for output in entry.outputs[:-1]] == [state.shape for state in entry.states]


@every_format
@every_form
def test_exporting_twice_gives_the_same_bytes(format: ArtefactFormat, precision: Precision) -> None:
    (again,) = export_stateful(
        tiny_student(), tiny_quantised(), FRAMES, N_MELS, 2, formats=[format], precisions=[precision]
    )
    assert again.payload == exported(format, precision, 2).payload


@every_format
@every_form
def test_reset_is_total(format: ArtefactFormat, precision: Precision) -> None:
    artefact = exported(format, precision, 20)
    entry = artefact.manifest_entry()
    runner = StatefulRunner(engine_for(entry, artefact.payload), entry)
    first = [runner.step(heard()[at : at + 20]) for at in range(0, 120, 20)]
    runner.reset()
    again = [runner.step(heard()[at : at + 20]) for at in range(0, 120, 20)]
    assert np.array_equal(first, again)


@every_format
def test_gates_over_trailing_means_stream_in_int8(format: ArtefactFormat) -> None:
    torch.manual_seed(0)
    spec = MNSpec(blocks=4, embedding=16, squeeze_steps=3, activation="hardswish")
    student = with_statistics(MN.build(spec, CLASSES, n_mels=N_MELS, frames=FRAMES))
    quantised = quantise_ptq(student, windows(32))
    (window,) = export_student(student, quantised, FRAMES, N_MELS, formats=[format], precisions=["int8"])
    (stateful,) = export_stateful(student, quantised, FRAMES, N_MELS, 4, formats=[format], precisions=["int8"])
    answers = stream_logits(stateful.manifest_entry(), stateful.payload, heard()[: FRAMES + 8], FRAMES)
    slices = np.stack([heard()[start : start + FRAMES] for start in (0, 4, 8)])
    wanted = run_windows(engine_for(window.manifest_entry(), window.payload), slices)
    assert stateful.logit_step is not None
    assert np.abs(answers - wanted).max() <= STATEFUL_INT8_MAX_STEPS * stateful.logit_step


def test_int8_wants_an_int8_student() -> None:
    with pytest.raises(ConfigError, match="not quantised"):
        export_stateful(tiny_student(), None, FRAMES, N_MELS, 2)


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    artefact = exported("onnx", "fp32", 2)
    with pytest.raises(ShapeError, match="the window has"):
        stream_logits(artefact.manifest_entry(), artefact.payload, heard()[:50], FRAMES)
