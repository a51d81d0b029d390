"""An early-exit student as chains of stages, one chain per format and precision, and their way into a bundle.

The student with all its exits is exported (and, for int8, quantised) as *one* graph, which is then cut behind each
exit. So stages share their scales, hidden tensors stay int8 on their way, and the last stage answers as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgeaudio import catalog
from edgeaudio.bundle import Bundle, ExitChain, Exits, Golden, Manifest, StageArtefact, bundle_bytes, golden_entry
from edgeaudio.bundle.manifest import ArtefactFormat, Parity, Precision, TensorInfo
from edgeaudio.bundle.writer import file_entry
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.confidence import TaskKind
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.spec import ExitCalibration
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph

from .export import FORMATS, PRECISIONS
from .operators import Model
from .parity import ParityGate, engine_for, engine_name, executor, measure_parity, run_windows

Cut = Callable[[bytes], list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]]]


@dataclass(frozen=True)
class ExportedChain:
    """The stages of one format and precision in memory, before they enter a bundle."""

    stages: tuple[StageArtefact, ...]
    #: Entry path -> bytes.
    payloads: Mapping[str, bytes]

    @property
    def name(self) -> str:
        """`onnx-int8` and the like."""
        return f"{self.stages[0].format}-{self.stages[0].precision}"

    @property
    def size_bytes(self) -> int:
        """All stages together."""
        return sum(map(len, self.payloads.values()))

    def manifest_entry(
        self,
        calibration: ExitCalibration | None = None,
        *,
        thresholds: Sequence[float | None] | None = None,
        parity: Parity | None = None,
    ) -> ExitChain:
        """The manifest's description. Thresholds: given ones, else those of `calibration`, else no exit is taken."""
        if thresholds is None:
            thresholds = calibration.thresholds if calibration else (None,) * (len(self.stages) - 1)
        return ExitChain(stages=self.stages, thresholds=tuple(thresholds), calibration=calibration, parity=parity)

    def cascade(self, kind: TaskKind, *, thresholds: Sequence[float | None] | None = None) -> Cascade:
        """The chain on the engine of its format, to calibrate or compare before there is a bundle."""
        return Cascade(
            self.manifest_entry(),
            lambda stage: self.payloads[stage.path],
            engine=engine_name(self.stages[0].format),
            kind=kind,
            thresholds=thresholds,
        )


def export_stages(
    student: EarlyExitStudent,
    quantised: QuantisedStudent | None,
    frames: int,
    n_mels: int,
    *,
    formats: Sequence[ArtefactFormat] = FORMATS,
    precisions: Sequence[Precision] = PRECISIONS,
) -> list[ExportedChain]:
    """Export for windows `(1, frames, n_mels)`, in the order of `formats` and then `precisions`.

    Args:
        quantised: of `StagedGraph(student)`, by `quantise_ptq` or another way; may be None when int8 is not asked for.
    Raises:
        ConfigError: int8 without `quantised`, nothing asked for, or an unknown format.
        UnsupportedError: names the operator and the format that lacks it.
        VerificationError: a later section reads more than what the section before an exit gives.
    """
    if not formats or not precisions:
        raise ConfigError(f"nothing to export: formats {list(formats)}, precisions {list(precisions)}")
    example = torch.zeros(1, frames, n_mels)
    graph = StagedGraph(student)
    chains = []
    for format in formats:
        exporter = catalog.resolve("exporters", format)
        for precision in precisions:
            model: Model | None = graph if precision == "fp32" else quantised
            if model is None:
                raise ConfigError(
                    "precision int8 was asked for, but not quantised; run quantise_ptq on StagedGraph(student)"
                )
            whole = exporter(model, example, precision)
            chains.append(_chain(format, precision, _cutter(format)(whole.payload)))
    return chains


