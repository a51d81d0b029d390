"""Every artefact of a bundle, run by the runtime, against torch and against the test clips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeaudio_export.parity import ParityGate, engine_for, engine_name, measure_parity, require_parity, run_windows
from torch import nn

from edgeaudio.bundle import Artefact, Bundle, Manifest, with_manifest
from edgeaudio.bundle.manifest import Metric, Parity
from edgeaudio.data.datasets import Clip, DecodeCache, clip_digest
from edgeaudio.data.windows import Float32
from edgeaudio.errors import ParityError
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.recipe import VerifySpec
from edgeaudio.pipeline.training import TrainedStudent
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.selfcheck import check_bundle
from edgeaudio.runtime.windows import WindowStream
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.spec.fs import atomic_write

# Windows on which logits are compared one by one; clip answers are compared on all windows.
PARITY_WINDOWS = 800
# Twice the default tolerance: two classes nearer than that may change places by the order of sums alone.
TIE_MARGIN = 2e-3
CLIPS_PER_GATE = 80


@dataclass(frozen=True)
class TestWindows:
    """Test clips as the runtime sees them: windows `(n, frames, n_mels)` and where each clip begins."""

    windows: Float32
    starts: tuple[int, ...]
    waveforms: tuple[Float32, ...]

    def clip_means(self, probs: Float32) -> Float32:
        """Window probabilities `(n, classes)` -> clip scores `(clips, classes)`."""
        pairs = itertools.pairwise([*self.starts, len(probs)])
        return np.stack([probs[a:b].mean(axis=0, dtype=np.float64) for a, b in pairs]).astype(np.float32)


def verify_stage(context: Context, prepared: Prepared, trained: TrainedStudent, exported: StageResult) -> StageResult:
    """Write `bundle.eab` with parity and metrics in its manifest, `predictions` in the stage's result.

    Raises:
        ParityError: names the artefact and the figure outside its gate.
    """
    recipe = context.recipe
    clips = prepared.test_clips(trained.fold)
    inputs = {
        "bundle": exported.outputs["bundle.eab"],
        "weights": trained.weights_sha256,
        "clips": [clip_digest(clip) for clip in clips],
        "verify": recipe.verify.model_dump(mode="json"),
    }

    def verify(folder: Path) -> dict[str, Any]:
        bundle = Bundle.read(exported.output("bundle.eab"))
        check_bundle(bundle).raise_if_failed()
        manifest = bundle.manifest
        cache = prepared.cache(manifest.frontend.sample_rate)
        test = stream_windows(clips, cache, manifest.frontend, manifest.window)
        split = f"{prepared.dataset.name} test fold {trained.fold}"
        checked, predictions = _measure(context, bundle, trained.network, test, clips, split)
        updated = manifest.model_copy(update={"artefacts": tuple(checked)})
        atomic_write(folder / "bundle.eab", with_manifest(bundle, Manifest.model_validate(updated.model_dump())))
        _require(checked, predictions, clips, recipe.verify)
        return {
            "split": split,
            "clips": [clip.id for clip in clips],
            "labels": [list(clip.labels) for clip in clips],
            "predictions": predictions,
            "artefacts": [artefact.model_dump(mode="json") for artefact in checked],
        }

    return context.work.run_stage(f"verify-fold{trained.fold}-{trained.arm}", inputs, verify)


def stream_windows(
    clips: Sequence[Clip], cache: DecodeCache, frontend: FrontendSpec, window: WindowSpec
) -> TestWindows:
    """The windows that the runtime makes of each clip; a short clip is padded to one window."""
    windows: list[Float32] = []
    starts, waveforms = [], []
    needed = window.n_samples(frontend)
    for clip in clips:
        waveform = np.array(cache.get(clip))
        padded = np.pad(waveform, (0, max(0, needed - len(waveform))))
        starts.append(len(windows))
        windows += [item.log_mel for item in WindowStream(frontend, window).feed(padded)]
        waveforms.append(waveform)
    return TestWindows(np.stack(windows), tuple(starts), tuple(waveforms))


def _measure(
    context: Context, bundle: Bundle, network: nn.Module, test: TestWindows, clips: Sequence[Clip], split: str
) -> tuple[list[Artefact], dict[str, list[int]]]:
    """(artefacts with parity and metrics, predicted class per clip for torch and each artefact)."""
    manifest = bundle.manifest
    gates = context.recipe.verify
    with torch.no_grad():
        torch_logits = torch.cat([network(chunk) for chunk in torch.split(torch.from_numpy(test.windows), 256)]).numpy()
    predictions = {"torch-fp32": test.clip_means(_probs(torch_logits, manifest)).argmax(axis=1).tolist()}
    chosen = np.unique(np.linspace(0, len(test.windows) - 1, PARITY_WINDOWS).astype(int))
    checked = []
    int8_logits: dict[str, Float32] = {}
    for number, artefact in enumerate(manifest.artefacts):
        logits = run_windows(engine_for(artefact, bundle.payload(artefact)), test.windows[chosen])
        if artefact.precision == "int8":
            int8_logits[artefact.name] = logits
        parity = measure_parity(
            logits, torch_logits[chosen], reference="torch-fp32", gate=_gate(artefact.precision, gates)
        )
        classifier = Classifier(bundle, engine=engine_name(artefact.format), precision=artefact.precision)
        probs = [classifier(waveform, classifier.sample_rate).probs for waveform in test.waveforms]
        predicted = [int(row.argmax()) for row in probs]
        predictions[artefact.name] = predicted
        correct = sum(top in clip.labels for top, clip in zip(predicted, clips, strict=True))
        metric = Metric(
            name="clip_accuracy",
            value=correct / len(clips),
            n_clips=len(clips),
            n_correct=correct,
            split=split,
            seed=context.recipe.seed,
        )
        checked.append(artefact.model_copy(update={"parity": parity, "metrics": (metric,)}))
        context.progress(f"verify {manifest.name}", number + 1, len(manifest.artefacts))
    _require_one_int8_model(int8_logits, _gate("int8", gates))
    return checked, predictions


def _require_one_int8_model(logits: dict[str, Float32], gate: ParityGate) -> None:
    """Raise `ParityError` unless the int8 files of all formats answer alike: they come from one quantised graph."""
    for (first, reference), (other, answers) in itertools.pairwise(logits.items()):
        require_parity(other, measure_parity(answers, reference, reference=first, gate=gate))


def _gate(precision: str, gates: VerifySpec) -> ParityGate:
    if precision == "fp32":
        return ParityGate(gates.fp32_tolerance, 1.0, tie_margin=TIE_MARGIN)
    return ParityGate(None, gates.int8_min_agreement, tie_margin=gates.int8_tie_margin)


def _probs(logits: Float32, manifest: Manifest) -> Float32:
    tensor = torch.from_numpy(logits)
    probs: Float32 = (tensor.softmax(1) if manifest.task.kind == "single_label" else tensor.sigmoid()).numpy()
    return probs


def _require(
    artefacts: Sequence[Artefact], predictions: dict[str, list[int]], clips: Sequence[Clip], gates: VerifySpec
) -> None:
    """Raise `ParityError` for the first artefact outside its gates."""
    correct = {
        name: sum(top in clip.labels for top, clip in zip(tops, clips, strict=True))
        for name, tops in predictions.items()
    }
    allowed = gates.int8_max_clips_lost * max(1, round(len(clips) / CLIPS_PER_GATE))
    for artefact in artefacts:
        parity = artefact.parity
        assert isinstance(parity, Parity)
        require_parity(artefact.name, parity)
        if artefact.precision == "fp32" and predictions[artefact.name] != predictions["torch-fp32"]:
            differ = sum(a != b for a, b in zip(predictions[artefact.name], predictions["torch-fp32"], strict=True))
            raise ParityError(f"{artefact.name}: {differ} of {len(clips)} test clips get another class than in torch")
        lost = correct["torch-fp32"] - correct[artefact.name]
        if artefact.precision == "int8" and lost > allowed:
            raise ParityError(
                f"{artefact.name}: {lost} of {len(clips)} test clips lost against fp32 (at most {allowed}). "
                "Raise quantize.calibration_windows."
            )
