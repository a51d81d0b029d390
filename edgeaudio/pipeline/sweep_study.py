"""The memory of a sweep: an Optuna study in one SQLite file, which chooses the parameters of each trial.

Every draw has a seed of its own, made of the sweep's seed, the trial's number and the field. So a
sweep that was killed anywhere, even between two parameters of a trial, goes on as if it had not been:
equal results give equal parameters. Only a measured latency is never quite equal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeaudio.errors import WorkDirError
from edgeaudio.pipeline.sweep_spec import MAXIMISED, Choices, Dimension, SweepSpec
from edgeaudio.spec import digest_json

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_REASON, _NOTES, _BUNDLE, _SAME_AS = "reason", "notes", "bundle", "same_as"


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: one value per objective, or None and the reason."""

    values: tuple[float, ...] | None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    bundle: str | None = None
    same_as: int | None = None


@dataclass(frozen=True)
class Finished:
    """A trial that is over."""

    number: int
    parameters: dict[str, Any]
    outcome: Outcome


@dataclass(frozen=True)
class Asked:
    """A trial that is to be run. `resumed`: it was begun before."""

    number: int
    parameters: dict[str, Any]
    resumed: bool
    trial: optuna.Trial


class SweepStudy:
    """The study `name` in the file `path`; made when absent, gone on with when there."""

    def __init__(self, path: Path, name: str, spec: SweepSpec) -> None:
        """Open it.

        Raises:
            WorkDirError: the file is no study.
        """
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        # Through our handler and in our words: Optuna would write each trial to stderr itself.
        optuna.logging.disable_default_handler()
        optuna.logging.enable_propagation()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        try:
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            self._study = optuna.create_study(
                study_name=name,
                storage=self._storage,
                directions=["maximize" if name in MAXIMISED else "minimize" for name in spec.objectives],
                load_if_exists=True,
            )
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, AssertionError) as error:
            raise WorkDirError(
                f"{path} is not the study of a sweep. Remove it to sweep anew; finished stages are kept."
            ) from error

    def finished(self) -> list[Finished]:
        """All trials that are over, by number."""
        from optuna.trial import TrialState

        over = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return [Finished(trial.number, self._parameters(trial.params), _outcome(trial)) for trial in over]

    def ask(self) -> Asked:
        """The next trial: the one that was interrupted, else a new one."""
        import optuna
        from optuna.trial import TrialState

        begun = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        number = begun[0].number if begun else len(self._study.get_trials(deepcopy=False))
        self._reseed(number, "")
        if begun:
            study_id = self._storage.get_study_id_from_name(self._study.study_name)
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
            trial = optuna.Trial(self._study, trial_id)
        else:
            trial = self._study.ask()
        # Drawn now, under this seed, whichever parameters are known from before.
        _ = trial.relative_params
        drawn = {}
        for field, dimension in self._spec.space.items():
            self._reseed(number, field)
            drawn[field] = _suggest(trial, field, dimension)
        return Asked(number, self._parameters(drawn), bool(begun), trial)

    def tell(self, asked: Asked, outcome: Outcome) -> None:
        """Record what the trial came to. Its state changes last: a kill before leaves it interrupted."""
        from optuna.trial import TrialState

        for key, value in (
            (_REASON, outcome.reason),
            (_NOTES, list(outcome.notes)),
            (_BUNDLE, outcome.bundle),
            (_SAME_AS, outcome.same_as),
        ):
            asked.trial.set_user_attr(key, value)
        if outcome.values is None:
            self._study.tell(asked.trial, state=TrialState.FAIL)
        else:
            self._study.tell(asked.trial, outcome.values)

    def _reseed(self, number: int, field: str) -> None:
        import optuna

        spec = self._spec
        seed = int(digest_json([spec.seed, number, field])[:8], 16)
        if spec.sampler == "nsga2":
            self._study.sampler = _nsga2(spec.population, seed)
        elif spec.sampler == "tpe":
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            self._study.sampler = optuna.samplers.RandomSampler(seed=seed)

    def _parameters(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Recipe values, in the order of the space; choices are kept as JSON text."""
        space = self._spec.space
        return {
            field: json.loads(drawn[field]) if isinstance(space[field], Choices) else drawn[field]
            for field in space
            if field in drawn
        }


def _nsga2(population: int, seed: int) -> optuna.samplers.BaseSampler:
    """NSGA-II whose parents stand in one order.

    Optuna's stand in order of merit for the trial that selects them and in order of number for all later
    ones, so a trial that is killed after selecting would be drawn otherwise when it goes on.
    """
    import optuna

    class OrderedNSGAII(optuna.samplers.NSGAIISampler):
        def get_parent_population(self, study: optuna.Study, generation: int) -> list[optuna.trial.FrozenTrial]:
            parents = super().get_parent_population(study, generation)
            return sorted(parents, key=lambda trial: trial.number)

    return OrderedNSGAII(population_size=population, seed=seed)


def _suggest(trial: optuna.Trial, field: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        return trial.suggest_categorical(field, dimension.texts)
    if dimension.whole:
        return trial.suggest_int(
            field, int(dimension.low), int(dimension.high), step=int(dimension.step or 1), log=dimension.log
        )
    return trial.suggest_float(field, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _outcome(trial: optuna.trial.FrozenTrial) -> Outcome:
    notes: Sequence[str] = trial.user_attrs.get(_NOTES, ())
    return Outcome(
        values=None if trial.values is None else tuple(trial.values),
        reason=trial.user_attrs.get(_REASON),
        notes=tuple(notes),
        bundle=trial.user_attrs.get(_BUNDLE),
        same_as=trial.user_attrs.get(_SAME_AS),
    )
