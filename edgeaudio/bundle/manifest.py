"""The manifest of a bundle: everything a device or a reader must know about the artefacts inside."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeaudio.bundle.model_file import (
    ArtefactFormat,
    FileEntry,
    Link,
    Metric,
    ModelFile,
    Parity,
    Precision,
    TensorInfo,
    require_numbered,
)
from edgeaudio.bundle.stateful import Stateful, StatefulArtefact, StatefulChain, StatefulStage, StateInfo
from edgeaudio.errors import ConfigError
from edgeaudio.spec import DecisionSpec, ExitCalibration, FrontendSpec, Spec, TaskSpec, WindowSpec
from edgeaudio.spec.exits import MAX_EXITS, ExitThreshold

__all__ = [
    "SCHEMA_VERSION",
    "Artefact",
    "ArtefactFormat",
    "CascadeLineage",
    "Cost",
    "ExitChain",
    "Exits",
    "FileEntry",
    "FirstStudent",
    "Lineage",
    "Link",
    "Manifest",
    "Metric",
    "ModelFile",
    "Parity",
    "Precision",
    "Source",
    "StageArtefact",
    "StateInfo",
    "Stateful",
    "StatefulArtefact",
    "StatefulChain",
    "StatefulStage",
    "TensorInfo",
]

SCHEMA_VERSION: Literal[1] = 1

_Item = TypeVar("_Item")


class Artefact(ModelFile):
    """One model file in one format and precision, from window to logits."""

    form: Literal["window"] = "window"
    parity: Parity | None = None
    metrics: tuple[Metric, ...] = ()
    #: Thresholds fitted to this artefact; without them the bundle's own hold.
    decision: DecisionSpec | None = None


class StageArtefact(Link):
    """One link of a chain: takes the window or what the stage before left, gives (hidden, logits of its exit).

    The last stage, and one before a stage that takes the window, gives logits alone.
    """

    @property
    def name(self) -> str:
        """`onnx-int8-stage0` and the like; unique inside a bundle."""
        return f"{self.format}-{self.precision}-stage{self.stage}"


class ExitChain(Spec):
    """The stages of one format and precision, in order, and where a window may stop.

    `parity` compares the last stage's logits with those of the whole artefact of the same format and precision.
    """

    stages: tuple[StageArtefact, ...] = Field(min_length=2, max_length=MAX_EXITS + 1)
    thresholds: tuple[ExitThreshold, ...]
    calibration: ExitCalibration | None = None
    parity: Parity | None = None
    metrics: tuple[Metric, ...] = ()

    @property
    def name(self) -> str:
        """`onnx-int8` and the like: that of the whole artefact."""
        return f"{self.stages[0].format}-{self.stages[0].precision}"

    @property
    def size_bytes(self) -> int:
        """All stages together."""
        return sum(stage.size_bytes for stage in self.stages)

    @model_validator(mode="after")
    def _linked(self) -> Self:
        require_numbered(self.name, [(stage.stage, stage) for stage in self.stages])
        if len(self.thresholds) != len(self.stages) - 1:
            raise ValueError(
                f"{self.name}: {len(self.thresholds)} thresholds for {len(self.stages)} stages; "
                "wanted one for each but the last"
            )
        if self.calibration is not None and self.calibration.thresholds != self.thresholds:
            raise ValueError(f"{self.name}: thresholds are not those of its calibration")
        for stage, following in itertools.pairwise(self.stages):
            hidden = following.input
            if stage.outputs[:-1] != (() if following.takes_window else (hidden,)):
                given = [output.model_dump() for output in stage.outputs[:-1]]
                taken = "the window" if following.takes_window else hidden.model_dump()
                raise ValueError(f"{stage.name}: leaves {given}, {following.name} takes {taken}")
            unscaled = hidden.dtype != "float32" and (hidden.scale is None or hidden.zero_point is None)
            if unscaled and not following.takes_window:
                raise ValueError(f"{following.name}: its {hidden.dtype} input needs scale and zero_point")
        if len(self.stages[-1].outputs) != 1:
            raise ValueError(f"{self.stages[-1].name}: the last stage gives logits alone")
        return self


class Exits(Spec):
    """Early exits: the student cut into stages, each with its own head, or a smaller student that is asked first.

    after: the student's sections that the exits follow; None where the exit is the end of a student of its own, whose
    next stage takes the window. macs_per_stage: what each stage adds, its head included.
    """

    after: tuple[int | None, ...] = Field(min_length=1, max_length=MAX_EXITS)
    macs_per_stage: tuple[int, ...]
    chains: tuple[ExitChain, ...] = Field(min_length=1)

    @property
    def stages(self) -> tuple[StageArtefact, ...]:
        """Of all chains, in the order of the file."""
        return tuple(stage for chain in self.chains for stage in chain.stages)

    @property
    def macs_to_exit(self) -> tuple[int, ...]:
        """What a window costs that stops at each exit; the last is the worst case."""
        return tuple(itertools.accumulate(self.macs_per_stage))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        n_stages = len(self.after) + 1
        if len(self.macs_per_stage) != n_stages or min(self.macs_per_stage) < 0:
            raise ValueError(f"macs_per_stage is {list(self.macs_per_stage)}; wanted {n_stages} figures from 0")
        for chain in self.chains:
            if len(chain.stages) != n_stages:
                raise ValueError(
                    f"{chain.name}: has {len(chain.stages)} stages; {len(self.after)} exits make {n_stages}"
                )
            for section, stage in zip(self.after, chain.stages[1:], strict=True):
                if stage.takes_window != (section is None):
                    raise ValueError(
                        f"{stage.name}: takes {stage.takes!r} behind an exit after section {section}; "
                        "`after` is null where the next stage takes the window, and only there"
                    )
        names = [chain.name for chain in self.chains]
        if len(set(names)) != len(names):
            raise ValueError(f"chains: one for each format and precision, given {names}")
        return self


class Cost(Spec):
    """Computed from the student, not measured."""

    params: int = Field(ge=0)
    macs_per_window: int = Field(ge=0)
    receptive_field_frames: int = Field(ge=1)
    time_stride_frames: int = Field(ge=1)


class Source(Spec):
    """Where data or knowledge came from, and under which licence."""

    name: str
    licence: str
    sha256: str


class Lineage(Spec):
    """What made this bundle. No clock and no path: two builds of the same inputs are byte-identical."""

    edgeaudio_version: str
    recipe_digest: str
    seed: int
    commit: str | None = None
    datasets: tuple[Source, ...]
    teacher: Source | None = None
    student: str
    student_config: dict[str, int | float | str | bool | tuple[int, ...] | None] = Field(default_factory=dict)
    arm: str = Field("distilled", description="how it was trained: distilled or labels-only")
    #: Of two students in one bundle. All else here is about the one that answers last.
    cascade: CascadeLineage | None = None

    @model_serializer(mode="wrap")
    def _without_absent_cascade(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that bundles of one student are byte for byte, and readable, as before there were cascades.
        fields: dict[str, Any] = serialise(self)
        return {key: value for key, value in fields.items() if key != "cascade" or value is not None}


class FirstStudent(Spec):
    """The student of stage 0 of a cascade, as its own bundle describes it. sha256: of that whole file."""

    name: str
    sha256: str
    cost: Cost
    lineage: Lineage


class CascadeLineage(Spec):
    """What was joined: whole bundles, which stay as they were trained.

    then_sha256: of the other bundle's file. thresholds_on, thresholds_folds: the clips that thresholds were chosen on
    (all folds where none is named); None where they were given.
    """

    edgeaudio_version: str
    first: FirstStudent
    then_sha256: str
    thresholds_on: Source | None = None
    thresholds_folds: tuple[int, ...] = ()


Lineage.model_rebuild()


class Manifest(Spec):
    """`manifest.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    frontend: FrontendSpec
    window: WindowSpec
    task: TaskSpec
    decision: DecisionSpec = DecisionSpec()
    artefacts: tuple[Artefact, ...]
    exits: Exits | None = None
    stateful: Stateful | None = None
    golden: FileEntry
    cost: Cost
    lineage: Lineage

    @model_serializer(mode="wrap")
    def _without_absent_forms(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that bundles without them are byte for byte, and readable, as before there were any.
        fields: dict[str, Any] = serialise(self)
        absent = {name for name in ("exits", "stateful") if getattr(self, name) is None}
        return {name: value for name, value in fields.items() if name not in absent}

    @property
    def model_files(self) -> tuple[ModelFile, ...]:
        """All artefacts, then all stages, then the same as steps: the order of the file."""
        stages = self.exits.stages if self.exits else ()
        return (*self.artefacts, *stages, *(self.stateful.files if self.stateful else ()))

    @property
    def paths(self) -> tuple[str, ...]:
        """The entries of `model_files`, each once: a stage that is a whole artefact shares its file."""
        return tuple(dict.fromkeys(file.path for file in self.model_files))

    def _is_whole(self, file: ModelFile) -> bool:
        """Whether it is a stage that is a whole artefact of this bundle, in one file with it."""
        if not isinstance(file, Link) or file.takes != "window":
            return False
        stateful = self.stateful.artefacts if self.stateful else ()
        return any(map(file.same_file, stateful if isinstance(file, StatefulStage) else self.artefacts))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [artefact.name for artefact in self.artefacts]
        paths = [file.path for file in self.model_files if not self._is_whole(file)] + [self.golden.path]
        if not names:
            raise ValueError("artefacts: a bundle needs at least one")
        if len(set(names)) != len(names) or len(set(paths)) != len(paths):
            raise ValueError(f"artefacts: names and paths must be unique, given {names} at {paths}")
        expected_input = (1, self.window.frames, self.frontend.n_mels)
        for file in self.model_files:
            takes_window = file.takes_window if isinstance(file, StageArtefact) else isinstance(file, Artefact)
            if takes_window and file.input.shape != expected_input:
                raise ValueError(f"{file.name}: input shape {file.input.shape}, the window is {expected_input}")
            if file.outputs[-1].shape != (1, len(self.task.labels)):
                raise ValueError(f"{file.name}: output shape {file.outputs[-1].shape} does not fit the labels")
        decisions = [self.decision, *(artefact.decision for artefact in self.artefacts)]
        unknown = {label for decision in decisions if decision for label in decision.named_labels}
        unknown -= set(self.task.labels.names)
        if unknown:
            raise ValueError(f"decision: {sorted(unknown)} are no labels of the task")
        alone = [chain.name for chain in (self.exits.chains if self.exits else ()) if chain.name not in names]
        if alone:
            raise ValueError(f"exits.chains: {alone} have no whole artefact beside them; it has {names}")
        if self.stateful is not None:
            exits = self.exits.chains if self.exits else ()
            chains = {chain.name: [stage.takes for stage in chain.stages] for chain in exits}
            self.stateful.check_fits(self.window, self.frontend.n_mels, names, chains)
        return self

    def artefact(self, format: str, precision: str) -> Artefact:
        """The artefact of that format and precision.

        Raises:
            ConfigError: the bundle has none; the message lists those it has.
        """
        found = {item.name: item for item in self.artefacts}
        return self._chosen(found, f"{format}-{precision}", "{} artefact", "none")

    def exit_chain(self, format: str, precision: str) -> ExitChain:
        """The stages of that format and precision.

        Raises:
            ConfigError: the bundle has none; the message lists those it has.
        """
        found = {item.name: item for item in (self.exits.chains if self.exits else ())}
        none = "none at all; give its recipe exits, or 'edgeaudio cascade'"
        return self._chosen(found, f"{format}-{precision}", "early exits as {}", none)

    def stateful_artefact(self, format: str, precision: str) -> StatefulArtefact:
        """The stateful artefact of that format and precision.

        Raises:
            ConfigError: the bundle has none; the message lists those it has.
        """
        found = {item.window_name: item for item in (self.stateful.artefacts if self.stateful else ())}
        none = "none; give its recipe `stateful` and build it again"
        return self._chosen(found, f"{format}-{precision}", "stateful {} artefact", none)

    def stateful_chain(self, format: str, precision: str) -> StatefulChain:
        """The stateful stages of that format and precision.

        Raises:
            ConfigError: the bundle has none; the message lists those it has.
        """
        found = {item.name: item for item in (self.stateful.chains if self.stateful else ())}
        none = "none; give its recipe exits and `stateful`, or join two with equal steps"
        return self._chosen(found, f"{format}-{precision}", "stateful stages as {}", none)

    def _chosen(self, found: Mapping[str, _Item], wanted: str, what: str, none: str) -> _Item:
        if wanted in found:
            return found[wanted]
        has = ", ".join(found) or none
        raise ConfigError(f"bundle {self.name!r} has no {what.format(wanted)}; it has: {has}")
