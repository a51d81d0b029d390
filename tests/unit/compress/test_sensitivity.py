"""Per-layer sensitivity and accuracy control, on a student with one layer that int8 ruins."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from edgeaudio.compress import ptq as ptq_module
from edgeaudio.compress import sensitivity as sensitivity_module
from edgeaudio.compress.layers import weighted_layers
from edgeaudio.compress.sensitivity import ControlledQuantisation, quantise_with_control, sensitivity
from edgeaudio.errors import ConfigError, DataError, ShapeError, VerificationError
from tests.tiny_student import CLASSES, logits, tiny_student, windows

BAD = "collapse.1.0"
N_EVALUATION = 192


@pytest.fixture(autouse=True)
def _without_equalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would mend what is planted here."""
    monkeypatch.setattr(ptq_module, "equalise", lambda graph, calibration: 0)


@functools.cache
def planted() -> nn.Module:
    """A weight 100,000 times the others in each channel of one layer, on an input that is always 0.

    In float it changes nothing; in int8 the scale must hold it, and the other weights round to 0. The head's bias
    is moved so that every class wins somewhere.
    """
    student = copy.deepcopy(tiny_student())
    with torch.no_grad():
        norm, conv = student.get_submodule("collapse.0.1"), student.get_submodule(BAD)
        norm.weight[0] = norm.bias[0] = 0.0  # type: ignore[operator]
        conv.weight[:, 0] = 1e5 * conv.weight.abs().max()  # type: ignore[operator]
        student.head.bias -= logits(student, windows(512, seed=2)).mean(0)  # type: ignore[union-attr, operator]
    return student


@functools.cache
def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of which the float student is sure (random weights answer most by a hair), and its own answers."""
    evaluation = windows(512, seed=2)
    given = logits(planted(), evaluation)
    best = given.topk(2, dim=1).values
    sure = (best[:, 0] - best[:, 1]).argsort(descending=True)[:N_EVALUATION]
    return evaluation[sure], nn.functional.one_hot(given[sure].argmax(1), CLASSES).float()


@functools.cache
def controlled() -> ControlledQuantisation:
    return quantise_with_control(planted(), windows(64), *labelled(), 0.1)


@pytest.mark.parametrize("max_drop", [-0.01, 1.0, 2.0])
def test_a_drop_that_cannot_be_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match="max_drop is"):
        quantise_with_control(tiny_student(), windows(64), windows(1), torch.eye(CLASSES)[:1], max_drop)


def test_windows_and_targets_must_fit_and_show_two_classes() -> None:
    with pytest.raises(ShapeError, match="wanted float32"):
        sensitivity(tiny_student(), windows(64), windows(8), torch.zeros(3, CLASSES))
    one_class = torch.eye(CLASSES)[:1].repeat(8, 1)
    with pytest.raises(DataError, match="fewer than two classes"):
        quantise_with_control(tiny_student(), windows(64), windows(8), one_class, 0.1)


def test_calibration_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="one class"):
        sensitivity(
            tiny_student(), windows(64), windows(8), torch.zeros(8, CLASSES), calibration_targets=torch.zeros(64)
        )


@pytest.mark.slow
def test_the_planted_layer_ranks_first_and_the_same_every_time() -> None:
    ranking = sensitivity(planted(), windows(64), *labelled())
    assert sorted(item.layer for item in ranking) == sorted(weighted_layers(planted()))
    assert ranking[0].layer == BAD
    # Far from the rest: the others are what int8 costs any layer.
    assert ranking[0].sqnr_db + 6 < ranking[1].sqnr_db, ranking
    assert ranking[0].drop > 0.2 > 0.05 >= ranking[1].drop
    assert sensitivity(planted(), windows(64), *labelled()) == ranking


@pytest.mark.slow
def test_control_leaves_just_the_planted_layer_float() -> None:
    result = controlled()
    assert result.kept_float == result.student.keep_float == (BAD,)
    assert result.float_metric == 1.0
    assert result.history[0] < 0.8
    assert result.history[-1] == result.metric >= 0.9
    assert result.drop <= 0.1


@pytest.mark.slow
def test_control_that_needs_too_many_float_layers_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_module, "MAX_FLOAT_SHARE", 0.01)
    with pytest.raises(VerificationError, match=r"max_drop is 0\.1: 0 of 18 layers.*method qat"):
        quantise_with_control(planted(), windows(64), *labelled(), 0.1)
