"""Fine-tuning mn04 to a task: a plain loop, deterministic by seed, resumable after a kill.

AdamW, one cycle, short augmented windows, averaged weights (`FinetuneSpec`). All randomness is a function of
(seed, step), so a resumed run computes what an unbroken one does, bit for bit on one machine.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeaudio.errors import ConfigError, DataError, ShapeError, VerificationError, WorkDirError
from edgeaudio.spec import TaskSpec, digest_json
from edgeaudio.spec.fs import atomic_write
from edgeaudio.spec.limits import check_limit
from edgeaudio.teachers.adapted import AdaptedTeacher
from edgeaudio.teachers.augment import Batch, draw_batch, step_generator
from edgeaudio.teachers.finetune_spec import FinetuneSpec
from edgeaudio.teachers.mn04 import MN04, MN04Teacher
from edgeaudio.teachers.probe import check_targets
from edgeaudio.teachers.weights import CHECKPOINT_BYTES, generator_untouched

logger = logging.getLogger(__name__)

# Part of a checkpoint's key: raise it when the loop below computes something else.
LOOP_REVISION = 1
_MAGIC = b"EAFTUNE1"
_BAD_STEPS_IN_A_ROW = 10
_WARM_UP = 0.3
_LR_START, _LR_END = 1 / 25, 1e-4


def finetune(
    teacher: MN04Teacher,
    waveforms: Sequence[torch.Tensor] | torch.Tensor,
    targets: torch.Tensor,
    task: TaskSpec,
    spec: FinetuneSpec | None = None,
    *,
    checkpoint: Path | None = None,
    save_every_steps: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> AdaptedTeacher:
    """Fine-tune a copy of `teacher` and return the averaged weights after the last step.

    Nothing is selected on held-out data: give training examples only. Runs where the teacher is.

    Args:
        waveforms: one float32 `(samples,)` per clip at the teacher's rate, any lengths; or `(clips, samples)`.
        targets: `(clips,)` class indices, or `(clips, classes)` in [0, 1] for multi-label.
        checkpoint: written every `save_every_steps` and at the end; an existing one is continued.
        progress: called with (steps done, steps) after each step.
    Raises:
        ShapeError, DataError: unusable clips or targets, or a loss that stays NaN or infinite.
        WorkDirError: `checkpoint` belongs to another run.
        VerificationError: `checkpoint` is damaged.
    """
    spec = spec or FinetuneSpec()
    if save_every_steps < 1:
        raise ConfigError(f"save_every_steps is {save_every_steps}, wanted 1 or more")
    clips = [clip.detach().cpu() for clip in waveforms]
    _check_clips(clips)
    check_targets(targets, len(clips), task)
    soft = _soft_targets(targets, task)
    run = _Run.start(teacher, task, spec)
    # Digesting all audio costs a pass over it, and only a checkpoint needs it.
    key = _run_key(teacher, clips, soft, task, spec) if checkpoint is not None else ""
    if checkpoint is not None and checkpoint.exists():
        run.restore(_read_checkpoint(checkpoint, key))
        logger.info("continuing %s at step %d of %d", checkpoint, run.step, spec.steps)
    while run.step < spec.steps:
        rng = step_generator(spec.seed, run.step)
        batch = draw_batch(clips, soft, spec, teacher.frontend.sample_rate, rng)
        run.advance(batch, int(rng.integers(2**63)))
        if checkpoint is not None and (run.step % save_every_steps == 0 or run.step == spec.steps):
            _write_checkpoint(checkpoint, key, run.snapshot())
        if progress is not None:
            progress(run.step, spec.steps)
    return run.result()


@dataclass
class _Run:
    """Everything that changes from step to step."""

    teacher: MN04Teacher
    task: TaskSpec
    spec: FinetuneSpec
    network: MN04
    average: dict[str, torch.Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0
    bad_steps: int = 0

    @classmethod
    def start(cls, teacher: MN04Teacher, task: TaskSpec, spec: FinetuneSpec) -> _Run:
        device = teacher.network.last_layer.weight.device
        network = copy.deepcopy(teacher.network).cpu()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(spec.seed)
            network.replace_last_layer(len(task.labels))
        network.to(device).requires_grad_(True).train()
        last = list(network.last_layer.parameters())
        body = [p for p in network.parameters() if not any(p is q for q in last)]
        optimiser = torch.optim.AdamW(
            [{"params": body, "peak_lr": spec.lr_body}, {"params": last, "peak_lr": spec.lr_last_layer}],
            lr=spec.lr_body,
            weight_decay=spec.weight_decay,
        )
        average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        return cls(teacher, task, spec, network, average, optimiser)

    def advance(self, batch: Batch, dropout_seed: int) -> None:
        """One optimiser step; one whose loss or gradient is not finite changes no weight."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak_lr"] * one_cycle(self.step, self.spec.steps)
        # Batch norm updates its statistics in the forward pass; a skipped step must not leave NaN in them.
        before = {name: tensor.clone() for name, tensor in self.network.named_buffers()}
        self.optimiser.zero_grad()
        loss = self._loss(batch, dropout_seed)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.step += 1
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self.bad_steps = 0
            self.optimiser.step()
            self._update_average()
            return
        self.bad_steps += 1
        for name, tensor in self.network.named_buffers():
            tensor.copy_(before[name])
        logger.warning("step %d: loss or gradient is not finite, skipped", self.step)
        if self.bad_steps == _BAD_STEPS_IN_A_ROW:
            raise DataError(
                f"fine-tuning: loss or gradient not finite in {self.bad_steps} steps in a row, up to step {self.step}. "
                "Lower lr_body and lr_last_layer."
            )

    def _loss(self, batch: Batch, dropout_seed: int) -> torch.Tensor:
        device = self.network.last_layer.weight.device
        with torch.no_grad():
            log_mel = self.teacher.log_mel(batch.waveform.to(device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(dropout_seed)
            logits, _ = self.network(log_mel)
        soft = batch.targets.to(device)
        if self.task.kind == "single_label":
            return nn.functional.cross_entropy(logits, soft)
        return nn.functional.binary_cross_entropy_with_logits(logits, soft)

    @torch.no_grad()
    def _update_average(self) -> None:
        # The ramp keeps short runs from returning mostly their starting weights.
        decay = min(self.spec.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def snapshot(self) -> dict[str, Any]:
        """Plain dicts and tensors; the learning rate is a function of `step`."""
        return {
            "step": self.step,
            "bad_steps": self.bad_steps,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from `snapshot`."""
        self.step, self.bad_steps = snapshot["step"], snapshot["bad_steps"]
        self.network.load_state_dict(snapshot["network"])
        self.optimiser.load_state_dict(snapshot["optimiser"])
        for name, tensor in self.average.items():
            tensor.copy_(snapshot["average"][name])

    def result(self) -> AdaptedTeacher:
        """The averaged weights."""
        device = self.network.last_layer.weight.device
        with generator_untouched():
            network = MN04(len(self.task.labels))
        network.load_state_dict(self.average)
        return AdaptedTeacher(network, self.task).to(device)


def one_cycle(step: int, steps: int) -> float:
    """Share of the peak learning rate: cosine up over the first 30 %, cosine down to 1e-4 (Smith and Topin 2018)."""
    peak = max(1.0, _WARM_UP * steps)
    if step < peak:
        return _cosine(_LR_START, 1.0, step / peak)
    return _cosine(1.0, _LR_END, (step - peak) / max(1.0, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def _check_clips(clips: list[torch.Tensor]) -> None:
    for index, clip in enumerate(clips):
        if clip.ndim != 1 or len(clip) == 0 or clip.dtype != torch.float32:
            raise ShapeError(f"clip {index} is {clip.dtype} {tuple(clip.shape)}, wanted float32 (samples,), not empty")
        if not bool(torch.isfinite(clip).all()):
            raise DataError(f"clip {index} holds NaN or infinity")


def _soft_targets(targets: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    targets = targets.detach().cpu()
    if task.kind == "single_label":
        return nn.functional.one_hot(targets.long(), len(task.labels)).float()
    return targets.float()


def _run_key(
    teacher: MN04Teacher,
    clips: list[torch.Tensor],
    soft: torch.Tensor,
    task: TaskSpec,
    spec: FinetuneSpec,
) -> str:
    """Digest of all that decides the result."""
    audio = hashlib.sha256()
    for clip in clips:
        audio.update(len(clip).to_bytes(8, "little"))
        audio.update(clip.contiguous().numpy().data)
    return digest_json(
        {
            "loop": LOOP_REVISION,
            "teacher": teacher.digest,
            "task": task.digest(),
            "spec": spec.digest(),
            "audio": audio.hexdigest(),
            "targets": hashlib.sha256(soft.contiguous().numpy().data).hexdigest(),
        }
    )


def _write_checkpoint(path: Path, key: str, snapshot: dict[str, Any]) -> None:
    stream = io.BytesIO()
    torch.save({"key": key, "snapshot": snapshot}, stream)
    payload = stream.getvalue()
    data = _MAGIC + hashlib.sha256(payload).digest() + payload
    try:
        atomic_write(path, data)
    except OSError as error:
        raise WorkDirError(
            f"cannot write the fine-tuning checkpoint {path}: {error.strerror or error}; {len(data)} bytes are needed. "
            "The one before it is intact. Free some space and run again."
        ) from error


def _read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    check_limit(f"size of {path} in bytes", path.stat().st_size, CHECKPOINT_BYTES)
    data = path.read_bytes()
    start = len(_MAGIC) + hashlib.sha256().digest_size
    payload = data[start:]
    if not data.startswith(_MAGIC) or data[len(_MAGIC) : start] != hashlib.sha256(payload).digest():
        raise VerificationError(f"{path}: the fine-tuning checkpoint is damaged. Delete it to start again.")
    content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    if content["key"] != key:
        raise WorkDirError(
            f"{path}: this fine-tuning checkpoint is of another teacher, task, data or settings. "
            "Use another file, or delete it to start again."
        )
    snapshot: dict[str, Any] = content["snapshot"]
    return snapshot
