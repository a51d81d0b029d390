"""Two students in one bundle: the first answers windows that it is sure of, the other is asked about the rest.

Behind `edgeaudio cascade`. Files are joined as they are: nothing is trained, quantised or exported, and no torch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from edgeaudio_export.parity import engine_for, engine_name, run_windows

import edgeaudio
from edgeaudio.bundle import (
    Artefact,
    Bundle,
    ExitChain,
    Exits,
    Golden,
    Link,
    Manifest,
    StageArtefact,
    Stateful,
    StatefulArtefact,
    StatefulChain,
    StatefulStage,
    bundle_bytes,
    golden_entry,
    with_manifest,
)
from edgeaudio.bundle.manifest import CascadeLineage, FirstStudent, Source
from edgeaudio.compress.exit_calibration import calibrate_exits
from edgeaudio.data.clips import Dataset
from edgeaudio.errors import ConfigError
from edgeaudio.pipeline.evaluation import clips_of
from edgeaudio.pipeline.exit_curve import exit_answers, exit_logits
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits

logger = logging.getLogger(__name__)

_NAME_LENGTH = 64
_TEST_FOLD = re.compile(r".* test fold (\d+)")

Whole = TypeVar("Whole", Artefact, StatefulArtefact)


def join_students(first: Bundle, then: Bundle) -> bytes:
    """The bytes of a bundle whose chains ask `first`, then `then`, in every format and precision that both have.

    Everything else in it is `then`'s; its own early exits are left out, and so is any signature. No exit is taken
    until there are thresholds: see `with_threshold` and `calibrated`.

    Raises:
        ConfigError: another front-end, window or task, or no format and precision that both have.
    """
    one, other = first.manifest, then.manifest
    _check_alike(one, other)
    pairs = list(_pairs(one.artefacts, other.artefacts))
    if not pairs:
        has, wanted = ([artefact.name for artefact in manifest.artefacts] for manifest in (one, other))
        raise ConfigError(f"{first.source} has {has} and {then.source} {wanted}: no format and precision in common")
    if first.signature or then.signature:
        logger.info("signatures are not carried over; sign the new bundle with 'edgeaudio bundle sign'")
    if other.exits is not None:
        logger.info("%s has early exits of its own; they are left out", then.source)
    exits = Exits(
        after=(None,),
        macs_per_stage=(one.cost.macs_per_window, other.cost.macs_per_window),
        chains=tuple(ExitChain(stages=_links(StageArtefact, "stages", *pair), thresholds=(None,)) for pair in pairs),
    )
    stateful = _stateful(one.stateful, other.stateful, {chain.name for chain in exits.chains})
    golden = _golden(first, then, exits, stateful)
    changed: dict[str, Any] = {
        "name": f"{one.name}-then-{other.name}"[:_NAME_LENGTH],
        "exits": exits.model_dump(),
        "stateful": stateful and stateful.model_dump(),
        "lineage": other.lineage.model_copy(update={"cascade": _lineage(first, then)}).model_dump(),
        "golden": golden_entry(golden).model_dump(),
    }
    manifest = Manifest.parse(other.model_dump() | changed, source=f"{first.source} and {then.source}")
    return bundle_bytes(manifest, _payloads(first, then, manifest), golden)


def with_threshold(bundle: Bundle, threshold: float) -> bytes:
    """The bytes of `bundle` with one threshold for all its exits, in place of any calibration.

    Raises:
        ConfigError: it has no exits, or the threshold is outside [0, 1].
    """
    exits = _exits(bundle)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold:g}; wanted a confidence from 0 to 1")
    thresholds = (threshold,) * len(exits.after)
    return _with_chains(
        bundle, [chain.model_copy(update={"thresholds": thresholds, "calibration": None}) for chain in exits.chains]
    )


def calibrated(
    bundle: Bundle,
    dataset: Dataset,
    folds: Sequence[int],
    max_drop: float,
    standard_errors: float = 0,
    progress: Callable[[int, int], None] | None = None,
) -> bytes:
    """The bytes of a cascade with thresholds for each chain, the cheapest that lose at most `max_drop` of the clips.

    Args:
        dataset: clips that neither student was trained on. folds: of the dataset; none is all clips.
        standard_errors: see `calibrate_exits`.
    Raises:
        ConfigError: no exits, labels that are not the bundle's, or a bound outside its range.
        DataError: no clip in a fold, none that can be decoded, or clips of one class.
        UnsupportedError: no engine here runs a chain.
    """
    manifest, exits = bundle.manifest, _exits(bundle)
    clips = [clip for fold in dict.fromkeys(folds) or [None] for clip in clips_of(dataset, fold)]
    cascades = [
        Cascade(chain, bundle.payload, engine=engine_name(chain.stages[0].format), kind=manifest.task.kind)
        for chain in exits.chains
    ]
    heard = exit_logits(manifest, cascades, dataset, clips, progress)
    if heard.skipped:
        logger.warning("%d clips cannot be decoded and are left out: %s", len(heard.skipped), sorted(heard.skipped)[:3])
    found = [
        calibrate_exits(answers, max_drop, standard_errors=standard_errors) for answers in exit_answers(manifest, heard)
    ]
    chains = [
        chain.model_copy(update={"thresholds": calibration.thresholds, "calibration": calibration})
        for chain, calibration in zip(exits.chains, found, strict=True)
    ]
    return _with_chains(bundle, chains, dataset, folds)


def warn_of_training(bundle: Bundle, dataset: Dataset, folds: Sequence[int]) -> None:
    """Warn where lineage says that the student was trained on the clips; its test folds are those of its metrics."""
    manifest = bundle.manifest
    if dataset.digest() not in {source.sha256 for source in manifest.lineage.datasets}:
        return
    splits = [_TEST_FOLD.fullmatch(metric.split) for artefact in manifest.artefacts for metric in artefact.metrics]
    tested = {int(found[1]) for found in splits if found}
    trained = sorted(set(folds or dataset.folds()) - tested)
    if trained or not tested:
        where = f"folds {trained} of {dataset.name!r}" if trained else repr(dataset.name)
        logger.warning("%s was trained on clips of %s: thresholds chosen there trust it too much", bundle.source, where)


def _exits(bundle: Bundle) -> Exits:
    if bundle.manifest.exits is None:
        raise ConfigError(f"{bundle.source} has no early exits; join two students with 'edgeaudio cascade'")
    return bundle.manifest.exits


def _with_chains(
    bundle: Bundle, chains: Sequence[ExitChain], dataset: Dataset | None = None, folds: Sequence[int] = ()
) -> bytes:
    """The bundle with other thresholds; its lineage says on which clips they were chosen."""
    manifest = bundle.manifest
    source = dataset and Source(name=dataset.name, licence=dataset.licence, sha256=dataset.digest())
    lineage = manifest.lineage
    if lineage.cascade is not None:
        chosen = {"thresholds_on": source, "thresholds_folds": tuple(sorted(set(folds)))}
        lineage = lineage.model_copy(update={"cascade": lineage.cascade.model_copy(update=chosen)})
    exits = _exits(bundle).model_copy(update={"chains": tuple(chains)})
    return with_manifest(bundle, manifest.model_copy(update={"exits": exits, "lineage": lineage}))


def _check_alike(one: Manifest, other: Manifest) -> None:
    """Raise ConfigError with each field of front-end, window and task in which the two differ."""
    told = [
        f"{part}.{field} is {value!r:.200} in {one.name!r} and {getattr(theirs, field)!r:.200} in {other.name!r}"
        for part in ("frontend", "window", "task")
        for mine, theirs in [(getattr(one, part), getattr(other, part))]
        for field, value in mine
        if value != getattr(theirs, field)
    ]
    if told:
        raise ConfigError(f"a cascade hears the same windows and gives the same labels: {'; '.join(told)}")


def _pairs(first: Sequence[Whole], then: Sequence[Whole]) -> Iterator[tuple[Whole, Whole]]:
    """Files of equal format and precision, in the order of `then`."""
    by_kind = {(file.format, file.precision): file for file in first}
    for file in then:
        if (file.format, file.precision) in by_kind:
            yield by_kind[file.format, file.precision], file


StageClass = TypeVar("StageClass", StageArtefact, StatefulStage)


def _links(
    stage_class: type[StageClass], folder: str, first: Artefact | StatefulArtefact, then: Artefact | StatefulArtefact
) -> tuple[StageClass, StageClass]:
    """Two whole files as stages; the second shares its file with the whole artefact that it is."""
    kept = stage_class.model_fields.keys() & type(first).model_fields.keys() - {"parity"}
    fields, path = first.model_dump(include=kept), f"{folder}/{first.precision}-0.{first.format}"
    return (
        stage_class.model_validate(fields | {"path": path, "stage": 0}),
        stage_class.model_validate(then.model_dump(include=kept) | {"stage": 1, "takes": "window"}),
    )


def _stateful(first: Stateful | None, then: Stateful | None, windowed: Collection[str]) -> Stateful | None:
    """`then`'s stateful form, with chains where both step alike. windowed: names of the windowed chains."""
    if then is None:
        return None
    chains: list[StatefulChain] = []
    if first is not None and first.step_frames == then.step_frames:
        chains = [
            StatefulChain(stages=_links(StatefulStage, "stateful", *pair))
            for pair in _pairs(first.artefacts, then.artefacts)
            if pair[1].window_name in windowed
        ]
    else:
        steps = "no stateful form" if first is None else f"steps of {first.step_frames} frames"
        logger.info("no stateful chains: the first bundle has %s, the other steps of %d", steps, then.step_frames)
    macs = (first.macs_per_step, then.macs_per_step) if first is not None and chains else ()
    return then.model_copy(update={"chains": tuple(chains), "macs_per_stage": macs})


