"""Exit thresholds from held-out training windows: the cheapest ones whose loss stays within a stated bound.

A joint search over a grid, the same for every bound: deterministic, and a looser bound never costs more MACs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import ConfigError, DataError, ShapeError
from edgeaudio.runtime.confidence import TaskKind, confidence, to_probs
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.spec import ExitCalibration
from edgeaudio.spec.exits import MAX_EXITS

# Thresholds tried for each exit, by how many exits are searched together: some ten thousand combinations at most.
_LEVELS = {1: 256, 2: 96, 3: 24}
# Thresholds are read by people, and confidences of two engines differ beyond this anyway.
_DECIMALS = 4
# Above any confidence: an exit that is never taken. None in what leaves this module.
_NEVER = np.inf


@dataclass(frozen=True)
class CascadeOutcome:
    """What given thresholds do. share: of windows per exit, the final one last; accuracy as in `ExitAnswers`."""

    thresholds: tuple[float | None, ...]
    share: tuple[float, ...]
    mean_macs: float
    accuracy: float


class ExitAnswers:
    """What every exit says about every window: replays a cascade with any thresholds.

    Accuracy is that of clips where `clips` is given (mean probabilities of a clip's windows, as the runtime has it),
    else that of windows. Multi-label: the mean overlap |answered and true| / |answered or true| at 0.5.

    Args:
        logits: `(n_exits, n, classes)` as from `Cascade.logits`, the final exit last.
        targets: `(n,)` class of each window, or `(n, classes)` of 0 and 1 for multi-label.
        macs_per_stage: what each stage adds.
        clips: `(n,)` clip number of each window; windows of a clip agree in their target.
    Raises:
        ShapeError: arrays that do not fit together.
        DataError: no window, values that are not finite, unknown classes, or a clip with two targets.
    """

    def __init__(
        self,
        logits: Float32,
        targets: NDArray[np.integer | np.bool_ | np.floating],
        macs_per_stage: Sequence[int],
        *,
        kind: TaskKind = "single_label",
        clips: NDArray[np.integer] | None = None,
    ) -> None:
        _check(logits, targets, macs_per_stage, kind, clips)
        self._kind = kind
        self.macs_to_exit = np.cumsum(np.asarray(macs_per_stage, np.int64))
        self.n_windows = logits.shape[1]
        self._targets = np.asarray(targets)
        #: Where each clip begins, once the windows of a clip lie side by side.
        self._starts: NDArray[np.int64] | None = None
        if clips is not None:
            order = np.argsort(clips, kind="stable")
            _, self._starts, clip_of = np.unique(clips[order], return_index=True, return_inverse=True)
            logits, ordered = logits[:, order], self._targets[order]
            self._targets = ordered[self._starts]
            if not np.array_equal(self._targets[clip_of], ordered):
                raise DataError("windows of one clip have different targets; give each clip a number of its own")
        self._probs = to_probs(logits, kind)
        self._confidence = confidence(self._probs[:-1], kind).astype(np.float64)

    @property
    def n_exits(self) -> int:
        """The final answer included."""
        return len(self._probs)

    @property
    def n_clips(self) -> int | None:
        """None where accuracy is that of windows."""
        return None if self._starts is None else len(self._targets)

    @property
    def one_class(self) -> bool:
        """Whether all targets are the same."""
        return bool((self._targets == self._targets[0]).all())

    def levels(self, exit_number: int, n_levels: int) -> NDArray[np.float64]:
        """Thresholds worth trying for an exit, falling: never, then quantiles of its confidence, then always (0)."""
        quantiles = np.quantile(self._confidence[exit_number], np.linspace(0, 1, max(2, n_levels - 2)))
        return np.unique([_NEVER, 0.0, *np.round(quantiles, _DECIMALS).clip(0, 1)])[::-1]

    def outcome(self, thresholds: Sequence[float | None]) -> CascadeOutcome:
        """Replay; thresholds above 1 are never reached."""
        taken = self._exits_taken(thresholds)
        counts = np.bincount(taken, minlength=self.n_exits)
        return CascadeOutcome(
            thresholds=tuple(thresholds),
            share=tuple((counts / self.n_windows).tolist()),
            mean_macs=float(counts @ self.macs_to_exit / self.n_windows),
            accuracy=float(np.mean(self._scores(taken))),
        )

    def scores(self, thresholds: Sequence[float | None]) -> NDArray[np.float64]:
        """Of each clip (or window): 1 where it is right, else 0; multi-label: the overlap. Accuracy is their mean."""
        return self._scores(self._exits_taken(thresholds))

    def mean_macs(self, levels: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """For every combination of levels, one axis per exit."""
        reach = np.ones((1, self.n_windows), np.float32)  # Row: a combination so far; 1 where a window is still on.
        total = np.zeros((1,))
        for number, tried in enumerate(levels):
            fired = (self._confidence[number] >= tried[:, None]).astype(np.float32)
            stopped = reach @ fired.T
            total = total[..., None] + (stopped * self.macs_to_exit[number]).reshape(*total.shape, len(tried))
            left = reach.sum(axis=1, keepdims=True) - stopped
            if number + 1 < len(levels):
                reach = (reach[:, None] * (1 - fired)).reshape(-1, self.n_windows)
        total += (left * self.macs_to_exit[-1]).reshape(total.shape)
        mean: NDArray[np.float64] = total[0] / self.n_windows
        return mean

    def _exits_taken(self, thresholds: Sequence[float | None]) -> NDArray[np.int64]:
        bounds = [_NEVER if threshold is None else threshold for threshold in thresholds]
        taken = np.full(self.n_windows, self.n_exits - 1, np.int64)
        for number in reversed(range(self.n_exits - 1)):
            taken[self._confidence[number] >= bounds[number]] = number
        return taken

    def _scores(self, taken: NDArray[np.int64]) -> NDArray[np.float64]:
        probs: NDArray[np.floating] = self._probs[taken, np.arange(self.n_windows)]
        if self._starts is not None:
            lengths = np.diff(self._starts, append=self.n_windows)
            probs = np.add.reduceat(probs, self._starts, axis=0, dtype=np.float64) / lengths[:, None]
        if self._kind == "single_label":
            return np.asarray(probs.argmax(axis=1) == self._targets, np.float64)
        answered, true = probs > 0.5, self._targets.astype(bool)
        either = (answered | true).sum(axis=1)
        return np.where(either, (answered & true).sum(axis=1) / np.maximum(either, 1), 1.0)


def calibrate_exits(answers: ExitAnswers, max_drop: float, *, standard_errors: float = 0) -> ExitCalibration:
    """The thresholds with the fewest mean MACs whose accuracy is at most `max_drop` below that of all stages.

    Args:
        answers: on held-out *training* windows, by the artefact that the thresholds are for; never on test data.
        max_drop: absolute share of windows or clips, in [0, 1).
        standard_errors: of the loss, by so many it has to lie below `max_drop`. The cheapest of many thresholds that
            just keep a bound on few clips breaks it on others more often than not; 1 is a usual margin.
    Raises:
        ConfigError: `max_drop` or `standard_errors` outside its range.
        DataError: windows of one class alone, which any exit could answer.
    """
    if not 0 <= max_drop < 1:
        raise ConfigError(f"exits.max_drop is {max_drop}; wanted a share from 0 to below 1, such as 0.0125 for 1 in 80")
    if not 0 <= standard_errors < np.inf:
        raise ConfigError(f"standard_errors is {standard_errors}; wanted a number from 0")
    if answers.one_class:
        raise DataError(
            f"all {answers.n_windows} windows of the exit calibration are of one class; hold out clips of every class"
        )
    n_thresholds = answers.n_exits - 1
    levels = [answers.levels(number, _LEVELS[n_thresholds]) for number in range(n_thresholds)]
    macs = answers.mean_macs(levels)
    full = answers.scores((None,) * n_thresholds)
    # A stable sort of falling levels: of equal costs, the combination that trusts early exits least.
    for position in np.argsort(macs, axis=None, kind="stable"):
        chosen = np.unravel_index(position, macs.shape)
        bounds = [float(tried[at]) for tried, at in zip(levels, chosen, strict=True)]
        thresholds = [None if bound == _NEVER else bound for bound in bounds]
        lost = full - answers.scores(thresholds)
        # A hair for the order of sums; never a whole window or clip.
        if lost.mean() + standard_errors * lost.std() / np.sqrt(len(lost)) <= max_drop + 1e-12:
            break
    found = answers.outcome(thresholds)
    return ExitCalibration(
        thresholds=found.thresholds,
        max_drop=max_drop,
        n_windows=answers.n_windows,
        n_clips=answers.n_clips,
        accuracy=found.accuracy,
        full_accuracy=float(full.mean()),
        share=found.share,
        mean_macs=found.mean_macs,
        worst_case_macs=int(answers.macs_to_exit[-1]),
        standard_errors=standard_errors,
    )


def _check(
    logits: Float32,
    targets: NDArray[np.integer | np.bool_ | np.floating],
    macs_per_stage: Sequence[int],
    kind: TaskKind,
    clips: NDArray[np.integer] | None,
) -> None:
    if logits.ndim != 3 or not 2 <= len(logits) <= MAX_EXITS + 1:
        raise ShapeError(f"logits are {logits.shape}; wanted (exits, windows, classes) with 2 to {MAX_EXITS + 1} exits")
    n_exits, n, n_classes = logits.shape
    wanted = (n,) if kind == "single_label" else (n, n_classes)
    if targets.shape != wanted:
        raise ShapeError(f"targets are {targets.shape}; {n} windows of a {kind} task want {wanted}")
    if clips is not None and clips.shape != (n,):
        raise ShapeError(f"clips are {clips.shape} for {n} windows; wanted ({n},)")
    if len(macs_per_stage) != n_exits or min(macs_per_stage) < 0:
        raise ShapeError(
            f"macs_per_stage is {list(macs_per_stage)}; wanted one figure from 0 for each of {n_exits} exits"
        )
    if not n:
        raise DataError("there is no window to replay exits on; hold out some training clips")
    if not np.isfinite(logits).all():
        raise DataError("logits of the exits are not finite; check the artefact and the clips")
    if kind == "single_label" and not 0 <= targets.min() <= targets.max() < n_classes:
        raise DataError(f"targets run from {targets.min()} to {targets.max()}, the logits have {n_classes} classes")


def sweep_exits(answers: ExitAnswers, thresholds: Sequence[float]) -> list[CascadeOutcome]:
    """The trade-off curve: the same threshold for all exits, one point for each, and "never" as the last."""
    swept = [(threshold,) * (answers.n_exits - 1) for threshold in thresholds]
    return [answers.outcome(point) for point in itertools.chain(swept, [(None,) * (answers.n_exits - 1)])]
