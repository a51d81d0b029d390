"""Loss terms, batch order and augmentation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.distill.augment import FeatureAugmentSpec, augment_log_mel
from edgeaudio.distill.losses import label_loss, logit_distillation_loss
from edgeaudio.distill.module import BatchOrder
from edgeaudio.spec import FrontendSpec
from tests.tolerances import TORCH_SAME_SUMS


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_the_teachers_own_logits_are_the_minimum(kind):
    teacher = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    logits = teacher.clone().requires_grad_()
    logit_distillation_loss(logits, teacher, 3.0, kind).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(teacher), **TORCH_SAME_SUMS)
    moved = logit_distillation_loss(teacher + torch.tensor([1.0, 0, 0, 0, 0]), teacher, 3.0, kind)
    assert moved > logit_distillation_loss(teacher, teacher, 3.0, kind)


def test_single_label_distillation_is_kl_by_hand():
    logits, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[float(np.log(3.0)), 0.0]])
    p = torch.tensor([0.75, 0.25])
    by_hand = (p * (p / 0.5).log()).sum()
    torch.testing.assert_close(
        logit_distillation_loss(logits, teacher, 1.0, "single_label"), by_hand, **TORCH_SAME_SUMS
    )


def test_temperature_keeps_the_size_of_gradients():
    teacher = torch.tensor([[0.3, -0.2, 0.1]])
    gradients = []
    for temperature in (2.0, 8.0):
        logits = torch.zeros(1, 3, requires_grad=True)
        logit_distillation_loss(logits, teacher, temperature, "single_label").backward()
        gradients.append(logits.grad.norm())
    assert gradients[1] / gradients[0] == pytest.approx(1, rel=0.05)


def test_label_loss_is_cross_entropy_or_binary():
    logits, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.7, 0.3]])
    by_hand = -(target * logits.log_softmax(1)).sum()
    torch.testing.assert_close(label_loss(logits, target, "single_label"), by_hand, **TORCH_SAME_SUMS)
    assert label_loss(logits, target, "multi_label") != by_hand


@given(size=st.integers(1, 300), batch=st.integers(1, 64), split=st.integers(0, 40), seed=st.integers(0, 99))
def test_batch_order_is_shuffled_passes_wherever_it_starts(size, batch, split, seed):
    whole = np.concatenate(list(BatchOrder(size, batch, seed, 0, 41, stream=1)))
    resumed = [*BatchOrder(size, batch, seed, 0, split, stream=1), *BatchOrder(size, batch, seed, split, 41 - split, 1)]
    np.testing.assert_array_equal(whole, np.concatenate(resumed))
    for number in range(len(whole) // size):
        assert sorted(whole[number * size : (number + 1) * size]) == list(range(size))


def test_augmentation_is_a_function_of_its_generator_and_leaves_silence_silent():
    frontend, spec = FrontendSpec(), FeatureAugmentSpec()
    floor = float((np.log(frontend.log_floor) + frontend.offset) * frontend.scale)
    log_mel = torch.randn(4, 99, 64, generator=torch.Generator().manual_seed(3))
    one = augment_log_mel(log_mel, spec, frontend, torch.Generator().manual_seed(1))
    again = augment_log_mel(log_mel, spec, frontend, torch.Generator().manual_seed(1))
    other = augment_log_mel(log_mel, spec, frontend, torch.Generator().manual_seed(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    silence = torch.full((2, 99, 64), floor)
    quieter = FeatureAugmentSpec(gain_db=0, filter_db=3)
    result = augment_log_mel(silence, quieter, frontend, torch.Generator().manual_seed(0))
    assert result.min() >= floor - 1e-6


def test_masks_are_no_wider_than_asked_and_gain_is_in_decibels():
    frontend = FrontendSpec()
    only_masks = FeatureAugmentSpec(gain_db=0, filter_db=0, roll=False, frequency_mask=5, time_mask=7)
    log_mel = torch.arange(99 * 64, dtype=torch.float32).reshape(1, 99, 64) / 1000
    for seed in range(20):
        changed = augment_log_mel(log_mel, only_masks, frontend, torch.Generator().manual_seed(seed)) != log_mel
        assert changed.any(dim=1).sum() <= 64
        assert changed.all(dim=1).sum() <= 5
        assert changed.all(dim=2).sum() <= 7
    only_gain = FeatureAugmentSpec(gain_db=6, filter_db=0, roll=False, frequency_mask=0, time_mask=0)
    moved = augment_log_mel(log_mel, only_gain, frontend, torch.Generator().manual_seed(0)) - log_mel
    largest = 6 * np.log(10) / 10 * frontend.scale
    assert moved.max() - moved.min() < 1e-4
    assert 0 < moved.abs().max() <= largest
