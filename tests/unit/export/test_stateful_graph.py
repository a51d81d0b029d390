"""The stateful form of a graph gives the logits of every window, whatever was heard before; misfits are refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from edgeaudio_export.stateful_graph import StatefulGraph, stateful_graph
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeaudio.compress.layers import fold_batch_norms
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import DSCNNSpec, MNSpec, TransformerSpec
from edgeaudio.students.transformer import Transformer
from tests.tiny_student import CLASSES, FRAMES, N_MELS, tiny_exits, tiny_quantised, tiny_student, with_statistics
from tests.tolerances import STATEFUL_FP32_RELATIVE


def exported(student: nn.Module, frames: int, n_mels: int = N_MELS) -> Any:
    return torch.export.export(fold_batch_norms(student), (torch.zeros(1, frames, n_mels),)).module()


@functools.cache
def tiny_graph() -> Any:
    return exported(tiny_student(), FRAMES)


@torch.no_grad()
def stream(stateful: StatefulGraph, log_mel: torch.Tensor) -> list[torch.Tensor]:
    """Logits of every whole window of `log_mel (frames, n_mels)`; window k starts at frame `k * step_frames`."""
    step = stateful.step_frames
    # What comes before the first window must not matter.
    lead_in = torch.full((-stateful.window_frames % step, log_mel.shape[1]), 1e3)
    fed = torch.cat([lead_in, log_mel])
    held = [[values] * state.phases for state, values in zip(stateful.states, stateful.initial(), strict=True)]
    answers = []
    for turn, end in enumerate(range(step, len(fed) + 1, step)):
        *following, logits = stateful.module(
            fed[None, end - step : end], *(phases[turn % len(phases)] for phases in held)
        )
        for phases, values in zip(held, following, strict=True):
            phases[turn % len(phases)] = values
        if end - len(lead_in) >= stateful.window_frames:
            answers.append(logits)
    return answers


def assert_streams(graph: Any, stateful: StatefulGraph, log_mel: torch.Tensor, *, relative: float) -> None:
    answers = stream(stateful, log_mel)
    frames, step = stateful.window_frames, stateful.step_frames
    with torch.no_grad():
        starts = range(0, len(log_mel) - frames + 1, step)
        wanted = torch.cat([graph(log_mel[None, start : start + frames]) for start in starts])
    assert len(answers) == len(wanted)
    assert (torch.cat(answers) - wanted).abs().max() <= relative * wanted.abs().max()


DSCNN_SPECS = st.builds(
    DSCNNSpec,
    width=st.just(4),
    blocks=st.tuples(*[st.integers(1, 2)] * 3),
    time_stride=st.sampled_from([2, 4]),
)
MN_SPECS = st.builds(
    MNSpec,
    blocks=st.integers(3, 6),
    embedding=st.just(8),
    time_strides=st.integers(1, 3),
    time_kernel=st.sampled_from([3, 5]),
    pointwise_from=st.integers(3, 6),
    activation=st.sampled_from(["relu", "hardswish"]),
    squeeze_steps=st.integers(0, 3),
)


def fits(step: int, stride: int) -> bool:
    """Whether a step goes with a student whose layers halve time up to `stride`."""
    return all(not step % part or not part % step for part in (2**n for n in range(stride.bit_length())))


@pytest.mark.slow
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(
    DSCNN_SPECS | MN_SPECS,
    st.integers(0, 21),
    st.sampled_from([1, 2, 4, 8, 16, 20, 24]),
    st.integers(1, 60),
    st.integers(0, 99),
)
def test_a_stream_gives_the_logits_of_every_window(
    spec: DSCNNSpec | MNSpec, more_frames: int, step: int, heard: int, seed: int
) -> None:
    torch.manual_seed(seed)
    n_mels = 16
    family: Any = DSCNN if isinstance(spec, DSCNNSpec) else MN
    student: Any = with_statistics(family.build(spec, CLASSES, n_mels=n_mels, frames=0))
    frames = student.receptive_field_frames + more_frames
    assume(step <= frames and fits(step, student.time_stride_frames))
    graph = exported(student, frames, n_mels)
    log_mel = torch.randn(frames + heard, n_mels)
    assert_streams(graph, stateful_graph(graph, step), log_mel, relative=STATEFUL_FP32_RELATIVE)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 4, 20])
def test_an_int8_stream_is_the_windowed_model_bit_for_bit(step: int) -> None:
    log_mel = torch.randn(FRAMES + 3 * step, N_MELS)
    for graph, integer in ((tiny_quantised().folded, True), (tiny_quantised().unfolded, False)):
        stateful = stateful_graph(graph, step, integer_states=integer)
        assert {state.dtype for state in stateful.states} == {"int8"}
        assert_streams(graph, stateful, log_mel, relative=0)


def test_a_student_with_exits_streams_its_final_answer() -> None:
    graph = exported(tiny_exits(), FRAMES)
    assert_streams(graph, stateful_graph(graph, 4), torch.randn(120, N_MELS), relative=STATEFUL_FP32_RELATIVE)


def test_states_begin_as_zeros_and_are_as_short_as_the_kernels_ask() -> None:
    stateful = stateful_graph(tiny_graph(), 4)
    assert all(not state.any() for state in stateful.initial())
    # Kernel 3 minus stride 2, and the frame at the end of a 99-frame window that the stem's grid leaves out: none.
    assert stateful.states[0].shape == (1, 1, N_MELS, 1)
    # A whole window of pooled steps but for the one that is new.
    assert stateful.states[-1].shape == (1, 13, 1, 48)


def test_steps_shorter_than_a_stride_take_turns_on_the_grids_of_deep_tensors() -> None:
    phases = [state.phases for state in stateful_graph(tiny_graph(), 2).states]
    assert phases[0] == 1
    assert phases[-1] == 2
    # Each grid is as long as it is with steps of whole strides.
    whole = stateful_graph(tiny_graph(), 4)
    assert {state.phases for state in whole.states} == {1}
    assert stateful_graph(tiny_graph(), 2).states[-1].shape == whole.states[-1].shape


def test_a_step_of_more_than_a_deep_tensor_holds_keeps_nothing_of_it() -> None:
    spec = MNSpec(blocks=6, embedding=8, time_strides=2)
    torch.manual_seed(0)
    student = with_statistics(MN.build(spec, CLASSES, n_mels=16, frames=0))
    frames = student.receptive_field_frames + 4
    graph = exported(student, frames, 16)
    stateful = stateful_graph(graph, 20)
    assert all(state.shape[1] > 0 for state in stateful.states)
    assert len(stateful.states) < len(stateful_graph(graph, 4).states)
    assert_streams(graph, stateful, torch.randn(frames + 40, 16), relative=STATEFUL_FP32_RELATIVE)


def test_the_graph_is_left_as_it_was() -> None:
    before = str(tiny_graph().graph)
    stateful_graph(tiny_graph(), 4)
    assert str(tiny_graph().graph) == before


@pytest.mark.parametrize(
    ("step", "message"), [(6, "use 1, 2 or a multiple of 4"), (0, "at least 1"), (100, "use the windowed form")]
)
def test_a_step_that_does_not_fit_is_refused(step: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stateful_graph(tiny_graph(), step)


def test_attention_over_the_whole_window_is_refused() -> None:
    student = Transformer.build(TransformerSpec(width=8, depth=1), CLASSES, n_mels=N_MELS, frames=FRAMES)
    with pytest.raises(UnsupportedError, match="valid in time"):
        stateful_graph(exported(student, FRAMES), 9)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(log_mel.unsqueeze(1)).mean(dim=(2, 3))
        return result


class Unpooled(Padded):
    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = log_mel.unsqueeze(1).mean(dim=3)
        return result


def test_padding_along_time_is_refused_by_layer() -> None:
    with pytest.raises(UnsupportedError, match=r"layer conv .*pads time"):
        stateful_graph(exported(Padded(), 9, 4), 1)


def test_a_student_that_does_not_pool_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="pool them"):
        stateful_graph(exported(Unpooled(), 9, 4), 1)
