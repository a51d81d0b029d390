"""What every model file in a bundle says about itself: where it lies, what it takes and gives, how it was checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeaudio.spec import Spec
from edgeaudio.spec.exits import MAX_EXITS

#: "tensorrt" is ONNX under the rules of docs/decisions/0008-tensorrt.md.
ArtefactFormat = Literal["onnx", "tflite", "tensorrt"]
Precision = Literal["fp32", "int8"]


class TensorInfo(Spec):
    """One input or output of an artefact; `scale` and `zero_point` where it is quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int8", "uint8"] = "float32"
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
    executor: str | None = Field(None, description="what ran the artefact, where that is not its own engine")

    @model_serializer(mode="wrap")
    def _without_absent_executor(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that bundles whose engines ran themselves are byte for byte as before.
        fields: dict[str, Any] = serialise(self)
        return {key: value for key, value in fields.items() if key != "executor" or value is not None}

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


class ModelFile(FileEntry):
    """What an engine needs to know about a model file; the last output is logits."""

    format: ArtefactFormat
    precision: Precision
    input: TensorInfo
    outputs: tuple[TensorInfo, ...] = Field(min_length=1)

    @property
    def name(self) -> str:
        """`onnx-int8` and the like; unique inside a bundle."""
        return f"{self.format}-{self.precision}"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """All that the file takes, in order; the first is `input`."""
        return (self.input,)

    def same_file(self, other: ModelFile) -> bool:
        """Whether both are one entry of the bundle, of which all is said alike that both speak of but `parity`."""
        shared = type(self).model_fields.keys() & type(other).model_fields.keys() - {"parity"}
        return all(getattr(self, name) == getattr(other, name) for name in shared)


class Link(ModelFile):
    """A model file as one link of a chain.

    takes: what the stage before left hidden, or the window itself (of a stateful chain: the new frames), as in a
    cascade of whole students. Stage 0 has nothing before it and takes the window in any case.
    """

    stage: int = Field(ge=0, le=MAX_EXITS)
    takes: Literal["hidden", "window"] = "hidden"

    @property
    def takes_window(self) -> bool:
        """Whether its input is that of a whole artefact."""
        return self.stage == 0 or self.takes == "window"

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.stage == 0 and self.takes == "window":
            raise ValueError("stage 0 takes the window in any case; leave its `takes` out")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that bundles without cascades are byte for byte, and readable, as before there were any.
        fields: dict[str, Any] = serialise(self)
        return {key: value for key, value in fields.items() if key != "takes" or value != "hidden"}


def require_numbered(name: str, numbered: Sequence[tuple[int, ModelFile]], what: str = "stages") -> None:
    """Raise ValueError unless `what` (number, file) of the chain `name` is 0, 1, ... of one format and precision."""
    kinds = {(file.format, file.precision) for _, file in numbered}
    numbers = [number for number, _ in numbered]
    if len(kinds) != 1 or numbers != list(range(len(numbers))):
        raise ValueError(
            f"{name}: {what} are {numbers} of {sorted(kinds)}; a chain is 0, 1, ... of one format and precision"
        )
