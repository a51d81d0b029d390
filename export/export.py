"""One student in, all its artefacts out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgeaudio import catalog
from edgeaudio.bundle.manifest import ArtefactFormat, Precision
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError

from .artefact import ExportedArtefact

FORMATS: tuple[ArtefactFormat, ...] = ("onnx", "tflite")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def export_student(
    student: nn.Module,
    quantised: QuantisedStudent | None,
    frames: int,
    n_mels: int,
    *,
    formats: Sequence[ArtefactFormat] = FORMATS,
    precisions: Sequence[Precision] = PRECISIONS,
    compact: bool = False,
) -> list[ExportedArtefact]:
    """Export for windows `(1, frames, n_mels)`, in the order of `formats` and then `precisions`.

    Args:
        quantised: from `quantise_ptq`; may be None when int8 is not asked for.
        compact: the onnx int8 file in its smallest form, for onnxruntime alone; see `onnx_compact`.
    Raises:
        ConfigError: int8 without `quantised`, nothing asked for, compact without onnx int8, or an unknown format.
        UnsupportedError: names the operator and the format that lacks it.
    """
    if not formats or not precisions:
        raise ConfigError(f"nothing to export: formats {list(formats)}, precisions {list(precisions)}")
    if compact and not ("onnx" in formats and "int8" in precisions):
        raise ConfigError(
            f"compact is a form of onnx int8, but formats are {list(formats)} and precisions {list(precisions)}; "
            "add onnx and int8, or leave compact out"
        )
    example = torch.zeros(1, frames, n_mels)
    exported = []
    for format in formats:
        exporter = catalog.resolve("exporters", format)
        for precision in precisions:
            model = student if precision == "fp32" else quantised
            if model is None:
                raise ConfigError("precision int8 was asked for, but the student was not quantised; run quantise_ptq")
            form = {"compact": True} if compact and (format, precision) == ("onnx", "int8") else {}
            exported.append(exporter(model, example, precision, **form))
    return exported
