"""Quantise and export one student, and pack it into a bundle with golden vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.export import export_student
from edgeaudio_export.parity import engine_for

import edgeaudio
from edgeaudio.bundle import Artefact, Golden, Manifest, golden_entry, write_bundle
from edgeaudio.bundle.manifest import Lineage, Source
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.data.windows import Float32
from edgeaudio.frontend.reference import reference_log_mel
from edgeaudio.pipeline.commit import source_commit
from edgeaudio.pipeline.labelling import read_store
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.training import DISTILLED, TrainedStudent
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.spec.fs import atomic_write
from edgeaudio.teachers.base import Teacher


def quantise_stage(context: Context, prepared: Prepared, trained: TrainedStudent, labels: StageResult) -> StageResult:
    """int8 artefacts, calibrated on training windows of the fold."""
    recipe = context.recipe
    inputs = {
        "weights": trained.weights_sha256,
        "labels": labels.outputs["labels.store"],
        "quantize": recipe.quantize.model_dump(mode="json"),
        "formats": recipe.formats,
    }

    def quantise(folder: Path) -> dict[str, Any]:
        windows = read_store(labels.output("labels.store"), None)
        n = recipe.quantize.calibration_windows
        calibration = torch.from_numpy(windows.log_mel[:n].astype(np.float32))
        assert windows.target is not None
        single_label = prepared.dataset.task.kind == "single_label"
        targets = torch.from_numpy(windows.target[:n].argmax(axis=1)) if single_label else None
        quantised = quantise_ptq(trained.network, calibration, targets=targets)
        exported = export_student(
            trained.network, quantised, recipe.window.frames, recipe.frontend.n_mels,
            formats=recipe.formats, precisions=["int8"],
        )  # fmt: skip
        return _write_artefacts(folder, exported) | {
            "calibration_windows": quantised.n_calibration_windows,
            "quantize_nodes": quantised.qdq.quantise,
            "dequantize_nodes": quantised.qdq.dequantise,
        }

    return context.work.run_stage(f"quantize-fold{trained.fold}-{trained.arm}", inputs, quantise)


def export_stage(
    context: Context, prepared: Prepared, trained: TrainedStudent, teacher: Teacher, quantised: StageResult
) -> StageResult:
    """fp32 artefacts, then everything in `bundle.eab` (not verified yet)."""
    recipe = context.recipe
    lineage = _lineage(context, prepared, trained, teacher)
    inputs = {
        "weights": trained.weights_sha256,
        "int8": quantised.outputs_digest,
        "formats": recipe.formats,
        "decision": recipe.decision.model_dump(mode="json"),
        # The commit is recorded, not an input: the same weights are not exported again for a new one.
        "lineage": lineage.model_dump(mode="json", exclude={"commit"}),
        "task": prepared.dataset.task.model_dump(mode="json"),
        "name": recipe.name,
    }

    def export(folder: Path) -> dict[str, Any]:
        exported = export_student(
            trained.network, None, recipe.window.frames, recipe.frontend.n_mels,
            formats=recipe.formats, precisions=["fp32"],
        )  # fmt: skip
        result = _write_artefacts(folder, exported)
        entries = [Artefact.model_validate(item) for item in result["artefacts"] + quantised.result["artefacts"]]
        entries.sort(key=lambda entry: (entry.format, entry.precision))
        payloads = {
            entry.path: _artefact_file(quantised.folder if entry.precision == "int8" else folder, entry).read_bytes()
            for entry in entries
        }
        golden = make_golden(recipe.frontend, recipe.window, entries, payloads)
        manifest = Manifest(
            name=f"{recipe.name}-fold{trained.fold}" + ("" if trained.arm == DISTILLED else f"-{trained.arm}"),
            frontend=recipe.frontend,
            window=recipe.window,
            task=prepared.dataset.task,
            decision=recipe.decision,
            artefacts=tuple(entries),
            golden=golden_entry(golden),
            cost=trained.cost,
            lineage=lineage,
        )
        write_bundle(folder / "bundle.eab", manifest, payloads, golden)
        return {"bundle": "bundle.eab"}

    return context.work.run_stage(f"export-fold{trained.fold}-{trained.arm}", inputs, export)


def golden_waveforms(n_samples: int, sample_rate: int) -> Float32:
    """`(4, n_samples)`: a chirp, harmonics with decay, noise bursts, faint noise.

    Made, not recorded, so that a bundle carries nobody's audio.
    """
    t = np.arange(n_samples) / sample_rate
    rng = np.random.default_rng(2026)
    noise = rng.standard_normal(n_samples)
    top_hz = 0.4 * sample_rate
    chirp = 0.5 * np.sin(2 * np.pi * (100 * t + 0.5 * (top_hz - 100) / t[-1] * t**2))
    harmonics = np.exp(-3 * t) * sum(np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 8)) * 0.4
    bursts = 0.2 * noise * (np.sin(2 * np.pi * 6 * t) > 0)
    return np.stack([chirp, harmonics, bursts, 1e-3 * noise]).astype(np.float32)


def make_golden(
    frontend: FrontendSpec, window: WindowSpec, entries: Sequence[Artefact], payloads: dict[str, bytes]
) -> Golden:
    """Golden vectors: log-mel by the float64 reference, logits of each artefact by its engine."""
    waveform = golden_waveforms(window.n_samples(frontend), frontend.sample_rate)
    log_mel = np.stack([reference_log_mel(row, frontend) for row in waveform]).astype(np.float32)
    logits = {}
    for entry in entries:
        engine = engine_for(entry, payloads[entry.path])
        logits[entry.name] = np.stack([engine.run(row) for row in log_mel])
    return Golden(waveform=waveform, log_mel=log_mel, logits=logits)


def _artefact_file(folder: Path, entry: Artefact) -> Path:
    return folder / Path(entry.path).name


def _write_artefacts(folder: Path, exported: Sequence[ExportedArtefact]) -> dict[str, Any]:
    entries = [artefact.manifest_entry() for artefact in exported]
    for artefact, entry in zip(exported, entries, strict=True):
        atomic_write(_artefact_file(folder, entry), artefact.payload)
    floats = {artefact.name: list(artefact.float_activations) for artefact in exported if artefact.float_activations}
    return {"artefacts": [entry.model_dump(mode="json") for entry in entries], "float_activations": floats}


def _lineage(context: Context, prepared: Prepared, trained: TrainedStudent, teacher: Teacher) -> Lineage:
    recipe = context.recipe
    datasets = [prepared.dataset]
    taught = trained.arm == DISTILLED
    if taught and recipe.uses_unlabelled and prepared.unlabelled is not None:
        datasets.append(prepared.unlabelled)
    return Lineage(
        edgeaudio_version=edgeaudio.__version__,
        recipe_digest=recipe.digest(),
        seed=recipe.seed,
        commit=source_commit(),
        datasets=tuple(Source(name=d.name, licence=d.licence, sha256=d.digest()) for d in datasets),
        teacher=Source(name=teacher.name, licence=teacher.licence, sha256=teacher.digest) if taught else None,
        student=recipe.student.family,
        student_config=recipe.student.model_dump(exclude={"family"}),
        arm=trained.arm,
    )
