"""Structured pruning: a pruned network is the masked one made small, meets its budget, and loads from its weights."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from edgeaudio.compress.prune import (
    ChannelGroup,
    Importance,
    channel_groups,
    group_scores,
    layer_costs,
    magnitude_importance,
    prune,
    prune_step,
    size_of,
    taylor_importance,
)
from edgeaudio.compress.prune_spec import PruneSpec
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.compress.reshape import channel_plan, fit_to_state, load_pruned_student
from edgeaudio.distill.train import save_student
from edgeaudio.errors import ConfigError, DataError, ShapeError, UnsupportedError, VerificationError
from edgeaudio.students.cost import count_macs
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.mn import MN
from edgeaudio.students.spec import MNSpec
from tests.tolerances import INT8_MIN_SQNR_DB, TORCH_SAME_SUMS

CLASSES, N_MELS = 6, 64
GATED = MNSpec(blocks=6, embedding=24, squeeze_steps=2)
PLAIN = MNSpec(blocks=7, embedding=24)
FROZEN = MNSpec(blocks=6, embedding=24, frozen=3)
WHOLE_TEACHER = MNSpec(blocks=15, embedding=384, time_strides=5, time_kernel=5, squeeze_steps=2, activation="hardswish")
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "dscnn": lambda: DSCNN(CLASSES, N_MELS, width=16),
    "mn": lambda: MN(CLASSES, PLAIN, N_MELS),
    "mn-gated": lambda: MN(CLASSES, GATED, N_MELS),
    "mn-frozen": lambda: MN(CLASSES, FROZEN, N_MELS),
    "mn-whole-teacher": lambda: MN(CLASSES, WHOLE_TEACHER, N_MELS),
}
families = pytest.mark.parametrize("family", ["dscnn", "mn", "mn-gated"])
all_families = pytest.mark.parametrize("family", BUILDERS)


def build(family: str) -> nn.Module:
    """A student whose batch norms have been trained, in eval mode."""
    torch.manual_seed(0)
    student = BUILDERS[family]()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.2, 1.0)
    return student.eval()


def windows(student: nn.Module, n: int, *, steps: int = 2, seed: int = 1) -> torch.Tensor:
    """`(n, frames, N_MELS)` that give the student so many output steps."""
    frames = student.receptive_field_frames + (steps - 1) * student.time_stride_frames
    return torch.randn(n, frames, N_MELS, generator=torch.Generator().manual_seed(seed))


def batches(student: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(windows(student, 6, seed=seed), torch.arange(6) % CLASSES) for seed in (1, 2)]


def cross_entropy(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def unrecovered(network: nn.Module, step: int) -> nn.Module:
    raise AssertionError(f"recover was called after step {step}")


def pruned(family: str, **fields: object) -> nn.Module:
    student = build(family)
    spec = PruneSpec.model_validate({"keep": 0.4, "importance": "magnitude", "steps": 2} | fields)
    return prune(
        student, spec, example=windows(student, 1), batches=batches(student), loss=cross_entropy, recover=unrecovered
    ).network


def random_importance(student: nn.Module, seed: int) -> Importance:
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.rand(value.shape, generator=generator) for name, value in student.named_parameters()}
    return Importance(values, relative=False)


def mask_inputs(student: nn.Module, group: ChannelGroup, channels: torch.Tensor) -> None:
    """Let nobody take these channels: what they hold then cannot matter."""
    for name, side in group.members:
        if side == "takes":
            student.get_submodule(name).weight.data[:, channels] = 0


@all_families
@torch.no_grad()
def test_a_pruned_network_computes_what_the_masked_original_does(family: str) -> None:
    student = build(family)
    example = windows(student, 1)
    importance = random_importance(student, seed=3)
    groups = channel_groups(student, example)
    scores = group_scores(student, groups, importance)
    spec = PruneSpec(keep=0.5, max_layer_share=0.8)
    smaller = prune_step(student, importance, spec, aim=size_of(student, example).params // 2, example=example)
    masked, cut = copy.deepcopy(student), 0
    for group, after, score in zip(groups, channel_groups(smaller, example), scores, strict=True):
        assert [name for name, _side in group.members] == [name for name, _side in after.members]
        mask_inputs(masked, group, score.argsort()[: group.width - after.width])
        cut += after.width < group.width
    assert cut > len(groups) / 2
    evaluation = windows(student, 3, seed=5)
    torch.testing.assert_close(smaller(evaluation), masked(evaluation), **TORCH_SAME_SUMS)
    assert not torch.allclose(smaller(evaluation), student(evaluation), **TORCH_SAME_SUMS)


@families
@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_channels_that_do_nothing_leave_first_and_change_nothing(family: str, importance: str) -> None:
    student = build(family)
    example = windows(student, 1)
    groups = channel_groups(student, example)
    dead = torch.tensor([0, 3, 5])
    for group in groups:
        mask_inputs(student, group, dead)
        for name, side in group.members:
            if side == "makes":
                for parameter in student.get_submodule(name).parameters(recurse=False):
                    parameter.data[dead] = 0
    aim = sum(
        cost.at([group.width - len(dead) for group in groups])
        for cost in layer_costs(student, groups, "params", example)
    )
    if importance == "taylor":
        found = taylor_importance(student, batches(student), cross_entropy)
    else:
        found = magnitude_importance(student)
    smaller = prune_step(student, found, PruneSpec(amount=aim, min_channels=1), aim=aim, example=example)
    assert size_of(smaller, example).params <= aim
    if importance == "magnitude":
        # Taylor may find more channels that are silent on the few windows it was shown.
        assert [g.width for g in channel_groups(smaller, example)] == [g.width - len(dead) for g in groups]
    with torch.no_grad():
        for log_mel, _targets in batches(student):
            torch.testing.assert_close(smaller(log_mel), student(log_mel), **TORCH_SAME_SUMS)


@families
@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_size_is_what_counting_gives(family: str, keep: float) -> None:
    network = build(family) if keep == 1 else pruned(family, keep=keep)
    example = windows(network, 1)
    size = size_of(network, example)
    assert size.params == sum(parameter.numel() for parameter in network.parameters())
    assert size.macs == count_macs(network, example)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert size.bytes == sum(layer.weight.numel() + (4 + 4) * len(layer.weight) for layer in layers)


@settings(max_examples=10, deadline=None)
@given(
    family=st.sampled_from(["dscnn", "mn", "mn-gated"]),
    keep=st.floats(0.45, 0.99),
    target=st.sampled_from(["params", "macs", "bytes"]),
    ranking=st.sampled_from(["importance", "importance_per_cost"]),
    round_to=st.sampled_from([1, 4]),
    steps=st.integers(1, 3),
)
def test_any_share_that_is_asked_for_is_met_and_hardly_undershot(
    family: str, keep: float, target: str, ranking: str, round_to: int, steps: int
) -> None:
    student = build(family)
    example = windows(student, 1)
    spec = PruneSpec.model_validate(
        {"keep": keep, "target": target, "ranking": ranking, "round_to": round_to, "steps": steps}
        | {"importance": "magnitude"}
    )
    result = prune(student, spec, example=example, batches=[], loss=cross_entropy, recover=unrecovered)
    groups = channel_groups(student, example)
    costs = layer_costs(student, groups, spec.target, example)
    whole = [group.width for group in groups]
    prices = [
        sum(cost.at(whole) - cost.at([width - (i == j) for j, width in enumerate(whole)]) for cost in costs)
        for i in range(len(groups))
    ]
    budget = int(keep * sum(cost.at(whole) for cost in costs))
    # One cut more than needed at most, and a channel never costs more than it did at first.
    assert budget - round_to * max(prices) < getattr(result.history[-1], target) <= budget
    assert size_of(result.network, example) == result.history[-1][1:]
    sizes = [getattr(entry, target) for entry in result.history]
    assert sizes == sorted(sizes, reverse=True)
    with torch.no_grad():
        assert result.network(windows(student, 2)).shape == (2, CLASSES)


@families
def test_widths_keep_their_floor_and_multiple(family: str) -> None:
    before, after = channel_plan(build(family)), channel_plan(pruned(family, round_to=4, min_channels=5))
    assert before.keys() == after.keys()
    assert after["head"] == CLASSES
    cut = {name for name, channels in after.items() if channels < before[name]}
    assert cut
    assert all(after[name] % 4 == 0 and after[name] >= 8 for name in cut)


def test_a_step_takes_no_more_of_a_layer_than_its_share_and_more_steps_follow() -> None:
    student = build("dscnn")
    spec = PruneSpec(keep=0.4, steps=1, max_layer_share=0.1, importance="magnitude")
    example = windows(student, 1)
    once = prune_step(student, magnitude_importance(student), spec, aim=1, example=example)
    before = channel_groups(student, example)
    for old, new in zip(before, channel_groups(once, example), strict=True):
        assert old.width - new.width == max(1, int(old.width * 0.1))
    result = prune(student, spec, example=example, batches=[], loss=cross_entropy, recover=unrecovered)
    assert len(result.history) > 2
    assert result.history[-1].params <= 0.4 * result.history[0].params


def test_a_ranking_per_cost_gives_up_fewer_but_dearer_channels() -> None:
    kept = [
        sum(channel_plan(pruned("dscnn", ranking=ranking, target="macs", keep=0.6)).values())
        for ranking in ("importance", "importance_per_cost")
    ]
    assert kept[0] < kept[1]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_magnitude_does_not_see_what_a_batch_norm_takes_out_again(scale: float) -> None:
    student = build("dscnn")
    before = magnitude_importance(student)
    conv, norm = student.get_submodule("collapse.1.0"), student.get_submodule("collapse.1.1")
    conv.weight.data *= scale
    norm.running_var *= scale**2
    norm.eps *= scale**2
    torch.testing.assert_close(
        magnitude_importance(student).values["collapse.1.0.weight"],
        before.values["collapse.1.0.weight"],
        **TORCH_SAME_SUMS,
    )


def test_taylor_is_the_mean_over_batches_of_weight_times_gradient() -> None:
    student = build("dscnn")
    found = taylor_importance(student, batches(student), cross_entropy).values["head.weight"]
    wanted = torch.zeros_like(found)
    for batch in batches(student):
        student.zero_grad()
        cross_entropy(student, batch).backward()
        wanted += (student.head.weight * student.head.weight.grad).abs().detach() / 2
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
@families
def test_a_longer_input_still_computes_the_same_steps(family: str) -> None:
    network = pruned(family)
    assert network.receptive_field_frames == build(family).receptive_field_frames
    field, stride = network.receptive_field_frames, network.time_stride_frames
    long = windows(network, 1, steps=5)
    alone = [network.forward_features(long[:, start * stride : start * stride + field]) for start in range(5)]
    torch.testing.assert_close(torch.stack(alone).mean(0), network.forward_features(long), **TORCH_SAME_SUMS)


@families
def test_a_pruned_network_trains(family: str) -> None:
    network = pruned(family).train()
    network.dropout.p = 0.0
    loss = cross_entropy(network, batches(network)[0])
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad
    assert cross_entropy(network, batches(network)[0]) < loss


@families
def test_what_a_student_says_of_its_widths_follows(family: str) -> None:
    network = pruned(family)
    hidden, widths = windows(network, 2), []
    with torch.no_grad():
        for section in network.sections():
            hidden = section(hidden)
            widths.append(hidden.shape[1])
        assert torch.equal(network.head(hidden), network(windows(network, 2)))
    assert network.section_channels == tuple(widths)
    assert network.section_channels != build(family).section_channels
    assert network.embedding_dim == network.head.in_features == widths[-1]


def test_pruning_changes_neither_the_student_nor_the_result_of_a_second_time() -> None:
    student = build("mn-gated").train()
    state = copy.deepcopy(student.state_dict())
    spec = PruneSpec(keep=0.5, steps=2)
    first, second = (
        prune(
            student,
            spec,
            example=windows(student, 1),
            batches=batches(student),
            loss=cross_entropy,
            recover=unrecovered,
        )
        for _ in range(2)
    )
    assert student.training
    assert first.network.training
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())
    assert first.history == second.history
    other = second.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.network.state_dict().items())


def test_recovery_goes_on_from_each_step() -> None:
    student = build("dscnn")
    seen: list[tuple[int, int]] = []

    def recover(network: nn.Module, step: int) -> nn.Module:
        seen.append((step, size_of(network, windows(student, 1)).params))
        trained = copy.deepcopy(network)
        trained.head.bias.data.fill_(step)
        return trained

    spec = PruneSpec(keep=0.5, steps=3, recover_windows=100, importance="magnitude")
    result = prune(student, spec, example=windows(student, 1), batches=[], loss=cross_entropy, recover=recover)
    assert seen == [(entry.step, entry.params) for entry in result.history[1:]]
    assert [step for step, _params in seen] == [1, 2, 3]
    assert bool((result.network.head.bias == 3).all())


def test_a_recovery_that_gives_back_another_network_is_refused() -> None:
    student = build("dscnn")
    spec = PruneSpec(keep=0.5, recover_windows=1, importance="magnitude")
    with pytest.raises(VerificationError, match="recover after prune step 1"):
        prune(
            student, spec, example=windows(student, 1), batches=[], loss=cross_entropy, recover=lambda *_args: student
        )


# Budgets and data that cannot be.


@pytest.mark.parametrize(
    ("fields", "saying"),
    [
        ({"keep": 0.001}, r"prune\.keep is 0\.001.*no smaller than \d+ \(keep 0\.\d+\)\. Raise prune\.keep"),
        ({"keep": 0.3, "min_channels": 64}, r"min_channels 64.*lower prune\.min_channels"),
        ({"amount": 10, "target": "macs"}, r"prune\.amount is 10, which is 10 macs.*Raise prune\.amount"),
        ({"amount": 10**9, "target": "bytes"}, r"prune\.amount is 1000000000, but this student has \d+ bytes already"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_with_what_can(fields: dict[str, object], saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        pruned("dscnn", **({"keep": None} if "amount" in fields else {}), **fields)


def test_the_smallest_that_an_error_names_can_be_had() -> None:
    with pytest.raises(ConfigError) as refusal:
        pruned("mn-gated", keep=0.01)
    keep = float(str(refusal.value).split("(keep ")[1].split(")")[0])
    assert pruned("mn-gated", keep=keep).head.in_features == PruneSpec(keep=keep).min_channels


@pytest.mark.parametrize(
    ("fields", "saying"),
    [
        ({}, "either amount"),
        ({"keep": 0.5, "amount": 100}, "either amount"),
        ({"keep": 1.0}, "keep"),
        ({"keep": 0.5, "min_channels": 0}, "min_channels"),
        ({"keep": 0.5, "max_layer_share": 0}, "max_layer_share"),
        ({"keep": 0.5, "target": "latency"}, "target"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_by_field(fields: dict[str, object], saying: str) -> None:
    with pytest.raises(ConfigError, match=rf"recipe\.yaml.*{saying}"):
        PruneSpec.parse(fields, source="recipe.yaml")


def test_taylor_without_data_or_with_a_loss_that_is_no_number_is_refused() -> None:
    student = build("dscnn")
    with pytest.raises(DataError, match=r"prune\.importance is taylor"):
        taylor_importance(student, [], cross_entropy)
    poisoned = batches(student)
    poisoned[1][0][0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="batch 1 gives a loss of nan"):
        taylor_importance(student, poisoned, cross_entropy)


@pytest.mark.parametrize("shape", [(2, 99, N_MELS), (99, N_MELS), (1, 10, N_MELS)])
def test_an_example_that_is_no_window_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="example has shape"):
        channel_groups(build("dscnn"), torch.zeros(shape))


@pytest.mark.parametrize(
    ("layer", "saying"),
    [(nn.LayerNorm(N_MELS), "a LayerNorm"), (nn.Conv2d(8, 8, 1, groups=2), "in 2 groups")],
)
def test_layers_whose_channels_cannot_be_cut_are_named(layer: nn.Module, saying: str) -> None:
    student = build("dscnn")
    student.extra = layer
    with pytest.raises(UnsupportedError, match=rf"prune: extra .*{saying}"):
        channel_groups(student, windows(student, 1))


def test_concatenated_channels_are_refused() -> None:
    class Concatenating(DSCNN):
        def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
            x = self.stem(log_mel.unsqueeze(1))
            halves = x.chunk(2, dim=1)
            for stage in self.stages:
                x = stage(torch.cat(halves[::-1], 1) if stage is self.stages[0] else x)
            return self.collapse(x).mean(dim=(2, 3))

    student = Concatenating(CLASSES, N_MELS, width=8).eval()
    with pytest.raises(UnsupportedError, match="only sums can be cut"):
        channel_groups(student, windows(student, 1))


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import edgeaudio.compress.prune_spec"
    subprocess.run([sys.executable, "-c", code], check=True)


# Weights alone.


@all_families
def test_a_pruned_student_loads_from_its_weights(family: str, tmp_path: Path) -> None:
    network = pruned(family).eval()
    save_student(network, tmp_path / "pruned.safetensors")
    example = windows(network, 1)
    loaded = load_pruned_student(build(family), tmp_path / "pruned.safetensors", example=example)
    assert channel_plan(loaded) == channel_plan(network)
    assert loaded.section_channels == network.section_channels
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(example), network(example))
    again = prune_step(loaded, magnitude_importance(loaded), PruneSpec(keep=0.5), aim=1, example=example)
    assert size_of(again, example).params < size_of(loaded, example).params


def test_depthwise_convolutions_may_come_down_to_one_channel() -> None:
    student = build("dscnn")
    example = windows(student, 1)
    one = PruneSpec(keep=0.01, min_channels=1, max_layer_share=1, importance="magnitude")
    smallest = prune_step(student, magnitude_importance(student), one, aim=1, example=example)
    assert {width for name, width in channel_plan(smallest).items() if name != "head"} == {1}
    loaded = build("dscnn")
    fit_to_state(loaded, smallest.state_dict(), example=example)
    loaded.load_state_dict(smallest.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(loaded(example), smallest(example))


def spoil_missing(state: dict[str, torch.Tensor]) -> None:
    del state["stages.1.0.pointwise.1.running_var"]


def spoil_unknown(state: dict[str, torch.Tensor]) -> None:
    state["stages.9.weight"] = torch.zeros(1)


def spoil_rank(state: dict[str, torch.Tensor]) -> None:
    state["stem.0.0.weight"] = state["stem.0.0.weight"][0]


def spoil_kernel(state: dict[str, torch.Tensor]) -> None:
    state["stem.0.0.weight"] = state["stem.0.0.weight"][:, :, :2]


def spoil_empty(state: dict[str, torch.Tensor]) -> None:
    state["collapse.1.0.weight"] = state["collapse.1.0.weight"][:0]


def spoil_classes(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"], state["head.bias"] = state["head.weight"][:3], state["head.bias"][:3]


def spoil_wider(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"] = torch.zeros(CLASSES, 1000)


def spoil_vector(state: dict[str, torch.Tensor]) -> None:
    state["collapse.1.1.bias"] = state["collapse.1.1.bias"][:-1]


def spoil_neighbour(state: dict[str, torch.Tensor]) -> None:
    state["head.weight"] = state["head.weight"][:, :-1]


def spoil_residual(state: dict[str, torch.Tensor]) -> None:
    for key in list(state):
        if key.startswith("stages.2.1.pointwise") and state[key].ndim:
            state[key] = state[key][:-1]


@pytest.mark.parametrize(
    ("spoil", "saying"),
    [
        (spoil_missing, "lack stages.1.0.pointwise.1.running_var"),
        (spoil_unknown, "hold stages.9.weight"),
        (spoil_rank, r"stem.0.0.weight has shape \(1, 3, 3\), wanted one like \(8, 1, 3, 3\)"),
        (spoil_kernel, "stem.0.0.weight has shape .* cannot be cut"),
        (spoil_empty, "collapse.1.0.weight has shape"),
        (spoil_classes, "head.weight has shape .* cannot be cut"),
        (spoil_wider, "head.weight has shape .* cannot be cut"),
        (spoil_vector, r"collapse.1.1.bias is for \d+ channels"),
        (spoil_neighbour, r"head.weight takes \d+ channels, but after collapse.1.1.weight there are \d+"),
        (spoil_residual, "do not fit together after stages.2.1.pointwise.1.weight"),
    ],
)
def test_weights_of_no_pruning_of_this_student_are_refused(
    spoil: Callable[[dict[str, torch.Tensor]], None], saying: str, tmp_path: Path
) -> None:
    network = pruned("dscnn")
    state = dict(network.state_dict())
    spoil(state)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, tmp_path / "bad.safetensors")
    student = build("dscnn")
    plan = channel_plan(student)
    with pytest.raises(VerificationError, match=saying):
        load_pruned_student(student, tmp_path / "bad.safetensors", example=windows(student, 1))
    assert channel_plan(student) == plan
    assert student.head.in_features == student.embedding_dim == plan["collapse.1.0"]


def test_a_file_that_is_not_there_or_no_weights_is_refused(tmp_path: Path) -> None:
    student = build("dscnn")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    for name in ("absent.safetensors", "text.safetensors"):
        with pytest.raises(VerificationError, match=f"{name} does not hold weights"):
            load_pruned_student(student, tmp_path / name, example=windows(student, 1))


# Further down the chain.


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dscnn", "mn"])
def test_a_pruned_student_becomes_int8_and_onnx(family: str) -> None:
    import onnxruntime
    from edgeaudio_export.export import export_student

    network = pruned(family, round_to=4).eval()
    calibration = windows(network, 64)
    quantised = quantise_ptq(network, calibration)
    frames = calibration.shape[1]
    floating, integer = export_student(network, quantised, frames, N_MELS, formats=["onnx"])
    evaluation = windows(network, 32, seed=9)
    with torch.no_grad():
        reference = network(evaluation)
    for artefact in (floating, integer):
        session = onnxruntime.InferenceSession(artefact.payload, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        given = [
            torch.from_numpy(session.run(None, {entry.name: window[None].numpy()})[0][0].copy())
            for window in evaluation
        ]
        noise = torch.stack(given) - reference
        assert 10 * torch.log10(reference.var() / noise.var()) > INT8_MIN_SQNR_DB
    assert len(integer.payload) < len(floating.payload)
