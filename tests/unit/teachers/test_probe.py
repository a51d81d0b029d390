"""The linear head is the minimum of the objective it documents, and survives the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp

from edgeaudio.errors import DataError, ShapeError, VerificationError
from edgeaudio.spec import LabelSet, TaskSpec
from edgeaudio.teachers.adapt import LinearHead, fit_head

SINGLE = TaskSpec(labels=LabelSet(names=("a", "b", "c")))
MULTI = TaskSpec(kind="multi_label", labels=LabelSet(names=("a", "b", "c")))


def examples(task: TaskSpec) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 1] + [0, 100, 0, -5, 2]
    scores = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(5, 3)) + rng.normal(size=(60, 3))
    targets = scores.argmax(1) if task.kind == "single_label" else (scores > 0).astype(np.float32)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(targets)


def objective(flat: np.ndarray, x: np.ndarray, targets: np.ndarray, task: TaskSpec, c: float) -> float:
    """The documented objective, written again in numpy."""
    weight, bias = flat[:15].reshape(3, 5), flat[15:]
    z = (x - x.mean(0)) / x.std(0)
    logits = z @ weight.T + bias
    if task.kind == "single_label":
        loss = (logsumexp(logits, axis=1) - logits[np.arange(len(x)), targets]).sum()
    else:
        loss = -(targets * log_expit(logits) + (1 - targets) * log_expit(-logits)).sum()
    return float(c * loss + 0.5 * (weight**2).sum())


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("c", [0.01, 1.0])
def test_head_is_the_minimum_that_another_solver_finds(task: TaskSpec, c: float) -> None:
    x, targets = examples(task)
    head = fit_head(x, targets, task, c=c)
    arrays = (x.double().numpy(), targets.numpy(), task, c)
    other = minimize(objective, np.zeros(18), arrays, method="BFGS", options={"gtol": 1e-6})
    # Softmax leaves the common part of the biases free; the logits' differences are what counts.
    bias = head.linear.bias.double().numpy()
    other_bias = other.x[15:]
    if task.kind == "single_label":
        bias, other_bias = bias - bias.mean(), other_bias - other_bias.mean()
    np.testing.assert_allclose(head.linear.weight.double().numpy(), other.x[:15].reshape(3, 5), atol=1e-4)
    np.testing.assert_allclose(bias, other_bias, atol=1e-4)


def test_fit_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    x, targets = examples(SINGLE)
    before = torch.get_rng_state()
    first, second = (fit_head(x, targets, SINGLE).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_constant_features_do_no_harm() -> None:
    x, targets = examples(SINGLE)
    x = torch.cat([x, torch.full((60, 1), 7.0)], dim=1)
    head = fit_head(x, targets, SINGLE)
    assert torch.isfinite(head(x)).all()
    assert head.linear.weight[:, 5].abs().max() == 0


def test_a_class_without_examples_is_never_the_answer() -> None:
    x, targets = examples(SINGLE)
    seen = targets != 2
    head = fit_head(x[seen], targets[seen], SINGLE)
    assert head.linear.out_features == 3
    assert (head(x).argmax(1) != 2).all()


def test_save_and_load_give_the_same_head(tmp_path: Path) -> None:
    x, targets = examples(MULTI)
    head = fit_head(x, targets, MULTI)
    head.save(tmp_path / "head.safetensors")
    loaded = LinearHead.load(tmp_path / "head.safetensors")
    assert torch.equal(loaded(x), head(x))


def test_files_that_are_no_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        LinearHead.load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(VerificationError, match="not a safetensors file"):
        LinearHead.load(path)
    head = LinearHead(5, 3)
    head.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationError, match="not a safetensors file"):
        LinearHead.load(path)


@pytest.mark.parametrize(
    ("task", "embeddings", "targets", "error", "message"),
    [
        (SINGLE, torch.zeros(4), torch.zeros(4, dtype=torch.long), ShapeError, r"wanted \(n, dim\)"),
        (SINGLE, torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), ShapeError, r"wanted \(4,\)"),
        (SINGLE, torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), ShapeError, "not empty"),
        (SINGLE, torch.zeros(4, 5), torch.zeros(4), ShapeError, "class indices"),
        (SINGLE, torch.zeros(4, 5), torch.full((4,), 3), DataError, "outside 0 to 2"),
        (SINGLE, torch.zeros(4, 5), torch.full((4,), -1), DataError, "outside 0 to 2"),
        (SINGLE, torch.full((4, 5), torch.nan), torch.zeros(4, dtype=torch.long), DataError, "NaN"),
        (MULTI, torch.zeros(4, 5), torch.zeros(4, 2), ShapeError, r"wanted \(4, 3\)"),
        (MULTI, torch.zeros(4, 5), torch.full((4, 3), torch.nan), DataError, "outside 0 to 1"),
    ],
)
def test_unusable_examples_are_refused(
    task: TaskSpec, embeddings: torch.Tensor, targets: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_head(embeddings, targets, task)
