"""The streamable CNN: valid in time, sized by one dial, cost computed right."""

import pytest
import torch

from edgeaudio.errors import ConfigError
from edgeaudio.spec import FrontendSpec, WindowSpec
from edgeaudio.students.cost import count_macs, student_cost
from edgeaudio.students.dscnn import DSCNN
from tests.tolerances import TORCH_SAME_SUMS


def trunk(student: DSCNN, log_mel: torch.Tensor) -> torch.Tensor:
    """Output steps before pooling, `(batch, channels, steps)`."""
    x = student.stem(log_mel.unsqueeze(1))
    for stage in student.stages:
        x = stage(x)
    return student.collapse(x).squeeze(3)


def randomised(student: torch.nn.Module) -> torch.nn.Module:
    """Non-trivial batch-norm statistics, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return student.eval()


@pytest.mark.parametrize("time_stride", [2, 4])
@torch.no_grad()
def test_a_longer_input_computes_the_same_output_steps_as_its_windows(time_stride):
    student = randomised(DSCNN(5, width=8, time_stride=time_stride))
    frames = student.receptive_field_frames
    log_mel = torch.randn(1, frames + 6 * student.time_stride_frames, 64, generator=torch.Generator().manual_seed(0))
    whole = trunk(student, log_mel)
    assert whole.shape[2] == 7
    for step in range(7):
        start = step * student.time_stride_frames
        alone = trunk(student, log_mel[:, start : start + frames])
        torch.testing.assert_close(alone[:, :, 0], whole[:, :, step], **TORCH_SAME_SUMS)


@torch.no_grad()
def test_no_frame_outside_the_receptive_field_matters():
    student = randomised(DSCNN(5, width=8))
    field = student.receptive_field_frames
    log_mel = torch.randn(1, field + 4, 64, generator=torch.Generator().manual_seed(0))
    changed = log_mel.clone()
    changed[:, field:] += 10
    torch.testing.assert_close(trunk(student, changed)[..., 0], trunk(student, log_mel)[..., 0], **TORCH_SAME_SUMS)
    changed = log_mel.clone()
    changed[:, field - 1] += 100
    assert not torch.equal(trunk(student, changed)[..., 0], trunk(student, log_mel)[..., 0])


def test_the_dial_spans_six_to_five_hundred_thousand_parameters():
    sizes = [sum(p.numel() for p in DSCNN(10, width=width).parameters()) for width in (8, 32, 82)]
    assert 6_000 <= sizes[0] <= 8_000
    assert 75_000 <= sizes[1] <= 90_000
    assert 490_000 <= sizes[2] <= 520_000


def test_macs_of_one_convolution_are_counted_by_hand():
    layer = torch.nn.Conv2d(2, 4, (3, 3), groups=2, bias=False)
    assert count_macs(layer, torch.zeros(1, 2, 10, 8)) == 4 * 8 * 6 * 9 * 1


@pytest.mark.parametrize(
    ("options", "field"),
    [({"width": 3}, "width"), ({"width": 9}, "width"), ({"time_stride": 3}, "time_stride"), ({"n_mels": 40}, "n_mels")],
)
def test_a_size_the_family_lacks_is_refused_by_field(options, field):
    with pytest.raises(ConfigError, match=field):
        DSCNN(10, **options)


def test_a_window_that_leaves_a_rest_is_refused_with_the_nearest_ones():
    with pytest.raises(ConfigError, match="use 99 or 103"):
        student_cost(DSCNN(10), FrontendSpec(), WindowSpec(frames=100))
    with pytest.raises(ConfigError, match=r"window\.frames is 20"):
        student_cost(DSCNN(10), FrontendSpec(), WindowSpec(frames=20))
    with pytest.raises(ConfigError, match=r"hop_frames is 10.*multiple of 4"):
        student_cost(DSCNN(10), FrontendSpec(), WindowSpec(hop_frames=10))
