"""The manifest of a bundle: everything a device or a reader must know about the artefacts inside."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edgeaudio.errors import ConfigError
from edgeaudio.spec import DecisionSpec, FrontendSpec, Spec, TaskSpec, WindowSpec

SCHEMA_VERSION: Literal[1] = 1

ArtefactFormat = Literal["onnx", "tflite"]
Precision = Literal["fp32", "int8"]


class TensorInfo(Spec):
    """One input or output of an artefact; `scale` and `zero_point` where it is quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int8"] = "float32"
    scale: float | None = None
    zero_point: int | None = None


class FileEntry(Spec):
    """A file inside the bundle."""

    path: str = Field(pattern=r"^[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)?$", max_length=128)
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Parity(Spec):
    """How far an artefact, run by the runtime, is from its reference on the same windows.

    `tolerance` bounds `max_abs_logit_diff` (float artefacts); `min_argmax_agreement` bounds
    `argmax_agreement` (share of windows with the same top class).
    """

    reference: str
    n_windows: int = Field(ge=1)
    max_abs_logit_diff: float = Field(ge=0)
    tolerance: float | None = None
    argmax_agreement: float = Field(ge=0, le=1)
    min_argmax_agreement: float = Field(ge=0, le=1)

    @property
    def passed(self) -> bool:
        """Whether every stated bound holds."""
        within = self.tolerance is None or self.max_abs_logit_diff <= self.tolerance
        return within and self.argmax_agreement >= self.min_argmax_agreement


class Metric(Spec):
    """One figure of one artefact on one dataset split."""

    name: str
    value: float
    n_clips: int = Field(ge=1)
    n_correct: int | None = None
    split: str
    seed: int


class Artefact(FileEntry):
    """One model file in one format and precision."""

    format: ArtefactFormat
    precision: Precision
    form: Literal["window"] = "window"
    input: TensorInfo
    outputs: tuple[TensorInfo, ...] = Field(min_length=1)
    parity: Parity | None = None
    metrics: tuple[Metric, ...] = ()

    @property
    def name(self) -> str:
        """`onnx-int8` and the like; unique inside a bundle."""
        return f"{self.format}-{self.precision}"


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
    student_config: dict[str, int | float | str | bool] = Field(default_factory=dict)
    arm: str = Field("distilled", description="how it was trained: distilled or labels-only")


class Manifest(Spec):
    """`manifest.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    frontend: FrontendSpec
    window: WindowSpec
    task: TaskSpec
    decision: DecisionSpec = DecisionSpec()
    artefacts: tuple[Artefact, ...]
    golden: FileEntry
    cost: Cost
    lineage: Lineage

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [artefact.name for artefact in self.artefacts]
        paths = [artefact.path for artefact in self.artefacts] + [self.golden.path]
        if not names:
            raise ValueError("artefacts: a bundle needs at least one")
        if len(set(names)) != len(names) or len(set(paths)) != len(paths):
            raise ValueError(f"artefacts: names and paths must be unique, given {names} at {paths}")
        expected_input = (1, self.window.frames, self.frontend.n_mels)
        for artefact in self.artefacts:
            if artefact.input.shape != expected_input:
                raise ValueError(f"{artefact.name}: input shape {artefact.input.shape}, the window is {expected_input}")
            if artefact.outputs[-1].shape != (1, len(self.task.labels)):
                raise ValueError(f"{artefact.name}: output shape {artefact.outputs[-1].shape} does not fit the labels")
        return self

    def artefact(self, format: str, precision: str) -> Artefact:
        """The artefact of that format and precision.

        Raises:
            ConfigError: the bundle has none; the message lists those it has.
        """
        for artefact in self.artefacts:
            if (artefact.format, artefact.precision) == (format, precision):
                return artefact
        has = ", ".join(artefact.name for artefact in self.artefacts)
        raise ConfigError(f"bundle {self.name!r} has no {format}-{precision} artefact; it has: {has}")
