"""The manifest's part on stateful artefacts: a student that takes one hop of frames at a time and hands states on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from edgeaudio.bundle.model_file import ArtefactFormat, Link, ModelFile, Parity, TensorInfo, require_numbered
from edgeaudio.spec import Spec, WindowSpec, limits
from edgeaudio.spec.exits import MAX_EXITS

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
    states: tuple[StateInfo, ...] = Field(max_length=MAX_STATES)
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
    def hidden(self) -> TensorInfo | None:
        """What it leaves for a next stage, between states and logits; None where there is none."""
        return self.outputs[-2] if len(self.outputs) == len(self.states) + 2 else None

    @property
    def state_bytes(self) -> int:
        """What one stream holds between its steps."""
        return sum(state.n_bytes for state in self.states)

    def may_leave_hidden(self) -> bool:
        """Whether a next stage may follow."""
        return False

    @model_validator(mode="after")
    def _closed(self) -> Self:
        phases = [state.phases for state in self.states]
        if any(max(phases) % n for n in phases):
            raise ValueError(f"{self.name}: phases of states are {phases}; each must divide the most")
        if self.state_bytes > limits.STATE_BYTES:
            raise ValueError(f"{self.name}: states of {self.state_bytes} bytes, at most {limits.STATE_BYTES}")
        if len(self.outputs) != len(self.states) + 1 + (self.may_leave_hidden() and self.hidden is not None):
            raise ValueError(
                f"{self.name}: {len(self.outputs)} outputs, wanted {len(self.states)} states and the logits"
            )
        for state, following in zip(self.states, self.outputs, strict=False):
            if following != state.as_output(following.name):
                raise ValueError(f"{self.name}: state {state.model_dump()} comes back as {following.model_dump()}")
        if self.hidden is not None and not 0 < math.prod(self.hidden.shape) <= limits.STATE_BYTES:
            raise ValueError(f"{self.name}: {self.hidden.name} has shape {self.hidden.shape}")
        for info in (*self.states, *([self.hidden] if self.hidden else [])):
            if info.dtype != "float32" and (info.scale is None or info.zero_point is None):
                raise ValueError(f"{self.name}: {info.name} is {info.dtype} and needs scale and zero_point")
        return self


class StatefulStage(StatefulArtefact, Link):
    """One link of a stateful chain: takes new frames or the hidden steps of the stage before, and has its own states.

    Where the next stage takes hidden steps, it gives them between its states and the logits of its exit.
    """

    @property
    def name(self) -> str:
        """`onnx-int8-stage0-stateful` and the like; unique inside a bundle."""
        return f"{self.window_name}-stateful"

    @property
    def window_name(self) -> str:
        """The windowed stage that it equals."""
        return f"{self.format}-{self.precision}-stage{self.stage}"

    def may_leave_hidden(self) -> bool:
        """See `StatefulArtefact.may_leave_hidden`."""
        return True


class StatefulChain(Spec):
    """The stages of one format and precision as steps, in order. Its thresholds are those of the windowed chain."""

    stages: tuple[StatefulStage, ...] = Field(min_length=2, max_length=MAX_EXITS + 1)

    @property
    def name(self) -> str:
        """`onnx-int8` and the like: that of the windowed chain."""
        return f"{self.stages[0].format}-{self.stages[0].precision}"

    @model_validator(mode="after")
    def _linked(self) -> Self:
        require_numbered(self.name, [(stage.stage, stage) for stage in self.stages], "stateful stages")
        for stage, following in itertools.pairwise(self.stages):
            wanted = None if following.takes_window else following.input
            if stage.hidden != wanted:
                left, taken = (info and info.model_dump() for info in (stage.hidden, wanted))
                raise ValueError(f"{stage.name}: leaves {left}, {following.name} takes {taken or 'new frames'}")
        if self.stages[-1].hidden is not None:
            raise ValueError(f"{self.stages[-1].name}: the last stage gives states and logits alone")
        return self


class Stateful(Spec):
    """The artefacts once more as steps of `step_frames` new frames each, for streams.

    lead_in_frames: frames of any content to feed before the stream, so that windows start where those of the windowed
    form do, at multiples of `step_frames`. warm_up_steps: steps before the first whose logits stand for a whole window.
    macs_per_step: computed, as `Cost.macs_per_window` is. chains: with early exits, the stages as steps too;
    macs_per_stage: what a step of each costs.
    """

    step_frames: int = Field(ge=1, le=limits.WINDOW_FRAMES)
    lead_in_frames: int = Field(ge=0)
    warm_up_steps: int = Field(ge=0)
    macs_per_step: int = Field(ge=0)
    artefacts: tuple[StatefulArtefact, ...] = Field(min_length=1)
    macs_per_stage: tuple[int, ...] = ()
    chains: tuple[StatefulChain, ...] = ()

    @property
    def files(self) -> tuple[StatefulArtefact, ...]:
        """All artefacts, then all stages: the order of the file."""
        return (*self.artefacts, *(stage for chain in self.chains for stage in chain.stages))

    @classmethod
    def of(
        cls,
        window: WindowSpec,
        step_frames: int,
        macs_per_step: int,
        artefacts: Sequence[StatefulArtefact],
        *,
        macs_per_stage: Sequence[int] = (),
        chains: Sequence[StatefulChain] = (),
    ) -> Self:
        """The description that follows from the window and the step."""
        lead_in = -window.frames % step_frames
        return cls(
            step_frames=step_frames,
            lead_in_frames=lead_in,
            warm_up_steps=(lead_in + window.frames) // step_frames - 1,
            macs_per_step=macs_per_step,
            artefacts=tuple(artefacts),
            macs_per_stage=tuple(macs_per_stage),
            chains=tuple(chains),
        )

    def check_fits(
        self, window: WindowSpec, n_mels: int, names: Collection[str], chains: Mapping[str, Sequence[str]]
    ) -> None:
        """Raise ValueError unless all follows from the window, and each artefact has its windowed form beside it.

        Args:
            names: of windowed artefacts. chains: names of windowed chains, with what their stages take.
        """
        if window.hop_frames % self.step_frames:
            raise ValueError(
                f"stateful.step_frames is {self.step_frames}, which does not divide the window's hop of "
                f"{window.hop_frames} frames"
            )
        lead_in = -window.frames % self.step_frames
        warm_up = (lead_in + window.frames) // self.step_frames - 1
        if (self.lead_in_frames, self.warm_up_steps) != (lead_in, warm_up):
            raise ValueError(
                f"stateful: lead_in_frames is {self.lead_in_frames} and warm_up_steps {self.warm_up_steps}, "
                f"the window wants {lead_in} and {warm_up}"
            )
        self._check_names(names, chains)
        stages = (stage for chain in self.chains for stage in chain.stages if stage.takes_window)
        for file in (*self.artefacts, *stages):
            if file.input.shape != (1, self.step_frames, n_mels):
                raise ValueError(
                    f"{file.name}: input shape {file.input.shape}, a step is {(1, self.step_frames, n_mels)}"
                )

    def _check_names(self, names: Collection[str], chains: Mapping[str, Sequence[str]]) -> None:
        for field, given, there in (
            ("artefacts", [artefact.window_name for artefact in self.artefacts], names),
            ("chains", [chain.name for chain in self.chains], chains),
        ):
            if len(set(given)) != len(given):
                raise ValueError(f"stateful.{field}: one for each format and precision, given {given}")
            alone = [name for name in given if name not in there]
            if alone:
                raise ValueError(
                    f"stateful.{field}: {alone} have no windowed form beside them; the bundle has {list(there)}"
                )
        for chain in self.chains:
            windowed = list(chains[chain.name])
            if not len(chain.stages) == len(windowed) == len(self.macs_per_stage):
                raise ValueError(
                    f"stateful.chains: {chain.name} has {len(chain.stages)} stages, its windowed form "
                    f"{len(windowed)}, macs_per_stage {len(self.macs_per_stage)}"
                )
            takes = [stage.takes for stage in chain.stages]
            if takes != windowed:
                raise ValueError(f"stateful.chains: stages of {chain.name} take {takes}, windowed ones {windowed}")
