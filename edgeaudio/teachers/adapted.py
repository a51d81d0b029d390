"""`AdaptedTeacher`: a foundation model that answers a task's classes, in one safetensors file."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors

from edgeaudio.errors import ConfigError, DataError, ShapeError, VerificationError
from edgeaudio.spec import FrontendSpec, LabelSet, TaskSpec, canonical_json, digest_json
from edgeaudio.spec.fs import atomic_write
from edgeaudio.spec.limits import check_limit
from edgeaudio.students.frontend import LogMel
from edgeaudio.teachers.mn04 import CODE_REVISION, MN04, MN04Teacher, check_waveform
from edgeaudio.teachers.probe import LinearHead
from edgeaudio.teachers.weights import CHECKPOINT_BYTES, generator_untouched, load_strictly, state_digest

FORMAT = "edgeaudio-adapted-teacher-1"


class AdaptedTeacher:
    """mn04 with a task: either fine-tuned (its own last layer) or frozen under a `LinearHead`.

    Always in eval mode, never with gradients.
    """

    licence = MN04Teacher.licence
    frontend: FrontendSpec = MN04Teacher.frontend
    embedding_dim = MN04Teacher.embedding_dim

    def __init__(self, network: MN04, task: TaskSpec, head: LinearHead | None = None) -> None:
        answers = head.linear.out_features if head is not None else network.last_layer.out_features
        if answers != len(task.labels):
            raise ShapeError(f"the teacher answers {answers} classes, the task has {len(task.labels)}")
        self.task = task
        self.network = network.eval().requires_grad_(False)
        self.head = head.eval().requires_grad_(False) if head is not None else None
        self.log_mel = LogMel(self.frontend)

    @property
    def name(self) -> str:
        """How it was adapted."""
        return "mn04-finetuned" if self.head is None else "mn04-linear-head"

    def to(self, device: torch.device | str) -> AdaptedTeacher:
        """Move to `device`; returns self."""
        for module in (self.network, self.log_mel, self.head):
            if module is not None:
                module.to(device)
        return self

    @torch.no_grad()
    def task_logits_and_embedding(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, samples)` float32 at 32 kHz -> task logits `(batch, classes)`, embedding `(batch, 384)`.

        Raises:
            ShapeError: another rank, or fewer than 514 samples.
        """
        check_waveform(waveform, self.frontend)
        log_mel = self.log_mel(waveform)
        if self.head is None:
            return cast(tuple[torch.Tensor, torch.Tensor], self.network(log_mel))
        embedding = self.network.forward_features(log_mel)
        return self.head(embedding), embedding

    @property
    def labels(self) -> LabelSet:
        """The task's classes: what the logits of `embed` mean."""
        return self.task.labels

    def embed(self, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `edgeaudio.teachers.base.Teacher.embed`; the logits are task logits."""
        logits, embedding = self.task_logits_and_embedding(waveform)
        return embedding, logits

    def _state(self) -> dict[str, torch.Tensor]:
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        if self.head is not None:
            state |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of weights, task, front-end and code revision."""
        return digest_json(
            {
                "name": self.name,
                "revision": CODE_REVISION,
                "frontend": self.frontend.digest(),
                "task": self.task.digest(),
                "weights": state_digest(self._state()),
            }
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; task and digest are in its metadata."""
        about = {"format": FORMAT, "name": self.name, "digest": self.digest, "task": self.task.model_dump(mode="json")}
        atomic_write(path, save_tensors(self._state(), metadata={"edgeaudio": canonical_json(about).decode()}))

    @classmethod
    def load(cls, path: Path) -> AdaptedTeacher:
        """Read what `save` wrote.

        Raises:
            DataError: the file is absent.
            VerificationError: not an adapted teacher, or damaged (the digest does not match).
        """
        about, state = _read(path)
        try:
            task = TaskSpec.parse(about["task"], source=f"{path}: task")
        except ConfigError as error:
            raise VerificationError(str(error)) from error
        network_state, head_state = _split(state, "network."), _split(state, "head.")
        with generator_untouched():
            network = MN04(_rows(network_state, "classifier.5.weight", path))
        load_strictly(network, network_state, str(path))
        head = None
        if head_state:
            with generator_untouched():
                head = LinearHead(cls.embedding_dim, _rows(head_state, "linear.weight", path))
            load_strictly(head, head_state, str(path))
        try:
            teacher = cls(network, task, head)
        except ShapeError as error:
            raise VerificationError(f"{path}: {error}") from error
        if teacher.digest != about["digest"]:
            raise VerificationError(f"{path}: digest is {teacher.digest}, the file says {about['digest']}")
        return teacher


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise DataError(f"adapted teacher {path} does not exist")
    check_limit(f"size of {path} in bytes", path.stat().st_size, CHECKPOINT_BYTES)
    try:
        with safe_open(path, framework="pt") as stream:
            about = json.loads((stream.metadata() or {}).get("edgeaudio", "{}"))
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise VerificationError(f"{path}: not a safetensors file with edgeaudio metadata: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT or not {"task", "digest"} <= about.keys():
        raise VerificationError(f"{path}: not an adapted teacher of format {FORMAT}")
    return about, state


def _split(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _rows(state: dict[str, torch.Tensor], name: str, path: Path) -> int:
    if name not in state or state[name].ndim != 2:
        raise VerificationError(f"{path}: tensor {name!r} is missing or not a matrix")
    return state[name].shape[0]
