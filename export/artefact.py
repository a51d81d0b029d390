"""`ExportedArtefact`: one model file in memory, before it enters a bundle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Self

from edgeaudio.bundle.manifest import (
    Artefact,
    ArtefactFormat,
    Metric,
    Parity,
    Precision,
    StatefulArtefact,
    StatefulStage,
    StateInfo,
    TensorInfo,
)
from edgeaudio.bundle.writer import file_entry

INPUT_NAME = "log_mel"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class ExportedArtefact:
    """The bytes of an exported student and what its input and outputs are."""

    format: ArtefactFormat
    precision: Precision
    payload: bytes
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    #: Activations that an int8 file still computes in float, by name; empty when fully integer.
    float_activations: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`onnx-int8` and the like."""
        return f"{self.format}-{self.precision}"

    @property
    def path(self) -> str:
        """Where it lies in a bundle."""
        return f"artefacts/{self.precision}.{self.format}"

    def manifest_entry(self, *, parity: Parity | None = None, metrics: tuple[Metric, ...] = ()) -> Artefact:
        """The manifest's description of this artefact."""
        return Artefact(
            path=self.path,
            size_bytes=len(self.payload),
            sha256=hashlib.sha256(self.payload).hexdigest(),
            format=self.format,
            precision=self.precision,
            input=self.input,
            outputs=self.outputs,
            parity=parity,
            metrics=metrics,
        )


@dataclass(frozen=True)
class ExportedStateful:
    """The bytes of a stateful student, or of a stage of one; the fields are those of its manifest entry."""

    format: ArtefactFormat
    precision: Precision
    payload: bytes
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    states: tuple[StateInfo, ...]
    logit_step: float | None
    macs_per_step: int
    #: None where it is the whole.
    stage: int | None = None

    @classmethod
    def of(cls, entry: StatefulArtefact, payload: bytes, macs_per_step: int) -> Self:
        """What was exported, from its manifest entry."""
        return cls(
            format=entry.format,
            precision=entry.precision,
            payload=payload,
            input=entry.input,
            outputs=entry.outputs,
            states=entry.states,
            logit_step=entry.logit_step,
            macs_per_step=macs_per_step,
            stage=entry.stage if isinstance(entry, StatefulStage) else None,
        )

    @property
    def path(self) -> str:
        """Where it lies in a bundle."""
        return f"stateful/{self.precision}{'' if self.stage is None else f'-{self.stage}'}.{self.format}"

    def manifest_entry(self) -> StatefulArtefact:
        """The manifest's description of this artefact; a `StatefulStage` where it is one."""
        fields: dict[str, Any] = {
            **file_entry(self.path, self.payload).model_dump(),
            "format": self.format,
            "precision": self.precision,
            "input": self.input,
            "outputs": self.outputs,
            "states": self.states,
            "logit_step": self.logit_step,
        }
        return StatefulArtefact(**fields) if self.stage is None else StatefulStage(**fields, stage=self.stage)


def next_state(name: str) -> str:
    """The output that gives what the input `name` takes in the next step."""
    return f"{name}_next"