def _lineage(first: Bundle, then: Bundle) -> CascadeLineage:
    manifest = first.manifest
    return CascadeLineage(
        edgeaudio_version=edgeaudio.__version__,
        first=FirstStudent(name=manifest.name, sha256=first.sha256, cost=manifest.cost, lineage=manifest.lineage),
        then_sha256=then.sha256,
    )


def _payloads(first: Bundle, then: Bundle, manifest: Manifest) -> dict[str, bytes]:
    """Entry path -> bytes: `first`'s files are stages now, `then`'s lie where they lay."""
    by_digest = {file.sha256: first.payload(file) for file in first.manifest.model_files}
    stages = [file for file in manifest.model_files if isinstance(file, Link) and file.stage == 0]
    own = {file.path: by_digest[file.sha256] for file in stages}
    return {path: own[path] if path in own else then.entries[path] for path in manifest.paths}


def _golden(first: Bundle, then: Bundle, exits: Exits, stateful: Stateful | None) -> Golden:
    """`then`'s windows and logits, and what both students say of these windows as stages."""
    said = [_first_logits(first, then.golden), then.golden.logits]
    kept = [file.name for file in (*then.manifest.artefacts, *(stateful.artefacts if stateful else ()))]
    logits = {name: then.golden.logits[name] for name in kept}
    for stage in exits.stages:
        logits[stage.name] = said[stage.stage][f"{stage.format}-{stage.precision}"]
    for chain in stateful.chains if stateful else ():
        for stepped in chain.stages:
            logits[stepped.name] = said[stepped.stage][f"{stepped.format}-{stepped.precision}-stateful"]
    return Golden(then.golden.waveform, then.golden.log_mel, logits)


def _first_logits(first: Bundle, golden: Golden) -> dict[str, Float32]:
    """By name of `first`'s artefacts: carried over where both bundles have the same windows, else answered here."""
    if np.array_equal(first.golden.log_mel, golden.log_mel):
        return dict(first.golden.logits)
    manifest, logits = first.manifest, {}
    for whole in manifest.artefacts:
        logits[whole.name] = run_windows(engine_for(whole, first.payload(whole)), golden.log_mel)
    for stepped in manifest.stateful.artefacts if manifest.stateful else ():
        assert manifest.stateful is not None
        runner = StatefulRunner(engine_for(stepped, first.payload(stepped)), stepped)
        answers = [stream_logits(runner, manifest.stateful, window) for window in golden.log_mel]
        logits[stepped.name] = np.concatenate(answers)
    return logits
