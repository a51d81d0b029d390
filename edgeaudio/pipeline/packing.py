"""Quantise and export one student, and pack it into a bundle with golden vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from edgeaudio_export.artefact import ExportedArtefact
from edgeaudio_export.export import export_student
from edgeaudio_export.parity import engine_for
from edgeaudio_export.staged import ExportedChain, add_exits, export_stages
from edgeaudio_export.stateful import add_stateful
from torch import nn

import edgeaudio
from edgeaudio.bundle import (
    Artefact,
    Bundle,
    Exits,
    Golden,
    Manifest,
    StageArtefact,
    golden_entry,
    write_bundle,
)
from edgeaudio.bundle.manifest import ArtefactFormat, Lineage, Precision, Source
from edgeaudio.compress.exit_calibration import ExitAnswers, calibrate_exits
from edgeaudio.compress.ptq import WEIGHT_TREATMENT, QuantisedStudent
from edgeaudio.data.windows import Float32
from edgeaudio.frontend.reference import reference_log_mel
from edgeaudio.pipeline.arms import DISTILLED, arm_plan
from edgeaudio.pipeline.commit import source_commit
from edgeaudio.pipeline.fitting import training_streams, with_fitted_decision
from edgeaudio.pipeline.labelling import read_store, split_held_out
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.quantising import quantise
from edgeaudio.pipeline.stepping import exported_steps, read_steps, wanted_step, write_steps
from edgeaudio.pipeline.teaching import FoldTeacher
from edgeaudio.pipeline.training import FoldStores, TrainedStudent
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.spec.fs import atomic_write
from edgeaudio.students.exits import EarlyExitStudent, stage_macs
from edgeaudio.teachers.base import Teacher

# Of a window's target: mixed windows have no one right answer to hold an exit against.
CLEAR_SHARE = 0.75


def quantise_stage(
    context: Context, prepared: Prepared, teacher: FoldTeacher, stores: FoldStores, trained: TrainedStudent
) -> StageResult:
    """int8 artefacts of the student as `pipeline.quantising` makes it, its rivals' too, its stages' and its steps'."""
    recipe = context.recipe
    spec = recipe.quantize
    inputs: dict[str, Any] = {
        "weights": trained.weights_sha256,
        "labels": stores.labelled.sha256,
        "quantize": spec.changed(),
        "weights_treated": WEIGHT_TREATMENT,
        "formats": recipe.formats,
    }
    step_frames = wanted_step(context, trained.arm)
    if step_frames is not None:
        inputs["step_frames"] = step_frames
    if spec.method == "qat":
        inputs |= {
            "train": arm_plan(recipe, trained.arm).train.changed(),
            "unlabelled": [store.sha256 for store in stores.unlabelled],
            "seed": recipe.seed,
        }

    def run(folder: Path) -> dict[str, Any]:
        made = quantise(context, prepared, teacher, stores, trained, folder)
        exported = _exported(context, trained.network, made.student, "int8", recipe.formats, compact=spec.compact)
        result = _write_artefacts(folder, exported) | made.facts
        if made.staged is not None:
            assert isinstance(trained.network, EarlyExitStudent)
            result["stages"] = _write_chains(folder, _exported_stages(context, trained.network, made.staged, "int8"))
        if step_frames is not None:
            steps = exported_steps(context, trained.network, made.student, made.staged, "int8", step_frames)
            result["stateful"] = write_steps(folder, steps)
        rivals = {}
        for name, rival in made.rivals.items():
            (artefact,) = _exported(context, trained.network, rival, "int8", recipe.formats[:1])
            file = f"{name.replace(' ', '-')}.{artefact.format}"
            atomic_write(folder / file, artefact.payload)
            rivals[name] = {"file": file, "entry": artefact.manifest_entry().model_dump(mode="json")}
        return result | {"rivals": rivals}

    return context.work.run_stage(f"quantize-fold{trained.fold}-{trained.arm}", inputs, run)


def export_stage(
    context: Context,
    prepared: Prepared,
    trained: TrainedStudent,
    teacher: Teacher,
    stores: FoldStores,
    quantised: StageResult,
) -> StageResult:
    """fp32 artefacts, then everything in `bundle.eab` (not verified yet): exits calibrated, the stateful form last."""
    recipe = context.recipe
    lineage = _lineage(context, prepared, trained, teacher)
    inputs = {
        "weights": trained.weights_sha256,
        "int8": quantised.outputs_digest,
        "formats": recipe.formats,
        "decision": recipe.decision.model_dump(mode="json"),
        "fit_decision": recipe.fit_decision,
        # The commit is recorded, not an input: the same weights are not exported again for a new one.
        "lineage": lineage.model_dump(mode="json", exclude={"commit"}),
        "task": prepared.dataset.task.model_dump(mode="json"),
        "name": recipe.name,
    }

    def export(folder: Path) -> dict[str, Any]:
        result = _write_artefacts(folder, _exported(context, trained.network, None, "fp32", recipe.formats))
        entries = [Artefact.model_validate(item) for item in result["artefacts"] + quantised.result["artefacts"]]
        entries.sort(key=lambda entry: (entry.format, entry.precision))
        payloads = {
            entry.path: _artefact_file(quantised.folder if entry.precision == "int8" else folder, entry).read_bytes()
            for entry in entries
        }
        if recipe.fit_decision:
            streams = training_streams(context, prepared, trained.fold)
            entries = [
                with_fitted_decision(context, prepared, entry, payloads[entry.path], streams) for entry in entries
            ]
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
        bundle = folder / "bundle.eab"
        write_bundle(bundle, manifest, payloads, golden)
        _add_forms(context, prepared, trained, stores, quantised, bundle)
        return {"bundle": "bundle.eab"}

    return context.work.run_stage(f"export-fold{trained.fold}-{trained.arm}", inputs, export)


