"""The loss terms by hand-computed numbers, their invariances, and the table they stand in."""

from __future__ import annotations

import math

import pytest
import torch

from edgeaudio.distill.losses import (
    TERMS,
    LossWeights,
    Outcome,
    cosine_loss,
    relational_angle_loss,
    relational_distance_loss,
    weighted_losses,
)
from tests.tolerances import TORCH_SAME_SUMS

OFF = dict.fromkeys(TERMS, 0.0)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(dim: int) -> torch.Tensor:
    return torch.linalg.qr(randn(dim, dim, seed=9)).Q


def losses_of(outcome: Outcome, **weights: float) -> dict[str, torch.Tensor]:
    chosen = LossWeights(**{**OFF, **weights})
    return weighted_losses(outcome, chosen, chosen.used_terms)


def outcome(kind: str = "single_label", n: int = 6, exits: int = 2) -> Outcome:
    """Every tensor a leaf that asks for a gradient, so that a test can see where it flows."""
    target = torch.eye(3)[torch.arange(n - 2) % 3]
    wanted = {
        "target": target,
        "teacher_logits": randn(n, 3, seed=1).requires_grad_(),
        "embedding": randn(n, 5, seed=2).requires_grad_(),
        "foundation_logits": randn(n, 4, seed=3).requires_grad_(),
    }
    embedding = randn(n, 4, seed=4).requires_grad_()
    projected = {
        "embedding": embedding @ randn(4, 5, seed=5),
        "foundation_logits": embedding @ randn(4, 4, seed=6),
    }
    logits = randn(n, 3, seed=7).requires_grad_()
    early = tuple(randn(n, 3, seed=20 + i).requires_grad_() for i in range(exits))
    return Outcome(kind, logits, embedding, wanted, projected, early)  # type: ignore[arg-type]


def test_every_term_has_a_weight_and_every_default_is_the_one_of_old() -> None:
    assert set(TERMS) <= set(LossWeights.model_fields)
    assert list(LossWeights().used_terms) == ["labels", "logits", "embedding"]
    assert LossWeights().embedding_kind == "mse"
    assert not LossWeights(labels=1, logits=0, embedding=0, exit_labels=1, exit_final=1).uses_teacher
    for name in ("relational_distance", "relational_angle", "exit_teacher"):
        assert LossWeights(**{**OFF, name: 1.0}).uses_teacher, name


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_linear_in_its_weight_and_teaches_the_student_alone(name: str, kind: str) -> None:
    what = outcome(kind)
    losses = losses_of(what, **{name: 2.0})
    assert list(losses) == [name]
    assert losses[name].item() == pytest.approx(2 * losses_of(what, **{name: 1.0})[name].item())
    assert losses[name] > 0
    inputs = [what.logits, what.embedding, *what.exits]
    gradients = torch.autograd.grad(losses[name], inputs, allow_unused=True)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    if "exits" in TERMS[name].needs:
        assert gradients[0] is None, "the final exit must stand still while it teaches"
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[2:])


def test_cosine_by_hand_and_blind_to_length() -> None:
    embedding = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-2.0, 0.0]])
    wanted = torch.tensor([[0.0, 5.0], [6.0, 8.0], [1.0, 0.0]])
    torch.testing.assert_close(cosine_loss(embedding, wanted), torch.tensor((1 + 0 + 2) / 3), **TORCH_SAME_SUMS)
    torch.testing.assert_close(cosine_loss(7 * embedding, wanted), cosine_loss(embedding, wanted), **TORCH_SAME_SUMS)


def test_the_embedding_kind_decides_the_embedding_term() -> None:
    what = outcome()
    squares = ((what.projected["embedding"] - what.wanted["embedding"]) ** 2).mean()
    torch.testing.assert_close(losses_of(what, embedding=1)["embedding"], squares, **TORCH_SAME_SUMS)
    weights = LossWeights(**{**OFF, "embedding": 1.0, "embedding_kind": "cosine"})
    cosine = weighted_losses(what, weights, weights.used_terms)["embedding"]
    wanted = cosine_loss(what.projected["embedding"], what.wanted["embedding"])
    torch.testing.assert_close(cosine, wanted, **TORCH_SAME_SUMS)


