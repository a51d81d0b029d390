"""Every artefact of a bundle, run by the runtime, against torch and against the test clips."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeaudio_export.parity import (
    REFERENCE_ENGINES,
    ParityGate,
    engine_for,
    engine_name,
    executor,
    measure_parity,
    require_parity,
    run_windows,
)
from edgeaudio_export.staged import chain_parity
from torch import nn

from edgeaudio.bundle import Artefact, Bundle, Exits, Manifest, with_manifest
from edgeaudio.bundle.manifest import Cost, Metric, Parity
from edgeaudio.data.datasets import Clip, DecodeCache, clip_digest
from edgeaudio.data.windows import Float32
from edgeaudio.errors import ParityError
from edgeaudio.pipeline.prepare import Context, Prepared
from edgeaudio.pipeline.recipe import VerifySpec
from edgeaudio.pipeline.stepping import proven
from edgeaudio.pipeline.training import ChainLink, TrainedStudent
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


def verify_stage(
    context: Context, prepared: Prepared, trained: TrainedStudent, quantised: StageResult, exported: StageResult
) -> StageResult:
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
        "chain": [link.name for link in trained.chain],
        "rivals": quantised.outputs_digest if quantised.result["rivals"] else "",
    }

    def verify(folder: Path) -> dict[str, Any]:
        bundle = Bundle.read(exported.output("bundle.eab"))
        check_bundle(bundle).raise_if_failed()
        manifest = bundle.manifest
        cache = prepared.cache(manifest.frontend.sample_rate)
        test = stream_windows(clips, cache, manifest.frontend, manifest.window)
        split = f"{prepared.dataset.name} test fold {trained.fold}"
        checked, predictions = _measure(context, bundle, trained.network, test, clips, split)
        exits, exit_results = _measure_exits(context, bundle, test, clips, split)
        stateful = proven(context, bundle, test.waveforms)
        updated = manifest.model_copy(update={"artefacts": tuple(checked), "exits": exits, "stateful": stateful})
        atomic_write(folder / "bundle.eab", with_manifest(bundle, Manifest.model_validate(updated.model_dump())))
        _require(checked, predictions, clips, recipe.verify)
        return {
            "split": split,
            "clips": [clip.id for clip in clips],
            "labels": [list(clip.labels) for clip in clips],
            "predictions": predictions,
            "chain": [
                *(_chain_step(link, test, clips, manifest) for link in trained.chain),
                *_rival_steps(quantised, trained, test, clips, manifest),
            ],
            "exits": exit_results,
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
    torch_logits = _float_logits(network, test)
    predictions = {"torch-fp32": _tops(torch_logits, test, manifest)}
    chosen = np.unique(np.linspace(0, len(test.windows) - 1, PARITY_WINDOWS).astype(int))
    checked = []
    int8_logits: dict[str, Float32] = {}
    for number, artefact in enumerate(manifest.artefacts):
        logits = run_windows(engine_for(artefact, bundle.payload(artefact)), test.windows[chosen])
        if artefact.precision == "int8" and artefact.format not in REFERENCE_ENGINES:
            int8_logits[artefact.name] = logits
        parity = measure_parity(
            logits,
            torch_logits[chosen],
            reference="torch-fp32",
            gate=_gate(artefact.precision, gates),
            executor=executor(artefact.format),
        )
        classifier = Classifier(
            bundle, engine=engine_name(artefact.format), precision=artefact.precision, frontend="numpy"
        )
        probs = [classifier(waveform, classifier.sample_rate).probs for waveform in test.waveforms]
        predicted = [int(row.argmax()) for row in probs]
        predictions[artefact.name] = predicted
        metric = _metric("clip_accuracy", predicted, clips, split, context)
        checked.append(artefact.model_copy(update={"parity": parity, "metrics": (metric,)}))
        context.progress(f"verify {manifest.name}", number + 1, len(manifest.artefacts))
    _require_one_int8_model(int8_logits, _gate("int8", gates))
    return checked, predictions


def _float_logits(network: nn.Module, test: TestWindows) -> Float32:
    with torch.no_grad():
        chunks = [network(chunk) for chunk in torch.from_numpy(test.windows).split(256)]  # type: ignore[no-untyped-call]
    logits: Float32 = torch.cat(chunks).numpy()
    return logits


def _chain_step(link: ChainLink, test: TestWindows, clips: Sequence[Clip], manifest: Manifest) -> dict[str, Any]:
    """What a network on the way to the shipped one answers, as `summary.ChainStep`."""
    logits = _float_logits(link.network, test)
    return _step(link.name, link.cost, None, _tops(logits, test, manifest), clips)


def _rival_steps(
    quantised: StageResult, trained: TrainedStudent, test: TestWindows, clips: Sequence[Clip], manifest: Manifest
) -> list[dict[str, Any]]:
    """What the int8 students answer that the shipped one is held against."""
    steps = []
    for name, rival in quantised.result["rivals"].items():
        payload = quantised.output(rival["file"]).read_bytes()
        logits = run_windows(engine_for(Artefact.model_validate(rival["entry"]), payload), test.windows)
        steps.append(_step(name, trained.cost, len(payload), _tops(logits, test, manifest), clips))
    return steps


def _tops(logits: Float32, test: TestWindows, manifest: Manifest) -> list[int]:
    """Window logits -> the top class of every clip."""
    tops: list[int] = test.clip_means(_probs(logits, manifest)).argmax(axis=1).tolist()
    return tops


def _step(name: str, cost: Cost, size_bytes: int | None, tops: list[int], clips: Sequence[Clip]) -> dict[str, Any]:
    return {
        "name": name,
        "params": cost.params,
        "macs_per_window": cost.macs_per_window,
        "size_bytes": size_bytes,
        "n_correct": _correct(tops, clips),
        "predictions": tops,
    }


def _correct(tops: Sequence[int], clips: Sequence[Clip]) -> int:
    return sum(top in clip.labels for top, clip in zip(tops, clips, strict=True))


def _metric(name: str, tops: Sequence[int], clips: Sequence[Clip], split: str, context: Context) -> Metric:
    correct = _correct(tops, clips)
    return Metric(
        name=name,
        value=correct / len(clips),
        n_clips=len(clips),
        n_correct=correct,
        split=split,
        seed=context.recipe.seed,
    )


def _measure_exits(
    context: Context, bundle: Bundle, test: TestWindows, clips: Sequence[Clip], split: str
) -> tuple[Exits | None, list[dict[str, Any]]]:
    """Every chain with its calibrated thresholds on the test clips: (exits with parity and metrics, results).

    Raises:
        ParityError: a chain's last stage answers otherwise than the whole artefact.
    """
    exits = bundle.manifest.exits
    if exits is None:
        return None, []
    chosen = np.unique(np.linspace(0, len(test.windows) - 1, PARITY_WINDOWS).astype(int))
    chains, results = [], []
    for number, chain in enumerate(exits.chains):
        first = chain.stages[0]
        parity = chain_parity(bundle, chain, test.windows[chosen], _gate(first.precision, context.recipe.verify))
        require_parity(f"{chain.name} in stages", parity)
        classifier = Classifier(
            bundle, engine=engine_name(first.format), precision=first.precision, exits=True, frontend="numpy"
        )
        answers = [classifier(waveform, classifier.sample_rate) for waveform in test.waveforms]
        tops = [int(answer.probs.argmax()) for answer in answers]
        taken = np.concatenate([answer.window_exits for answer in answers if answer.window_exits is not None])
        share = np.bincount(taken, minlength=len(chain.stages)) / len(taken)
        metric = _metric("clip_accuracy_with_exits", tops, clips, split, context)
        chains.append(chain.model_copy(update={"parity": parity, "metrics": (metric,)}))
        results.append(
            {
                "name": chain.name,
                "thresholds": list(chain.thresholds),
                "share": share.tolist(),
                "mean_macs": float(share @ np.array(exits.macs_to_exit)),
                "worst_case_macs": exits.macs_to_exit[-1],
                "size_bytes": chain.size_bytes,
                "n_correct": metric.n_correct,
                "predictions": tops,
            }
        )
        context.progress(f"verify exits of {bundle.manifest.name}", number + 1, len(exits.chains))
    return exits.model_copy(update={"chains": tuple(chains)}), results


def _require_one_int8_model(logits: dict[str, Float32], gate: ParityGate) -> None:
    """Raise `ParityError` unless int8 files answer alike that come from one quantised graph (tensorrt's does not)."""
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
    correct = {name: _correct(tops, clips) for name, tops in predictions.items()}
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
