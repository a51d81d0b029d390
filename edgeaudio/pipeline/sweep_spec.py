"""A sweep in words: what may vary, what counts, and what was found. No torch, no Optuna.

`pipeline.sweep` runs it, `pipeline.sweep_study` chooses the parameters, `pipeline.report_sweep` draws it.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictFloat,
    StrictInt,
    Tag,
    ValidationError,
    model_validator,
)

from edgeaudio.errors import WorkDirError
from edgeaudio.spec import Spec, canonical_json
from edgeaudio.spec.fs import atomic_write

SWEEP_FILE = "sweep.json"

Objective = Literal["accuracy", "bytes", "latency", "macs"]
#: What is better when it is larger; the other objectives are costs.
MAXIMISED: frozenset[str] = frozenset({"accuracy"})

#: Fields of `data` that a trial may change: they only touch what is trained on.
FREE_DATA_FIELDS = ("data.labels_per_class", "data.unlabelled", "data.unlabelled_licence")
#: Fields that the sweep itself sets.
FIXED_FIELDS = ("name", "control", "ablate", "sweep")


class Choices(Spec):
    """One of several values, in a recipe a plain list."""

    choices: tuple[Any, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        texts = self.texts
        if len(set(texts)) != len(texts):
            raise ValueError(f"one value comes twice: {', '.join(texts)}")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as JSON: what `--set FIELD=` takes, and told apart where Python finds 1 equal to true."""
        return tuple(canonical_json(value).decode() for value in self.choices)

    def probes(self) -> tuple[Any, ...]:
        """Values that the recipe must accept before the first trial."""
        return self.choices


class Range(Spec):
    """A span of numbers, both ends included; whole numbers when all that is given is whole."""

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    log: bool = Field(False, description="as many trials from 1 to 10 as from 10 to 100")
    step: StrictInt | StrictFloat | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and no step")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step {self.step} leaves one value between {self.low} and {self.high}")
        if self.whole and self.step is not None and (self.high - self.low) % self.step:
            raise ValueError(f"steps of {self.step} from {self.low} do not end at high {self.high}")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step) if value is not None)

    def probes(self) -> tuple[Any, ...]:
        """Both ends and one value between, which is whole only where all are."""
        if self.whole:
            return (self.low, self.low + (self.step or 1), self.high)
        return (self.low, self.low + (self.step or (self.high - self.low) * 0.381966), self.high)


def _known_shape(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"choices": value}
    if isinstance(value, Choices | Range | dict):
        return value
    raise ValueError("wanted a list of values, or {low: ..., high: ...} with log: true or step: ...")


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return "choices" if "choices" in value else "range"
    return "choices" if isinstance(value, Choices) else "range"


Dimension = Annotated[
    Annotated[Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_shape)],
    BeforeValidator(_known_shape),
]


