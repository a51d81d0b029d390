"""The stateful form of a fold's student on its way through the stages: exported with its precision, packed, proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeaudio_export.artefact import ExportedStateful
from edgeaudio_export.parity import require_parity
from edgeaudio_export.stateful import (
    FORMATS,
    export_stateful,
    export_stateful_stages,
    stateful_chain_parity,
    stateful_parity,
)
from edgeaudio_export.stateful_plan import check_step
from torch import nn

from edgeaudio.bundle import Bundle, Stateful, StatefulArtefact, StatefulChain, StatefulStage
from edgeaudio.bundle.manifest import Precision
from edgeaudio.compress.ptq import QuantisedStudent
from edgeaudio.data.windows import Float32
from edgeaudio.frontend.stream import FrontendStream
from edgeaudio.pipeline.arms import DISTILLED
from edgeaudio.pipeline.prepare import Context
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.workdir import StageResult
from edgeaudio.runtime.stream_check import proof_stream
from edgeaudio.spec.fs import atomic_write
from edgeaudio.students.exits import EarlyExitStudent

# Test clips that are streamed beside the golden windows and random sound.
PROOF_CLIPS = 8


def check_steps(recipe: Recipe, time_stride_frames: int) -> None:
    """Raise ConfigError where the recipe's steps do not fit a student whose layers halve time one after the other."""
    if recipe.step_frames is not None:
        check_step(recipe.step_frames, [2**halvings for halvings in range(time_stride_frames.bit_length())])


def wanted_step(context: Context, arm: str) -> int | None:
    """Frames of one step, or None: the recipe asks for no stateful form, or the arm is a control that nobody runs."""
    recipe = context.recipe
    return recipe.step_frames if arm == DISTILLED else None


def exported_steps(
    context: Context,
    network: nn.Module,
    quantised: QuantisedStudent | None,
    staged: QuantisedStudent | None,
    precision: Precision,
    step_frames: int,
) -> list[ExportedStateful]:
    """The stateful form in that precision, in every format of the recipe that has one; with exits, its stages too.

    Args:
        quantised, staged: the int8 student and, with exits, all its stages; None for fp32.
    """
    recipe = context.recipe
    frames, n_mels = recipe.window.frames, recipe.frontend.n_mels
    options: dict[str, Any] = {
        "formats": [format for format in recipe.formats if format in FORMATS],
        "precisions": [precision],
    }
    exported = export_stateful(network, quantised, frames, n_mels, step_frames, **options)
    if isinstance(network, EarlyExitStudent):
        exported += export_stateful_stages(network, staged, frames, n_mels, step_frames, **options)
    return exported


def write_steps(folder: Path, exported: Sequence[ExportedStateful]) -> list[dict[str, Any]]:
    """Files below `folder`, and what `read_steps` needs to find them."""
    for item in exported:
        (folder / item.path).parent.mkdir(exist_ok=True)
        atomic_write(folder / item.path, item.payload)
    return [
        {"entry": item.manifest_entry().model_dump(mode="json"), "macs_per_step": item.macs_per_step}
        for item in exported
    ]


def read_steps(stage: StageResult) -> list[ExportedStateful]:
    """What `write_steps` left in the folder of a stage, under "stateful" in its result."""
    exported = []
    for written in stage.result["stateful"]:
        family = StatefulStage if "stage" in written["entry"] else StatefulArtefact
        entry = family.model_validate(written["entry"])
        payload = (stage.folder / entry.path).read_bytes()
        exported.append(ExportedStateful.of(entry, payload, written["macs_per_step"]))
    return exported


def proven(context: Context, bundle: Bundle, waveforms: Sequence[Float32]) -> Stateful | None:
    """The bundle's stateful form with its parity: streamed over golden windows, random sound and some test clips.

    Raises:
        ParityError: a stream answers otherwise than the windows in it.
    """
    manifest = bundle.manifest
    stateful = manifest.stateful
    if stateful is None:
        return None
    chosen = waveforms[:: -(-len(waveforms) // PROOF_CLIPS)]
    heard = [FrontendStream(manifest.frontend).feed(waveform) for waveform in chosen]
    streams = [proof_stream(bundle), *(log_mel for log_mel in heard if len(log_mel) >= manifest.window.frames)]
    artefacts = []
    for number, artefact in enumerate(stateful.artefacts):
        parity = stateful_parity(bundle, artefact, streams)
        require_parity(artefact.name, parity)
        artefacts.append(artefact.model_copy(update={"parity": parity}))
        context.progress(f"verify streams of {manifest.name}", number + 1, len(stateful.artefacts))
    chains = [_proven_chain(bundle, chain, streams) for chain in stateful.chains]
    return stateful.model_copy(update={"artefacts": tuple(artefacts), "chains": tuple(chains)})


def _proven_chain(bundle: Bundle, chain: StatefulChain, streams: Sequence[Float32]) -> StatefulChain:
    stages = []
    for stage, parity in zip(chain.stages, stateful_chain_parity(bundle, chain, streams), strict=True):
        require_parity(stage.name, parity)
        stages.append(stage.model_copy(update={"parity": parity}))
    return chain.model_copy(update={"stages": tuple(stages)})
