"""Semi-supervised methods on batches of log-mel windows: what to show the student, and what to ask of it.

A method adds rows to the forward pass of a training step and a loss on their logits; the terms of
`distill.losses` see the windows they would see without it. So each method works with a teacher and
without one. `METHODS` is the table; `distill.module` calls `SemiLearner.rows` once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from edgeaudio.distill.augment import FeatureAugmentSpec, augment_log_mel
from edgeaudio.distill.losses import TaskKind, label_loss
from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec, Spec

MethodName = Literal["fixmatch", "mean-teacher", "mixmatch", "remixmatch"]

# ReMixMatch follows what the student predicts over this many batches.
_SHARE_BATCHES = 128
# ReMixMatch: the strong view that is not mixed weighs 0.5 where the mixed ones weigh 1.5.
_UNMIXED_WEIGHT = 1 / 3


class SemiSpec(Spec):
    """How a student learns from windows without labels by its own guesses.

    `fixmatch` (Sohn et al., arXiv 2001.07685): the class that it is sure of in a weak view is the label of a
    strong view. `mean-teacher` (Tarvainen and Valpola, arXiv 1703.01780): the averaged student's
    probabilities for a weak view, squared error. `mixmatch` (Berthelot et al., arXiv 1905.02249): sharpened guesses,
    labelled and unlabelled windows mixed, squared error. `remixmatch` (arXiv 1911.09785): guesses aligned to
    the labels' shares of the classes, taught to strong views, mixed; without its rotation head, which asks
    which way up an image is and has no counterpart in log-mel.
    Multi-label tasks: `fixmatch` (sure per class) and `mean-teacher`.
    """

    method: MethodName
    weight: float | None = Field(None, gt=0, description="none: the method's own, see METHODS")
    ramp_share: float = Field(0.3, ge=0, le=1, description="the weight rises from 0 over this share of the steps")
    threshold: float = Field(0.95, gt=0.5, lt=1, description="fixmatch: probability from which a guess counts")
    temperature: float = Field(0.5, gt=0, le=1, description="(re)mixmatch: of the guess; below 1 sharpens")
    mix_alpha: float = Field(0.75, ge=0, description="(re)mixmatch: shares are Beta(alpha, alpha); 0 mixes nothing")
    n_weak: int | None = Field(
        None, ge=1, le=16, description="weak views whose mean prediction is the guess; none: 2 for mixmatch, else 1"
    )
    n_strong: int = Field(2, ge=1, le=16, description="remixmatch: strong views that learn one guess")
    weak: FeatureAugmentSpec = FeatureAugmentSpec(gain_db=2, filter_db=0, frequency_mask=0, time_mask=0)
    strong: FeatureAugmentSpec = FeatureAugmentSpec(gain_db=8, filter_db=6, frequency_mask=16, time_mask=32)

    @model_validator(mode="after")
    def _no_idle_field(self) -> Self:
        for name, methods in _READ_BY.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to method {' and '.join(methods)}; leave it out for {self.method}")
        return self

    @property
    def full_weight(self) -> float:
        """Of the method's loss, after the rise."""
        return METHODS[self.method].weight if self.weight is None else self.weight

    @property
    def weak_views(self) -> int:
        """`n_weak`, or the method's own number."""
        return METHODS[self.method].weak_views if self.n_weak is None else self.n_weak


_READ_BY: dict[str, tuple[MethodName, ...]] = {
    "threshold": ("fixmatch",),
    "temperature": ("mixmatch", "remixmatch"),
    "mix_alpha": ("mixmatch", "remixmatch"),
    "n_strong": ("remixmatch",),
    "strong": ("fixmatch", "mean-teacher", "remixmatch"),
}


