"""Every exporter of the catalogue: the engine runs what it writes, twice the same bytes, and refusals name the op."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.parity import ParityGate, engine_for, measure_parity, run_windows
from torch import nn

from edgeaudio import catalog
from edgeaudio.bundle.manifest import Precision
from edgeaudio.errors import ConfigError, ShapeError, UnsupportedError
from tests.tiny_student import CLASSES, FRAMES, N_MELS, logits, tiny_quantised, tiny_student, windows
from tests.tolerances import (
    FP32_EXPORT_MAX_ABS_LOGIT,
    INT8_ENGINES_MAX_STEPS,
    INT8_GRAPH_BYTES,
    INT8_MAX_BYTES_PER_PARAMETER,
    INT8_MIN_SQNR_DB,
)

pytestmark = pytest.mark.slow
EXAMPLE = torch.zeros(1, FRAMES, N_MELS)
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
every_exporter = pytest.mark.parametrize("name", sorted(catalog.EXPORTERS))


def export(name: str, precision: Precision) -> ExportedArtefact:
    model = tiny_student() if precision == "fp32" else tiny_quantised()
    artefact: ExportedArtefact = catalog.resolve("exporters", name)(model, EXAMPLE, precision)
    return artefact


exported = functools.cache(export)


@functools.cache
def exported_logits(name: str, precision: Precision) -> Any:
    artefact = exported(name, precision)
    engine = engine_for(artefact.manifest_entry(), artefact.payload)
    return run_windows(engine, windows(100, seed=2).numpy())


@functools.cache
def float_logits() -> Any:
    return logits(tiny_student(), windows(100, seed=2)).numpy()


@every_exporter
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_artefact_says_what_it_is(name: str, precision: Precision) -> None:
    artefact = exported(name, precision)
    assert (artefact.format, artefact.precision) == (name, precision)
    assert (artefact.input.name, artefact.input.shape) == ("log_mel", (1, FRAMES, N_MELS))
    assert [(output.name, output.shape) for output in artefact.outputs] == [("logits", (1, CLASSES))]


@every_exporter
def test_float_files_answer_as_the_student(name: str) -> None:
    assert np.abs(exported_logits(name, "fp32") - float_logits()).max() < FP32_EXPORT_MAX_ABS_LOGIT


@every_exporter
def test_int8_files_follow_the_student(name: str) -> None:
    noise = exported_logits(name, "int8") - float_logits()
    assert 10 * np.log10(float_logits().var() / noise.var()) > INT8_MIN_SQNR_DB


@every_exporter
@pytest.mark.parametrize("precision", PRECISIONS)
def test_exporting_twice_gives_the_same_bytes(name: str, precision: Precision) -> None:
    assert export(name, precision).payload == exported(name, precision).payload


@every_exporter
def test_int8_files_hold_eight_bit_weights(name: str) -> None:
    student = tiny_student(16)
    from edgeaudio.compress.ptq import quantise_ptq

    quantised = quantise_ptq(student, windows(32), symmetric=True)
    artefact = catalog.resolve("exporters", name)(quantised, EXAMPLE, "int8")
    n_parameters = sum(parameter.numel() for parameter in student.parameters())
    assert len(artefact.payload) < INT8_MAX_BYTES_PER_PARAMETER * n_parameters + INT8_GRAPH_BYTES


def test_int8_files_of_all_formats_agree() -> None:
    first, *others = sorted(catalog.EXPORTERS)
    step = next(a.outputs[0].scale for name in catalog.EXPORTERS if (a := exported(name, "int8")).outputs[0].scale)
    for name in others:
        parity = measure_parity(
            exported_logits(name, "int8"), exported_logits(first, "int8"), reference=first, gate=ParityGate(None, 0.99)
        )
        assert parity.passed
        assert parity.max_abs_logit_diff < (INT8_ENGINES_MAX_STEPS + 0.5) * step


@every_exporter
def test_the_student_is_left_as_it_was(name: str) -> None:
    student = tiny_student().train()
    try:
        catalog.resolve("exporters", name)(student, EXAMPLE, "fp32")
        assert student.training
    finally:
        student.eval()


@every_exporter
def test_model_and_precision_must_fit(name: str) -> None:
    exporter = catalog.resolve("exporters", name)
    with pytest.raises(ConfigError, match="int8 needs quantise_ptq"):
        exporter(tiny_student(), EXAMPLE, "int8")
    with pytest.raises(ConfigError, match="fp32 needs the student"):
        exporter(tiny_quantised(), EXAMPLE, "fp32")


@every_exporter
def test_an_example_of_another_shape_is_refused(name: str) -> None:
    exporter = catalog.resolve("exporters", name)
    with pytest.raises(ShapeError, match="quantised for"):
        exporter(tiny_quantised(), torch.zeros(1, FRAMES + 4, N_MELS), "int8")
    with pytest.raises(ShapeError, match="wanted float32"):
        exporter(tiny_student(), torch.zeros(2, FRAMES, N_MELS), "fp32")


class Exotic(nn.Module):
    """Uses a Bessel function, which no format has."""

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.special.bessel_j0(log_mel).mean(1)
        return result


@every_exporter
def test_an_operator_that_the_format_lacks_is_named(name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^{name}: operator \S*bessel_j0"):
        catalog.resolve("exporters", name)(Exotic(), EXAMPLE, "fp32")