def _add_forms(
    context: Context,
    prepared: Prepared,
    trained: TrainedStudent,
    stores: FoldStores,
    quantised: StageResult,
    bundle: Path,
) -> None:
    """Write early exits and the stateful form into the file `bundle`, where the recipe wants them."""
    if isinstance(trained.network, EarlyExitStudent):
        chains = _exported_stages(context, trained.network, None, "fp32") + _read_chains(quantised)
        held_out = _clear_windows(context, prepared, stores)
        atomic_write(bundle, _with_exits(context, prepared, trained.network, bundle, chains, held_out))
    step_frames = wanted_step(context, trained.arm)
    if step_frames is not None:
        steps = exported_steps(context, trained.network, None, None, "fp32", step_frames) + read_steps(quantised)
        steps.sort(key=lambda item: (item.format, item.precision, -1 if item.stage is None else item.stage))
        atomic_write(bundle, add_stateful(Bundle.read(bundle), steps))


def _exported(
    context: Context,
    network: nn.Module,
    quantised: QuantisedStudent | None,
    precision: Precision,
    formats: Sequence[ArtefactFormat],
    *,
    compact: bool = False,
) -> list[ExportedArtefact]:
    window, n_mels = context.recipe.window, context.recipe.frontend.n_mels
    return export_student(
        network, quantised, window.frames, n_mels, formats=formats, precisions=[precision], compact=compact
    )


def _exported_stages(
    context: Context, network: EarlyExitStudent, quantised: QuantisedStudent | None, precision: Precision
) -> list[ExportedChain]:
    recipe = context.recipe
    frames, n_mels = recipe.window.frames, recipe.frontend.n_mels
    return export_stages(network, quantised, frames, n_mels, formats=recipe.formats, precisions=[precision])


def _clear_windows(context: Context, prepared: Prepared, stores: FoldStores) -> tuple[Float32, Float32]:
    """Held-out training windows in which one class is clear (multi-label: all), with their targets."""
    held_out = split_held_out(read_store(stores.labelled.path, None), context.recipe.windows.held_out)[1]
    assert held_out.target is not None
    clear = ~held_out.silent
    if prepared.dataset.task.kind == "single_label":
        clear &= held_out.target.max(axis=1) > CLEAR_SHARE
    return held_out.log_mel[clear].astype(np.float32), held_out.target[clear].astype(np.float32)


def _with_exits(
    context: Context,
    prepared: Prepared,
    network: EarlyExitStudent,
    bundle: Path,
    chains: Sequence[ExportedChain],
    held_out: tuple[Float32, Float32],
) -> bytes:
    """The bundle with its stages; each chain's thresholds are set on held-out training windows of one clear class."""
    recipe, kind = context.recipe, prepared.dataset.task.kind
    assert recipe.exits is not None
    windows, targets = held_out
    macs = stage_macs(network, recipe.window.frames, recipe.frontend.n_mels)
    entries = []
    for chain in chains:
        logits = chain.cascade(kind).logits(windows)
        wanted = targets.argmax(axis=1) if kind == "single_label" else targets > 0.5
        answers = ExitAnswers(logits, wanted, macs, kind=kind)
        entries.append(chain.manifest_entry(calibrate_exits(answers, recipe.exits.max_drop)))
    exits = Exits(after=recipe.exits.after, macs_per_stage=macs, chains=tuple(entries))
    payloads = {path: payload for chain in chains for path, payload in chain.payloads.items()}
    return add_exits(Bundle.read(bundle), exits, payloads)


def _write_chains(folder: Path, chains: Sequence[ExportedChain]) -> list[dict[str, Any]]:
    """Stages below `folder`, and what `_read_chains` needs to find them."""
    written = []
    for chain in chains:
        for path, payload in chain.payloads.items():
            (folder / path).parent.mkdir(exist_ok=True)
            atomic_write(folder / path, payload)
        written.append({"stages": [stage.model_dump(mode="json") for stage in chain.stages]})
    return written


def _read_chains(quantised: StageResult) -> list[ExportedChain]:
    chains = []
    for written in quantised.result["stages"]:
        stages = tuple(StageArtefact.model_validate(stage) for stage in written["stages"])
        payloads = {stage.path: (quantised.folder / stage.path).read_bytes() for stage in stages}
        chains.append(ExportedChain(stages, payloads))
    return chains


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
    plan = arm_plan(recipe, trained.arm)
    datasets = [prepared.dataset]
    if plan.uses_unlabelled and prepared.unlabelled is not None:
        datasets.append(prepared.unlabelled)
    return Lineage(
        edgeaudio_version=edgeaudio.__version__,
        recipe_digest=recipe.digest(),
        seed=recipe.seed,
        commit=source_commit(),
        datasets=tuple(Source(name=d.name, licence=d.licence, sha256=d.digest()) for d in datasets),
        teacher=Source(name=teacher.name, licence=teacher.licence, sha256=teacher.digest)
        if plan.uses_teacher
        else None,
        student=recipe.student.family,
        student_config=plan.student.model_dump(exclude={"family"}),
        arm=trained.arm,
    )
