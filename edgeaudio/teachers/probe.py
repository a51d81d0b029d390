"""A linear head on frozen embeddings: multinomial or per-class logistic regression with L2."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from edgeaudio.errors import DataError, ShapeError, VerificationError
from edgeaudio.spec import TaskSpec
from edgeaudio.spec.fs import atomic_write
from edgeaudio.spec.limits import check_limit
from edgeaudio.teachers.weights import CHECKPOINT_BYTES, generator_untouched, load_strictly

logger = logging.getLogger(__name__)

_MAX_ITERATIONS = 1000
_GRADIENT_TOLERANCE = 1e-7


class LinearHead(nn.Module):
    """`logits = linear((embedding - mean) / std)`, with the statistics of the training embeddings."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("std", torch.ones(embedding_dim))
        self.linear = nn.Linear(embedding_dim, classes)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """`(batch, embedding_dim)` -> `(batch, classes)`."""
        return cast(torch.Tensor, self.linear((embedding - self.mean) / self.std))

    def save(self, path: Path) -> None:
        """Write the four tensors as safetensors, atomically."""
        atomic_write(path, save_tensors({k: v.contiguous() for k, v in self.state_dict().items()}))

    @classmethod
    def load(cls, path: Path) -> LinearHead:
        """Read what `save` wrote.

        Raises:
            DataError: the file is absent.
            VerificationError: not a linear head, or damaged.
        """
        state = read_safetensors(path)
        weight = state.get("linear.weight")
        if weight is None or weight.ndim != 2:
            raise VerificationError(f"{path}: no linear head in it (tensors: {sorted(state)[:8]})")
        with generator_untouched():
            head = cls(weight.shape[1], weight.shape[0])
        load_strictly(head, state, str(path))
        return head


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DataError: the file is absent.
        VerificationError: malformed.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    check_limit(f"size of {path} in bytes", path.stat().st_size, CHECKPOINT_BYTES)
    try:
        return load_tensors(path.read_bytes())
    except SafetensorError as error:
        raise VerificationError(f"{path}: not a safetensors file: {error}") from error


def check_targets(targets: torch.Tensor, n_examples: int, task: TaskSpec) -> None:
    """Raise `ShapeError` or `DataError` unless `targets` fit the task.

    Single-label: `(n,)` class indices. Multi-label: `(n, classes)` in [0, 1].
    """
    classes = len(task.labels)
    wanted: tuple[int, ...] = (n_examples,) if task.kind == "single_label" else (n_examples, classes)
    if n_examples == 0 or tuple(targets.shape) != wanted:
        raise ShapeError(f"targets have shape {tuple(targets.shape)}, wanted {wanted} for {task.kind}, not empty")
    if task.kind == "single_label" and targets.is_floating_point():
        raise ShapeError(f"targets are {targets.dtype}, wanted class indices (integers)")
    top = classes - 1 if task.kind == "single_label" else 1
    if not bool(((targets >= 0) & (targets <= top)).all()):  # also refuses NaN
        raise DataError(f"targets outside 0 to {top}")


def fit_head(embeddings: torch.Tensor, targets: torch.Tensor, task: TaskSpec, *, c: float = 0.01) -> LinearHead:
    """Fit a `LinearHead`; deterministic, full batch, float64.

    Minimises `c * sum(loss) + |weight|**2 / 2` on standardised embeddings, bias free of the penalty
    (scikit-learn's convention). The loss is softmax cross-entropy, or per class binary for multi-label.

    Args:
        embeddings: `(n, dim)`, of training examples only.
        targets: `(n,)` class indices, or `(n, classes)` in [0, 1] for multi-label.
    Raises:
        ShapeError, DataError: wrong shapes, targets outside the task, or embeddings with NaN or infinity.
    """
    if embeddings.ndim != 2:
        raise ShapeError(f"embeddings have shape {tuple(embeddings.shape)}, wanted (n, dim)")
    if not bool(torch.isfinite(embeddings).all()):
        raise DataError("embeddings hold NaN or infinity")
    if not c > 0:
        raise DataError(f"c is {c}, wanted above 0")
    check_targets(targets, len(embeddings), task)
    x = embeddings.detach().cpu().double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    # A constant feature carries nothing; dividing by its rounding noise would make it huge.
    std = torch.where(std > 1e-9, std, torch.ones_like(std))
    weight, bias = _minimise((x - mean) / std, targets.detach().cpu(), task, c)
    with generator_untouched():
        head = LinearHead(x.shape[1], len(task.labels))
    tensors = {"mean": mean, "std": std, "linear.weight": weight, "linear.bias": bias}
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.eval().requires_grad_(False)


def _minimise(x: torch.Tensor, targets: torch.Tensor, task: TaskSpec, c: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(classes, dim)` and bias `(classes,)` at the minimum, by L-BFGS from zero."""
    classes = len(task.labels)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        max_eval=2 * _MAX_ITERATIONS,
        history_size=20,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = x @ weight.T + bias
        if task.kind == "single_label":
            loss = nn.functional.cross_entropy(logits, targets.long(), reduction="sum")
        else:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, targets.double(), reduction="sum")
        total = c * loss + 0.5 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.enable_grad():
        closure()
    gradient = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    if gradient > 1e-3:
        logger.warning("the linear head did not converge: largest gradient %.1e", gradient)
    return weight.detach(), bias.detach()