class SweepSpec(Spec):
    """What `edgeaudio sweep` tries. Accuracy is that of a fold inside the training data.

    A trial trains on all folds but `validation_fold` and the recipe's test folds, and is judged on
    `validation_fold`: nothing is ever chosen on a test fold.
    """

    trials: int = Field(20, ge=1, le=10_000, description="in all; raise it to go on with a finished sweep")
    objectives: tuple[Objective, ...] = Field(("accuracy", "bytes", "latency"), min_length=1)
    space: dict[str, Dimension] = Field(min_length=1, description="recipe fields, dotted as in --set")
    validation_fold: int
    sampler: Literal["nsga2", "tpe", "random"] = "nsga2"
    population: int = Field(16, ge=2, le=1000, description="nsga2: trials of one generation, the first is random")
    seed: int = Field(0, ge=0, lt=2**31, description="of the choice of parameters; the trials keep the recipe's")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"sweep.objectives names one twice: {list(self.objectives)}")
        for field in self.space:
            _check_free(field)
        for shorter, longer in itertools.permutations(self.space, 2):
            if longer.startswith(f"{shorter}."):
                raise ValueError(f"sweep.space: {longer} is a part of {shorter}; vary one of the two")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two sweeps one: everything that was set but how many trials are wanted."""
        return self.model_dump(mode="json", exclude={"trials"}, exclude_defaults=True)


def _check_free(field: str) -> None:
    first, last = field.partition(".")[0], field.rpartition(".")[2]
    if first in FIXED_FIELDS:
        raise ValueError(f"sweep.space: {field} is set by the sweep itself; leave it out")
    if last == "seed":
        raise ValueError(f"sweep.space: {field} would choose a lucky draw; leave it out")
    if first == "data" and field not in FREE_DATA_FIELDS:
        raise ValueError(
            f"sweep.space: {field} decides which clips are tests, so it cannot vary; "
            f"of data only {', '.join(name.partition('.')[2] for name in FREE_DATA_FIELDS)} can"
        )


class SweepTrial(Spec):
    """One trial: its parameters (recipe field -> value), and what it reached or why it failed.

    `bundle` is relative to the work directory. `same_as` is an earlier trial with the same parameters,
    whose result this is. `command` trains the recipe with these parameters on its own test folds.
    """

    number: int
    state: Literal["complete", "failed"]
    parameters: dict[str, Any]
    objectives: dict[Objective, float]
    pareto: bool = False
    same_as: int | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    bundle: str | None = None
    command: str


class SweepResult(Spec):
    """`sweep.json` of a work directory: rewritten after every trial."""

    schema_version: Literal[1] = 1
    name: str
    recipe_digest: str
    study: str = Field(description="name of the Optuna study: a digest of recipe and sweep")
    sampler: str
    seed: int
    objectives: tuple[Objective, ...]
    validation_fold: int
    excluded_folds: tuple[int, ...]
    trials_wanted: int
    trials: tuple[SweepTrial, ...]

    @property
    def front(self) -> tuple[SweepTrial, ...]:
        """The Pareto-optimal trials, best in the first objective first; equal parameters stand there once."""
        first = self.objectives[0]
        sign = -1 if first in MAXIMISED else 1
        return tuple(sorted((t for t in self.trials if t.pareto), key=lambda t: (sign * t.objectives[first], t.number)))

    @property
    def failed(self) -> tuple[SweepTrial, ...]:
        """Trials without a result."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    def write(self, folder: Path) -> Path:
        """Write `sweep.json` atomically."""
        path = folder / SWEEP_FILE
        atomic_write(path, canonical_json(self.model_dump(mode="json")) + b"\n")
        return path


def read_sweep(folder: Path) -> SweepResult | None:
    """The sweep that was run in a work directory; None where there was none.

    Raises:
        WorkDirError: the file is damaged; says what to run.
    """
    path = folder / SWEEP_FILE
    try:
        return SweepResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise WorkDirError(f"{path} is not a sweep's result. Sweep again; finished trials are kept.") from error


def override(field: str, value: Any) -> str:
    """`field=value` as `--set` takes it: the value as JSON, which is YAML too."""
    return f"{field}={canonical_json(value).decode()}"


def run_command(recipe: str, overrides: Sequence[str], parameters: Mapping[str, Any]) -> str:
    """The shell command that runs `recipe` with these parameters; `overrides` are those of the sweep itself."""
    given = [*overrides, *(override(field, value) for field, value in parameters.items())]
    return " ".join(["edgeaudio", "run", shlex.quote(recipe), *(f"--set {shlex.quote(item)}" for item in given)])


def pareto_flags(points: Sequence[Sequence[float]], maximised: Sequence[bool]) -> list[bool]:
    """For each point whether no other is at least as good in every objective and better in one.

    Args:
        points: one value per objective. maximised: per objective, whether larger is better.
    """
    costs = [[-v if up else v for v, up in zip(point, maximised, strict=True)] for point in points]

    def beats(one: list[float], other: list[float]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    return [not any(beats(other, cost) for other in costs) for cost in costs]
