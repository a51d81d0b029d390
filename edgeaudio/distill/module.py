"""The Lightning module: one student, its loss terms, EMA, and randomness that is a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from edgeaudio.distill.augment import FeatureAugmentSpec, augment_log_mel
from edgeaudio.distill.losses import LossWeights, Outcome, TaskKind, Term, weighted_losses
from edgeaudio.distill.semi import SemiLearner, SemiRows, SemiSpec
from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec, Spec

Batch = dict[str, torch.Tensor]

# Streams of random numbers drawn from one seed must not meet.
_STREAM_ORDER, _STREAM_AUGMENT, _STREAM_UNLABELLED, _STREAM_SEMI = 1, 2, 3, 4


class TrainSpec(Spec):
    """One training run of a student, measured in windows seen."""

    windows_seen: int = Field(150_000, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(2e-2, ge=0)
    ema_decay: float = Field(0.99, ge=0, lt=1, description="per step; the averaged student is the result")
    unlabelled_share: float = Field(0.0, ge=0, lt=1, description="part of each batch without labels")
    loss: LossWeights = LossWeights()
    augment: FeatureAugmentSpec = FeatureAugmentSpec()
    semi: SemiSpec | None = Field(None, description="learn from the unlabelled share by the student's own guesses")
    checkpoint_every_steps: int = Field(250, ge=1, description="a kill loses at most this much work")

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, self.windows_seen // self.batch_size)

    @model_validator(mode="after")
    def _semi_has_rows(self) -> Self:
        if self.semi is not None and not round(self.batch_size * self.unlabelled_share):
            raise ValueError(
                f"semi.method {self.semi.method} learns from unlabelled windows, and unlabelled_share "
                f"{self.unlabelled_share} of a batch of {self.batch_size} is none; raise unlabelled_share or drop semi"
            )
        return self


@dataclass(frozen=True)
class WindowSet:
    """Labelled or unlabelled windows with what the teacher says of them; float16 or float32 arrays.

    `log_mel (n, frames, n_mels)`, `target (n, classes)` or None, `teacher_logits (n, classes)` or None,
    `embedding (n, dim)` or None, `foundation_logits (n, labels)` or None, `silent (n,)` bool.
    """

    log_mel: NDArray[Any]
    silent: NDArray[np.bool_]
    target: NDArray[Any] | None = None
    teacher_logits: NDArray[Any] | None = None
    embedding: NDArray[Any] | None = None
    foundation_logits: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.log_mel)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Those windows as float32 tensors; absent fields are left out."""
        fields = {
            "log_mel": self.log_mel,
            "target": self.target,
            "teacher_logits": self.teacher_logits,
            "embedding": self.embedding,
            "foundation_logits": self.foundation_logits,
            "silent": self.silent,
        }
        return {
            name: torch.from_numpy(np.asarray(values[rows], dtype=np.float32))
            for name, values in fields.items()
            if values is not None
        }


class BatchOrder:
    """Batches of one epoch: shuffled passes over the set, a function of (seed, step) alone."""

    def __init__(self, size: int, batch_size: int, seed: int, first_step: int, steps: int, stream: int) -> None:
        self.size, self.batch_size, self.seed, self.stream = size, batch_size, seed, stream
        self.first_step, self.steps = first_step, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        passes: dict[int, NDArray[np.int64]] = {}
        for step in range(self.first_step, self.first_step + self.steps):
            positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            rows = np.empty(self.batch_size, dtype=np.int64)
            for number in np.unique(positions // self.size):
                if number not in passes:
                    passes = {k: v for k, v in passes.items() if k >= number - 1}
                    passes[number] = np.random.default_rng([self.seed, self.stream, int(number)]).permutation(self.size)
                chosen = positions // self.size == number
                rows[chosen] = passes[number][positions[chosen] % self.size]
            yield rows


class Batches:
    """What Lightning iterates: (labelled, unlabelled or None) batches from `first_step` on."""

    def __init__(self, data: DistillData, spec: TrainSpec, seed: int, first_step: int, steps: int) -> None:
        n_unlabelled = round(spec.batch_size * spec.unlabelled_share) if data.unlabelled is not None else 0
        self.data, self.steps = data, steps
        self.order = BatchOrder(
            len(data.windows), spec.batch_size - n_unlabelled, seed, first_step, steps, _STREAM_ORDER
        )
        self.unlabelled_order = (
            BatchOrder(len(data.unlabelled), n_unlabelled, seed, first_step, steps, _STREAM_UNLABELLED)
            if data.unlabelled is not None and n_unlabelled
            else None
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Batch, Batch | None]]:
        if self.unlabelled_order is None:
            for rows in self.order:
                yield self.data.windows.take(rows), None
            return
        assert self.data.unlabelled is not None
        for rows, unlabelled_rows in zip(self.order, self.unlabelled_order, strict=True):
            yield self.data.windows.take(rows), self.data.unlabelled.take(unlabelled_rows)