def add_exits(bundle: Bundle, exits: Exits, payloads: Mapping[str, bytes]) -> bytes:
    """The bytes of `bundle` with staged artefacts and their golden logits; exits that it has are replaced.

    Args:
        payloads: entry path -> bytes of every stage in `exits`.
    Raises:
        BundleError: files that are not those of `exits`. ConfigError: stages that do not fit the manifest.
        UnsupportedError: no engine here runs them.
    """
    parsed = Manifest.parse(
        bundle.manifest.model_dump() | {"exits": exits.model_dump()}, source=f"bundle {bundle.manifest.name!r}"
    )
    kept = [file for file in bundle.manifest.model_files if not isinstance(file, StageArtefact)]
    logits = {file.name: bundle.golden.logits[file.name] for file in kept}
    for chain in exits.chains:
        cascade = Cascade(
            chain,
            lambda stage: payloads[stage.path],
            engine=engine_name(chain.stages[0].format),
            kind=parsed.task.kind,
        )
        for stage, answers in zip(chain.stages, cascade.logits(bundle.golden.log_mel), strict=True):
            logits[stage.name] = answers
    golden = Golden(waveform=bundle.golden.waveform, log_mel=bundle.golden.log_mel, logits=logits)
    files = {file.path: bundle.payload(file) for file in kept}
    return bundle_bytes(parsed.model_copy(update={"golden": golden_entry(golden)}), {**files, **payloads}, golden)


def chain_parity(bundle: Bundle, chain: ExitChain, windows: Float32, gate: ParityGate) -> Parity:
    """The last stage against the whole artefact of its format and precision, over windows `(n, frames, n_mels)`."""
    format, precision = chain.stages[0].format, chain.stages[0].precision
    whole = bundle.manifest.artefact(format, precision)
    cascade = Cascade.of_bundle(bundle, engine=engine_name(format), precision=precision)
    reference = run_windows(engine_for(whole, bundle.payload(whole)), windows)
    answers = cascade.logits(windows)[-1]
    return measure_parity(answers, reference, reference=whole.name, gate=gate, executor=executor(format))


def staged_layers(student: torch.nn.Module, graph: StagedGraph, layers: Sequence[str]) -> tuple[str, ...]:
    """What the layers of a student, by module path, are called in its `StagedGraph` (`keep_float`, say).

    Raises:
        ConfigError: a path that is no module of both.
    """
    paths = {id(module): path for path, module in graph.named_modules()}
    modules = dict(student.named_modules())
    unknown = [layer for layer in layers if id(modules.get(layer)) not in paths]
    if unknown:
        raise ConfigError(f"layers {unknown} are not in the staged graph; known are those of sections and heads")
    return tuple(paths[id(modules[layer])] for layer in layers)


def _cutter(format: ArtefactFormat) -> Cut:
    # Each imports its format's library.
    if format == "onnx":
        from .onnx_cut import cut_onnx

        return cut_onnx
    if format == "tensorrt":
        from .tensorrt_export import cut_tensorrt

        return cut_tensorrt
    from .tflite_cut import cut_tflite

    return cut_tflite


def _chain(
    format: ArtefactFormat, precision: Precision, cut: list[tuple[bytes, TensorInfo, tuple[TensorInfo, ...]]]
) -> ExportedChain:
    stages, payloads = [], {}
    for number, (payload, given, outputs) in enumerate(cut):
        path = f"stages/{precision}-{number}.{format}"
        payloads[path] = payload
        stages.append(
            StageArtefact(
                **file_entry(path, payload).model_dump(),
                format=format,
                precision=precision,
                stage=number,
                input=given,
                outputs=outputs,
            )
        )
    return ExportedChain(tuple(stages), payloads)


def logits_by_exit(student: EarlyExitStudent, windows: Float32, *, batch: int = 256) -> Float32:
    """`(n, frames, n_mels)` -> float logits of every exit in torch `(n_exits, n, classes)`, as `Cascade.logits`."""
    rows = []
    was_training = student.training
    student.eval()
    with torch.no_grad():
        for chunk in torch.split(torch.from_numpy(windows), batch):
            answers, embedding = student.forward_exits(chunk)
            rows.append(torch.stack([*answers, student.head(embedding)]).numpy())
    student.train(was_training)
    return np.concatenate(rows, axis=1)
