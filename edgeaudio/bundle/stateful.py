"""The manifest's part on stateful artefacts: a student that takes one hop of frames at a time and hands states on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from edgeaudio.bundle.model_file import ArtefactFormat, ModelFile, Parity, TensorInfo
from edgeaudio.spec import Spec, WindowSpec, limits

# Far above any student: five strides that halve time make 32 phases, thirty convolutions as many states.
MAX_PHASES = 256
MAX_STATES = 256

#: Formats that a student can be exported to as steps.
STATEFUL_FORMATS: tuple[ArtefactFormat, ...] = ("onnx", "tflite")


class StateInfo(TensorInfo):
    """What a stateful artefact hands from step to step; it begins as zeros (`zero_point` where it is quantised).

    phases: so many of it take turns. Step n takes number `n % phases`, and what it gives back is that one's next.
    """

    phases: int = Field(1, ge=1, le=MAX_PHASES)

    @property
    def n_bytes(self) -> int:
        """Of all phases."""
        return self.phases * math.prod(self.shape) * (4 if self.dtype == "float32" else 1)

    def as_output(self, name: str) -> TensorInfo:
        """The output that gives it back."""
        return TensorInfo(name=name, **self.model_dump(exclude={"name", "phases"}))

    @model_validator(mode="after")
    def _filled(self) -> Self:
        if min(self.shape, default=0) < 1:
            raise ValueError(f"state {self.name!r} has shape {self.shape}; wanted sizes of at least 1")
        return self


class StatefulArtefact(ModelFile):
    """A whole artefact as a step: takes new frames and states, gives the next states and the logits of a window.

    The window is the one that ends with the newest frame. states: in the order of inputs and outputs. logit_step: the
    scale on which the logits of an int8 artefact lie, also where its output is float.
    """

    form: Literal["stateful"] = "stateful"
    states: tuple[StateInfo, ...] = Field(min_length=1, max_length=MAX_STATES)
    logit_step: float | None = Field(None, gt=0)
    parity: Parity | None = None

    @property
    def name(self) -> str:
        """`onnx-int8-stateful` and the like; unique inside a bundle."""
        return f"{self.window_name}-stateful"

    @property
    def window_name(self) -> str:
        """The artefact over whole windows that it equals."""
        return f"{self.format}-{self.precision}"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See `ModelFile.inputs`."""
        return (self.input, *self.states)

    @property
    def state_bytes(self) -> int:
        """What one stream holds between its steps."""
        return sum(state.n_bytes for state in self.states)

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if len(self.outputs) != len(self.states) + 1:
            raise ValueError(
                f"{self.name}: {len(self.outputs)} outputs, wanted {len(self.states)} states and the logits"
            )
        phases = [state.phases for state in self.states]
        if any(max(phases) % n for n in phases):
            raise ValueError(f"{self.name}: phases of states are {phases}; each must divide the most")
        if self.state_bytes > limits.STATE_BYTES:
            raise ValueError(f"{self.name}: states of {self.state_bytes} bytes, at most {limits.STATE_BYTES}")
        for state, following in zip(self.states, self.outputs, strict=False):
            if following != state.as_output(following.name):
                raise ValueError(f"{self.name}: state {state.model_dump()} comes back as {following.model_dump()}")
            if state.dtype != "float32" and (state.scale is None or state.zero_point is None):
                raise ValueError(f"{self.name}: {state.name} is {state.dtype} and needs scale and zero_point")
        return self


class Stateful(Spec):
    """The artefacts once more as steps of `step_frames` new frames each, for streams.

    lead_in_frames: frames of any content to feed before the stream, so that windows start where those of the windowed
    form do, at multiples of `step_frames`. warm_up_steps: steps before the first whose logits stand for a whole window.
    macs_per_step: computed, as `Cost.macs_per_window` is.
    """

    step_frames: int = Field(ge=1, le=limits.WINDOW_FRAMES)
    lead_in_frames: int = Field(ge=0)
    warm_up_steps: int = Field(ge=0)
    macs_per_step: int = Field(ge=0)
    artefacts: tuple[StatefulArtefact, ...] = Field(min_length=1)

    @classmethod
    def of(
        cls, window: WindowSpec, step_frames: int, macs_per_step: int, artefacts: Sequence[StatefulArtefact]
    ) -> Self:
        """The description that follows from the window and the step."""
        lead_in = -window.frames % step_frames
        return cls(
            step_frames=step_frames,
            lead_in_frames=lead_in,
            warm_up_steps=(lead_in + window.frames) // step_frames - 1,
            macs_per_step=macs_per_step,
            artefacts=tuple(artefacts),
        )

    def check_fits(self, window: WindowSpec, n_mels: int, names: Sequence[str]) -> None:
        """Raise ValueError unless all follows from the window, and each artefact has its windowed form beside it."""
        if window.hop_frames % self.step_frames:
            raise ValueError(
                f"stateful.step_frames is {self.step_frames}, which does not divide the window's hop of "
                f"{window.hop_frames} frames"
            )
        wanted = Stateful.of(window, self.step_frames, self.macs_per_step, self.artefacts)
        if self != wanted:
            raise ValueError(
                f"stateful: lead_in_frames is {self.lead_in_frames} and warm_up_steps {self.warm_up_steps}, "
                f"the window wants {wanted.lead_in_frames} and {wanted.warm_up_steps}"
            )
        window_names = [artefact.window_name for artefact in self.artefacts]
        if len(set(window_names)) != len(window_names):
            raise ValueError(f"stateful.artefacts: one for each format and precision, given {window_names}")
        alone = [artefact.name for artefact in self.artefacts if artefact.window_name not in names]
        if alone:
            raise ValueError(f"stateful.artefacts: {alone} have no windowed artefact beside them; it has {names}")
        for artefact in self.artefacts:
            if artefact.input.shape != (1, self.step_frames, n_mels):
                raise ValueError(
                    f"{artefact.name}: input shape {artefact.input.shape}, a step is {(1, self.step_frames, n_mels)}"
                )