@dataclass(frozen=True)
class SemiRows:
    """Rows that a method adds to a forward pass, and what is asked of their logits `(rows, classes)`.

    `label_loss` replaces the term `labels` where the method mixes the labelled windows. `sure` is the
    share of guesses that count.
    """

    log_mel: torch.Tensor
    semi_loss: Callable[[torch.Tensor], torch.Tensor]
    label_loss: Callable[[torch.Tensor], torch.Tensor] | None = None
    sure: torch.Tensor | None = None


class ClassShares(nn.Module):
    """Shares of the classes: in the labels, and in the student's own guesses (a running average)."""

    wanted: torch.Tensor
    guessed: torch.Tensor

    def __init__(self, wanted: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("wanted", wanted / wanted.sum())
        # A buffer, so that a checkpoint carries it and a resumed run goes on with it.
        self.register_buffer("guessed", torch.full_like(wanted, 1 / len(wanted)))

    def follow(self, guess: torch.Tensor) -> None:
        """Let the average follow one batch of guesses `(batch, classes)`."""
        self.guessed.lerp_(guess.mean(dim=0), 1 / _SHARE_BATCHES)

    def align(self, guess: torch.Tensor) -> torch.Tensor:
        """Guesses `(batch, classes)` whose shares, over many batches, are those of the labels."""
        moved = guess * (self.wanted / self.guessed.clamp_min(1e-6))
        return moved / moved.sum(dim=1, keepdim=True).clamp_min(1e-6)


@dataclass(frozen=True)
class SemiStep:
    """What a method sees of one step.

    `labelled (l, frames, n_mels)` is augmented as the recipe's `train.augment` says, with its `target
    (l, classes)`; `unlabelled (u, frames, n_mels)` is not. `silent (u,)` bool.
    """

    spec: SemiSpec
    kind: TaskKind
    frontend: FrontendSpec
    student: nn.Module
    averaged: nn.Module
    shares: ClassShares | None
    labelled: torch.Tensor
    target: torch.Tensor
    unlabelled: torch.Tensor
    silent: torch.Tensor
    rng: np.random.Generator
    generator: torch.Generator

    def weak_views(self) -> list[torch.Tensor]:
        """The unlabelled windows, slightly changed, as often as the method asks."""
        return [self._view(self.spec.weak) for _ in range(self.spec.weak_views)]

    def strong_view(self) -> torch.Tensor:
        """The unlabelled windows, changed as much as a class survives."""
        return self._view(self.spec.strong)

    def _view(self, augment: FeatureAugmentSpec) -> torch.Tensor:
        return augment_log_mel(self.unlabelled, augment, self.frontend, self.generator)

    def guess(self, network: nn.Module, views: list[torch.Tensor]) -> torch.Tensor:
        """Mean probabilities `(u, classes)` over `views`; a silent window holds no class."""
        probs = torch.stack([class_probs(network, view, self.kind) for view in views]).mean(dim=0)
        none = 1 / probs.shape[1] if self.kind == "single_label" else 0.0
        return torch.where(self.silent[:, None], none, probs)


# Pure parts ----------------------------------------------------------------------------------


def class_probs(network: nn.Module, log_mel: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """`(batch, frames, n_mels)` -> probabilities `(batch, classes)`, as in use: no dropout, no gradient."""
    with _evaluating(network), torch.no_grad():
        return _as_probs(network.head(network.forward_features(log_mel)), kind)  # type: ignore[operator]


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """`network` in eval mode, then every module as it was: a frozen batch norm stays frozen."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _as_probs(logits: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    return logits.softmax(dim=1) if kind == "single_label" else logits.sigmoid()


def sharpen(probs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Rows `(batch, classes)` raised to `1 / temperature` and made to sum to 1 again."""
    # Through logarithms: a small temperature would underflow powers.
    return (probs.clamp_min(1e-12).log() / temperature).softmax(dim=1)


def hard_guess(probs: torch.Tensor, threshold: float, kind: TaskKind) -> tuple[torch.Tensor, torch.Tensor]:
    """(targets of 0 and 1, whether each counts): `(batch, classes)` and `(batch,)`, or per class if multi-label.

    Single-label: the likeliest class counts from `threshold` on. Multi-label: a class counts as there from
    `threshold` on, and as absent up to `1 - threshold`.
    """
    if kind == "single_label":
        likeliest = F.one_hot(probs.argmax(dim=1), probs.shape[1]).to(probs.dtype)
        return likeliest, probs.amax(dim=1) >= threshold
    return (probs > 0.5).to(probs.dtype), (probs >= threshold) | (probs <= 1 - threshold)


def hard_guess_loss(logits: torch.Tensor, target: torch.Tensor, sure: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """Cross-entropy (binary per class if multi-label) with hard guesses; those that do not count give 0."""
    if kind == "single_label":
        losses = F.cross_entropy(logits, target, reduction="none")
    else:
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # The mean is over all guesses, so that few sure ones weigh little.
    return torch.where(sure, losses, 0.0).mean()


def soft_guess_loss(logits: torch.Tensor, guess: torch.Tensor, kind: TaskKind) -> torch.Tensor:
    """Squared error of probabilities; over classes the sum, or the mean if multi-label as in `label_loss`.

    The papers take the mean of single-label tasks too, which halves the weight where classes double.
    """
    squares = (_as_probs(logits, kind) - guess) ** 2
    return (squares.sum(dim=1) if kind == "single_label" else squares.mean(dim=1)).mean()


def mixing_shares(rng: np.random.Generator, alpha: float, count: int) -> torch.Tensor:
    """`(count,)` from Beta(alpha, alpha), turned so that the first of two windows keeps at least half."""
    if alpha == 0:
        return torch.ones(count)
    drawn = rng.beta(alpha, alpha, count)
    return torch.from_numpy(np.maximum(drawn, 1 - drawn)).float()


def mix(first: torch.Tensor, second: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """`shares` of `first` and the rest of `second`, row by row. The log-mels are mixed, not the sounds."""
    weights = shares.view(-1, *[1] * (first.dim() - 1))
    return weights * first + (1 - weights) * second


# Methods -------------------------------------------------------------------------------------


def _fixmatch(step: SemiStep) -> SemiRows:
    guess = step.guess(step.student, step.weak_views())
    target, sure = hard_guess(guess, step.spec.threshold, step.kind)
    return SemiRows(
        step.strong_view(), lambda logits: hard_guess_loss(logits, target, sure, step.kind), sure=sure.float().mean()
    )


def _mean_teacher(step: SemiStep) -> SemiRows:
    guess = step.guess(step.averaged, step.weak_views())
    return SemiRows(step.strong_view(), lambda logits: soft_guess_loss(logits, guess, step.kind))


def _mixmatch(step: SemiStep) -> SemiRows:
    views = step.weak_views()
    guess = sharpen(step.guess(step.student, views), step.spec.temperature)
    log_mel, target = _mix_all(step, views, guess)
    n_labelled = len(step.labelled)
    return SemiRows(
        log_mel,
        lambda logits: soft_guess_loss(logits[n_labelled:], target[n_labelled:], step.kind),
        lambda logits: label_loss(logits[:n_labelled], target[:n_labelled], step.kind),
    )


def _remixmatch(step: SemiStep) -> SemiRows:
    assert step.shares is not None
    weak = step.weak_views()
    guess = step.guess(step.student, weak)
    aligned = sharpen(step.shares.align(guess), step.spec.temperature)
    step.shares.follow(guess)
    strong = [step.strong_view() for _ in range(step.spec.n_strong)]
    mixed, target = _mix_all(step, [*strong, *weak], aligned)
    n_labelled, n_mixed = len(step.labelled), len(mixed)

    def semi_loss(logits: torch.Tensor) -> torch.Tensor:
        unmixed = label_loss(logits[n_mixed:], aligned, step.kind)
        return label_loss(logits[n_labelled:n_mixed], target[n_labelled:], step.kind) + _UNMIXED_WEIGHT * unmixed

    return SemiRows(
        torch.cat([mixed, strong[0]]),
        semi_loss,
        lambda logits: label_loss(logits[:n_labelled], target[:n_labelled], step.kind),
    )


def _mix_all(step: SemiStep, views: list[torch.Tensor], guess: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(windows, targets): the labelled ones, then each view with `guess`, every one mixed with another of all."""
    log_mel = torch.cat([step.labelled, *views])
    target = torch.cat([step.target, *[guess] * len(views)])
    other = torch.from_numpy(step.rng.permutation(len(log_mel)))
    shares = mixing_shares(step.rng, step.spec.mix_alpha, len(log_mel))
    return mix(log_mel, log_mel[other], shares), mix(target, target[other], shares)


@dataclass(frozen=True)
class Method:
    """One entry of `METHODS`.

    `weight` of cross-entropies is the papers'. That of squared errors is theirs (100 and 75 for the mean over
    10 classes, so 10 and 7.5 for our sum) lowered, for a rise over hundreds of steps where they had tens of
    thousands. `mixes_labels`: its label loss replaces the term.
    """

    rows: Callable[[SemiStep], SemiRows]
    weight: float
    weak_views: int = 1
    multi_label: bool = False
    mixes_labels: bool = False
    aligns: bool = False


METHODS: dict[str, Method] = {
    "fixmatch": Method(_fixmatch, weight=1.0, multi_label=True),
    "mean-teacher": Method(_mean_teacher, weight=3.0, multi_label=True),
    "mixmatch": Method(_mixmatch, weight=1.0, weak_views=2, mixes_labels=True),
    "remixmatch": Method(_remixmatch, weight=1.5, mixes_labels=True, aligns=True),
}


class SemiLearner(nn.Module):
    """One method at work on one task; its running averages are buffers.

    Args:
        labels: the targets of all labelled windows that hold a class, `(windows, classes)`.
        steps: of the whole training, for the rise of the weight.
    Raises:
        ConfigError: the task is multi-label and the method guesses one class.
    """

    def __init__(
        self, spec: SemiSpec, labels: torch.Tensor, *, kind: TaskKind, frontend: FrontendSpec, steps: int
    ) -> None:
        super().__init__()
        self.spec, self.kind, self.frontend, self.steps = spec, kind, frontend, steps
        self.method = METHODS[spec.method]
        if kind == "multi_label" and not self.method.multi_label:
            able = " or ".join(name for name, method in METHODS.items() if method.multi_label)
            raise ConfigError(
                f"train.semi.method: {spec.method} guesses one class per window, and this task is multi-label. "
                f"Use {able}."
            )
        self.shares = ClassShares(labels.mean(dim=0)) if self.method.aligns else None

    def weight(self, step: int) -> float:
        """Of the method's loss at this step, 0-based."""
        rise = self.spec.ramp_share * self.steps
        return self.spec.full_weight * min(1.0, (step + 1) / max(rise, 1.0))

    def rows(
        self,
        networks: tuple[nn.Module, nn.Module],
        labelled: tuple[torch.Tensor, torch.Tensor],
        unlabelled: tuple[torch.Tensor, torch.Tensor],
        rng: np.random.Generator,
    ) -> SemiRows:
        """What the method adds to this step; all randomness comes from `rng`.

        Args:
            networks: the student, and the averaged student.
            labelled: augmented windows `(l, frames, n_mels)` and targets `(l, classes)`.
            unlabelled: windows as they are `(u, frames, n_mels)` and whether each is silent `(u,)`, bool.
        """
        step = SemiStep(
            self.spec,
            self.kind,
            self.frontend,
            *networks,
            self.shares,
            *labelled,
            *unlabelled,
            rng,
            torch.Generator().manual_seed(int(rng.integers(2**62))),
        )
        return self.method.rows(step)