class RowChunks:
    """Rows 0 to `size` in chunks; a class because Lightning takes a list for several loaders."""

    chunk = 256

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return -(-self.size // self.chunk)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for start in range(0, self.size, self.chunk):
            yield np.arange(start, min(start + self.chunk, self.size))


@dataclass(frozen=True)
class DistillData:
    """Everything that one training run reads."""

    windows: WindowSet
    held_out: WindowSet
    unlabelled: WindowSet | None = None


@dataclass(frozen=True)
class Standardiser:
    """Per-dimension mean and deviation of teacher outputs, so that every dimension weighs the same."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Standardiser:
        """From `(n, dim)`."""
        x = np.asarray(values, dtype=np.float64)
        return cls(
            torch.tensor(x.mean(axis=0), dtype=torch.float32), torch.tensor(x.std(axis=0) + 1e-4, dtype=torch.float32)
        )

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return (values - self.mean) / self.std


Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def warmed_ema(decay: float) -> Callable[[Tensors, Tensors, torch.Tensor | int], None]:
    """An exponential moving average whose decay rises from 0.1 to `decay` with the steps taken.

    Without the rise, the weights of the first steps still weigh on the average of a short run and,
    against the batch norms' statistics, ruin it.
    """

    def update(averaged: Tensors, current: Tensors, n_averaged: torch.Tensor | int) -> None:
        n = int(n_averaged)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, weight)
            else:
                old.copy_(new)

    return update


@dataclass(frozen=True)
class Forward:
    """What a student gives: embedding `(n, dim)`, logits `(n, classes)`, and those of each early exit."""

    embedding: torch.Tensor
    logits: torch.Tensor
    exits: tuple[torch.Tensor, ...] = ()

    def first(self, n: int) -> Forward:
        """Of the first `n` windows."""
        return Forward(self.embedding[:n], self.logits[:n], tuple(logits[:n] for logits in self.exits))


class DistillModule(L.LightningModule):  # type: ignore[misc]
    """Trains `student`; `averaged` (EMA) is the result. Heads for teacher terms are dropped afterwards."""

    def __init__(
        self,
        student: nn.Module,
        data: DistillData,
        spec: TrainSpec,
        *,
        kind: TaskKind,
        frontend: FrontendSpec,
        seed: int,
    ) -> None:
        super().__init__()
        self.student = student
        self.averaged = AveragedModel(student, multi_avg_fn=warmed_ema(spec.ema_decay), use_buffers=True)
        self.spec, self.kind, self.frontend, self.seed = spec, kind, frontend, seed
        self.data = data
        self.terms = spec.loss.used_terms
        self._refuse_missing()
        dim = int(student.embedding_dim)  # type: ignore[arg-type]
        self.teacher_heads = nn.ModuleDict()
        self.standardisers: dict[str, Standardiser] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for need in ("embedding", "foundation_logits"):
                if any(need in term.needs for term in self.terms.values()):
                    values = getattr(data.windows, need)
                    self.standardisers[need] = Standardiser.fit(values)
                    if need in self.terms and self.terms[need].projects:
                        self.teacher_heads[need] = nn.Linear(dim, values.shape[1])
        self.semi = self._semi_learner()
        self._only_semi_reads_unlabelled = self.semi is not None and all(
            term.labelled_only for term in self.terms.values()
        )

    def _refuse_missing(self) -> None:
        """A term whose data are absent would be left out in silence, or fail in the middle of a batch."""
        sets = {"training": self.data.windows, "held-out": self.data.held_out}
        shared = {"unlabelled": self.data.unlabelled} if self.data.unlabelled and self.spec.unlabelled_share else {}
        for name, term in self.terms.items():
            for need in term.needs - {"exits"}:
                for owner, windows in (sets if term.labelled_only else sets | shared).items():
                    if getattr(windows, need) is None:
                        raise ConfigError(
                            f"train.loss.{name} is {getattr(self.spec.loss, name):g}, but the {owner} windows "
                            f"have no {need}. Set train.loss.{name} to 0, or label these windows."
                        )
            if "exits" in term.needs and not callable(getattr(self.student, "forward_exits", None)):
                raise ConfigError(
                    f"train.loss.{name} is {getattr(self.spec.loss, name):g}, but this student has no early exits. "
                    f"Set train.loss.{name} to 0, or give the student exits."
                )

    def _semi_learner(self) -> SemiLearner | None:
        spec, windows = self.spec.semi, self.data.windows
        if spec is None:
            return None
        if self.data.unlabelled is None or not round(self.spec.batch_size * self.spec.unlabelled_share):
            raise ConfigError(
                f"train.semi.method {spec.method} learns from unlabelled windows, and there are none in a batch. "
                "Name a folder in data.unlabelled and set train.unlabelled_share above 0, or drop train.semi."
            )
        if windows.target is None or not windows.target[~windows.silent].any():
            raise ConfigError(f"train.semi.method {spec.method} needs some labelled windows. Drop semi to pretrain.")
        labels = torch.from_numpy(np.asarray(windows.target[~windows.silent], dtype=np.float32))
        return SemiLearner(spec, labels, kind=self.kind, frontend=self.frontend, steps=self.spec.steps)

    # Lightning's hooks -----------------------------------------------------------------------

    def train_dataloader(self) -> Batches:
        """The batches of the current epoch: an epoch is the work between two checkpoints."""
        first = self.current_epoch * self.spec.checkpoint_every_steps
        steps = min(self.spec.checkpoint_every_steps, self.spec.steps - first)
        return Batches(self.data, self.spec, self.seed, first, max(steps, 0))

    def val_dataloader(self) -> RowChunks:
        """The rows of the held-out windows in order."""
        return RowChunks(len(self.data.held_out))

    def training_step(self, batch: tuple[Batch, Batch | None], _batch_index: int) -> torch.Tensor:
        """One step; every random draw comes from (seed, step), so a resumed run repeats an unbroken one."""
        draw = np.random.default_rng([self.seed, _STREAM_AUGMENT, self.global_step]).integers(2**62)
        torch.manual_seed(int(draw))  # dropout
        generator = torch.Generator().manual_seed(int(draw))
        labelled, unlabelled = batch
        parts = [labelled] if unlabelled is None or self._only_semi_reads_unlabelled else [labelled, unlabelled]
        log_mel = augment_log_mel(
            torch.cat([part["log_mel"] for part in parts]), self.spec.augment, self.frontend, generator
        )
        losses = self._losses(log_mel, parts, self._semi_rows(log_mel, batch))
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train_{name}": loss.detach() for name, loss in losses.items()}, on_step=True)
        self.log("train_loss", total.detach(), on_step=True, prog_bar=True)
        return total

    def on_train_batch_end(self, *_args: Any) -> None:
        """Let the average follow."""
        self.averaged.update_parameters(self.student)

    def validation_step(self, rows: NDArray[np.int64], _batch_index: int) -> None:
        """Loss (and accuracy where there are labels) of the averaged student on held-out windows."""
        batch = self.data.held_out.take(rows)
        student = self.averaged.module
        forward = self._forward(student, batch["log_mel"])
        losses = weighted_losses(self._outcome(forward, [batch], self.terms), self.spec.loss, self.terms)
        self.log("val_loss", torch.stack(list(losses.values())).sum(), batch_size=len(rows), prog_bar=True)
        if "target" in batch and batch["target"].shape[1]:
            agree = (forward.logits.argmax(1) == batch["target"].argmax(1))[batch["silent"] == 0]
            self.log("val_accuracy", agree.float().mean(), batch_size=len(rows), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule over all steps."""
        parameters = [*self.student.parameters(), *self.teacher_heads.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=self.spec.learning_rate, weight_decay=self.spec.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=self.spec.learning_rate, total_steps=self.spec.steps + 1, pct_start=0.2
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Loss terms ------------------------------------------------------------------------------

    def _forward(self, student: nn.Module, log_mel: torch.Tensor) -> Forward:
        exits: list[torch.Tensor] = []
        if self.spec.loss.uses_exits:
            exits, embedding = student.forward_exits(log_mel)  # type: ignore[operator]
        else:
            embedding = student.forward_features(log_mel)  # type: ignore[operator]
        logits = student.head(student.dropout(embedding))  # type: ignore[operator]
        return Forward(embedding, logits, tuple(exits))

    def _semi_rows(self, log_mel: torch.Tensor, batch: tuple[Batch, Batch | None]) -> SemiRows | None:
        """What the semi-supervised method adds; `log_mel` begins with the augmented labelled windows."""
        labelled, unlabelled = batch
        if self.semi is None or unlabelled is None:
            return None
        rows = self.semi.rows(
            (self.student, self.averaged.module),
            (log_mel[: len(labelled["log_mel"])], labelled["target"]),
            (unlabelled["log_mel"], unlabelled["silent"] > 0),
            np.random.default_rng([self.seed, _STREAM_SEMI, self.global_step]),
        )
        if rows.sure is not None:
            self.log("train_semi_sure", rows.sure, on_step=True)
        return rows

    def _losses(self, log_mel: torch.Tensor, parts: list[Batch], rows: SemiRows | None) -> dict[str, torch.Tensor]:
        """Weighted losses of one training step, in one forward pass."""
        weights, terms = self.spec.loss, self.terms
        if rows is None:
            return weighted_losses(self._outcome(self._forward(self.student, log_mel), parts, terms), weights, terms)
        assert self.semi is not None
        if rows.label_loss is not None:
            terms = {name: term for name, term in terms.items() if name != "labels"}
        n_plain = len(log_mel) if terms else 0
        forward = self._forward(self.student, torch.cat([log_mel[:n_plain], rows.log_mel]))
        losses: dict[str, torch.Tensor] = {}
        if terms:
            losses |= weighted_losses(self._outcome(forward.first(n_plain), parts, terms), weights, terms)
        if rows.label_loss is not None and weights.labels:
            losses["labels"] = weights.labels * rows.label_loss(forward.logits[n_plain:])
        losses["semi"] = self.semi.weight(self.global_step) * rows.semi_loss(forward.logits[n_plain:])
        return losses

    def _outcome(self, forward: Forward, parts: list[Batch], terms: Mapping[str, Term]) -> Outcome:
        """`forward` of the windows of `parts`, with what `terms` need."""
        needs = {need for term in terms.values() for need in term.needs}
        wanted: dict[str, torch.Tensor] = {}
        if "target" in needs:
            wanted["target"] = parts[0]["target"]
        if "teacher_logits" in needs:
            taught = torch.cat([part["teacher_logits"] for part in parts])
            # A window without any class is taught as "no class", whatever the teacher heard in it.
            silent = torch.cat([part["silent"] for part in parts])[:, None] > 0
            wanted["teacher_logits"] = torch.where(silent, 0.0 if self.kind == "single_label" else -10.0, taught)
        for need, standardise in self.standardisers.items():
            wanted[need] = standardise(torch.cat([part[need] for part in parts]))
        projected = {name: head(forward.embedding) for name, head in self.teacher_heads.items()}
        return Outcome(self.kind, forward.logits, forward.embedding, wanted, projected, forward.exits)