def test_relational_distance_by_hand() -> None:
    # Distances 3, 4, 5 (mean 4) against 1, 1, sqrt(2) (mean (2 + sqrt(2)) / 3).
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mean = (2 + math.sqrt(2)) / 3
    pairs = ((3 / 4, 1 / mean), (4 / 4, 1 / mean), (5 / 4, math.sqrt(2) / mean))
    by_hand = torch.tensor(sum(0.5 * (a - b) ** 2 for a, b in pairs) / 3)
    torch.testing.assert_close(relational_distance_loss(student, teacher), by_hand, **TORCH_SAME_SUMS)


def test_relational_angle_by_hand() -> None:
    # Cosines at the corners: 0, 3/5, 4/5 against 0, 1/sqrt(2), 1/sqrt(2); each is met twice (i-j-k and k-j-i).
    student = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    half = 1 / math.sqrt(2)
    by_hand = torch.tensor((0.5 * (0.6 - half) ** 2 + 0.5 * (0.8 - half) ** 2) / 3)
    torch.testing.assert_close(relational_angle_loss(student, teacher), by_hand, **TORCH_SAME_SUMS)


@pytest.mark.parametrize("loss", [relational_distance_loss, relational_angle_loss])
def test_relations_do_not_see_scale_rotation_or_place(loss) -> None:
    student, teacher = randn(9, 4), randn(9, 6, seed=1)
    given = loss(student, teacher)
    assert given > 0
    moved = loss(3.7 * student @ rotation(4) + 2, 0.2 * teacher @ rotation(6) - 1)
    torch.testing.assert_close(moved, given, **TORCH_SAME_SUMS)
    same = loss(5 * teacher @ rotation(6), teacher)
    torch.testing.assert_close(same, torch.tensor(0.0), **TORCH_SAME_SUMS)


@pytest.mark.parametrize("loss", [relational_distance_loss, relational_angle_loss])
@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [0, 0, 0], [0], [0, 1]])
def test_relations_of_windows_that_coincide_or_stand_alone_have_finite_gradients(loss, rows: list[int]) -> None:
    points = randn(3, 4)[rows].requires_grad_()
    value = loss(points, randn(len(rows), 6, seed=1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(points.grad).all()


def test_many_windows_are_thinned_before_triplets_are_made() -> None:
    student, teacher = randn(130, 4), randn(130, 6, seed=1)
    what = Outcome("single_label", randn(130, 3), student, {"embedding": teacher})
    thinned = relational_angle_loss(student[::3], teacher[::3])
    torch.testing.assert_close(losses_of(what, relational_angle=1)["relational_angle"], thinned, **TORCH_SAME_SUMS)


def test_exits_are_taught_by_labels_teacher_and_final_exit_by_hand() -> None:
    three = math.log(3.0)
    logits, teacher = torch.tensor([[three, 0.0]]), torch.tensor([[0.0, three]])
    exits = (torch.tensor([[0.0, 0.0]]), torch.tensor([[three, 0.0]]))
    what = Outcome(
        "single_label",
        logits,
        torch.zeros(1, 2),
        {"target": torch.tensor([[1.0, 0.0]]), "teacher_logits": teacher},
        exits=exits,
    )
    losses = losses_of(what, exit_labels=1, exit_teacher=1, exit_final=1, temperature=1.0)
    to_even = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    to_turned = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    by_hand = {
        "exit_labels": (math.log(2) + math.log(4 / 3)) / 2,
        "exit_teacher": (to_even + to_turned) / 2,
        "exit_final": to_even / 2,
    }
    assert list(losses) == list(by_hand)
    for name, value in by_hand.items():
        torch.testing.assert_close(losses[name], torch.tensor(value), **TORCH_SAME_SUMS)


def test_exits_of_multi_label_tasks_use_binary_losses() -> None:
    what = Outcome(
        "multi_label",
        torch.tensor([[0.0, 0.0]]),
        torch.zeros(1, 2),
        {"target": torch.tensor([[1.0, 1.0]]), "teacher_logits": torch.tensor([[0.0, 0.0]])},
        exits=(torch.tensor([[0.0, math.log(3.0)]]),),
    )
    losses = losses_of(what, exit_labels=1, exit_teacher=1, exit_final=1, temperature=1.0)
    taught = (math.log(2) + 0.5 * (math.log(4 / 3) + math.log(4))) / 2
    by_hand = {"exit_labels": (math.log(2) + math.log(4 / 3)) / 2, "exit_teacher": taught, "exit_final": taught}
    for name, value in by_hand.items():
        torch.testing.assert_close(losses[name], torch.tensor(value), **TORCH_SAME_SUMS)
