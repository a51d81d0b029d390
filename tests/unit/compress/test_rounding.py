"""Rounding never does worse than to the nearest step, and the quantiser finds its own grid again."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgeaudio.compress.rounding import _coordinate_descent, round_weights

aten = torch.ops.aten


def exported(module: nn.Module, example: torch.Tensor) -> torch.fx.GraphModule:
    # An exported graph shares its weights with the module.
    return torch.export.export(copy.deepcopy(module).eval(), (example,)).module()  # type: ignore[return-value]


class Layers(nn.Module):
    """One layer of each kind, on what looks like log-mel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, (3, 5), stride=2, padding=(0, 2))
        self.depthwise = nn.Conv2d(6, 6, 3, padding=(0, 1), groups=6)
        self.point = nn.Conv2d(6, 8, 1, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.depthwise(torch.relu(self.stem(log_mel.unsqueeze(1)))))
        return self.head(self.point(hidden).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def layers() -> Layers:
    torch.manual_seed(3)
    return Layers()


def level_and_texture(count: int) -> torch.Tensor:
    """Windows whose level is much louder than what tells them apart, as of log-mel."""
    generator = torch.Generator().manual_seed(4)
    return 3 + torch.randn(count, 1, 1, generator=generator) + 0.3 * torch.randn(count, 20, 16, generator=generator)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 12), groups=st.integers(1, 3))
def test_coordinate_descent_is_never_worse_than_the_nearest(seed: int, n: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = 127 * (2 * torch.rand(groups, 5, n, generator=generator, dtype=torch.float64) - 1)
    rows[:, :, 0] = 127.0
    seen = torch.randn(groups, n, 3 * n, generator=generator, dtype=torch.float64) + 2
    power = seen @ seen.transpose(1, 2)

    def error(steps: torch.Tensor) -> torch.Tensor:
        wrong = steps - rows
        return ((wrong @ power) * wrong).sum(dim=2)

    found = _coordinate_descent(rows, power)
    assert torch.equal(found, found.round())
    assert torch.equal(found[:, :, 0], rows[:, :, 0])
    assert bool((found.abs() <= 127).all())
    nearest = error(rows.round())
    assert bool((error(found) <= nearest * (1 + 1e-9) + 1e-9).all())


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_lie_on_the_grid_that_a_quantiser_makes_of_them(per_channel: bool) -> None:
    calibration = level_and_texture(32)
    graph = exported(layers(), calibration[:1])
    round_weights(graph, calibration, per_channel=per_channel)
    for name, weight in graph.named_parameters():
        if not name.endswith("weight"):
            continue
        dims = tuple(range(1, weight.ndim)) if per_channel else tuple(range(weight.ndim))
        step = weight.abs().amax(dim=dims, keepdim=True) / 127
        assert torch.allclose(weight / step, (weight / step).round(), atol=1e-3)


def test_answers_are_nearer_than_with_the_nearest_steps() -> None:
    network, calibration = layers(), level_and_texture(256)
    nearest = layers()
    with torch.no_grad():
        for module in nearest.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                step = module.weight.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (module.weight.ndim - 1)) / 127
                module.weight.copy_((module.weight / step).round() * step)
        graph = exported(network, calibration[:1])
        wanted, plain = network(calibration), nearest(calibration)
        round_weights(graph, calibration)
        found = torch.cat([graph(window[None]) for window in calibration])
    assert (found - wanted).square().mean() < 0.25 * (plain - wanted).square().mean()


def test_declared_float_layers_keep_their_weights() -> None:
    network, calibration = layers(), level_and_texture(32)
    graph = exported(network, calibration[:1])
    round_weights(graph, calibration, keep_float=["stem"])
    kept = dict(graph.named_parameters())
    assert torch.equal(kept["stem.weight"], network.stem.weight)
    assert torch.equal(kept["stem.bias"], network.stem.bias)
    assert not torch.equal(kept["head.weight"], network.head.weight)


def test_a_layer_of_zeros_stays_zero() -> None:
    network, calibration = layers(), level_and_texture(32)
    with torch.no_grad():
        network.depthwise.weight[2] = 0.0
    graph = exported(network, calibration[:1])
    round_weights(graph, calibration)
    weight = dict(graph.named_parameters())["depthwise.weight"]
    assert bool(weight.isfinite().all())
    assert not weight[2].any()
