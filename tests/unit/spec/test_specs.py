"""Specifications refuse what cannot work, name the field, and have stable digests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError
from edgeaudio.frontend.tables import mel_matrix
from edgeaudio.spec import DecisionSpec, FrontendSpec, LabelSet, TaskSpec, WindowSpec, canonical_json


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"win_length": 600}, "win_length"),
        ({"f_max": 9000}, "f_max"),
        ({"f_min": 7900}, "f_min"),
        ({"sample_rate": 100}, "sample_rate"),
        ({"log_floor": 0}, "log_floor"),
        ({"n_mells": 64}, "n_mells"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_an_impossible_front_end_is_refused_by_field(options, field):
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: .*{field}"):
        FrontendSpec.parse(options, source="recipe.yaml")


def test_a_band_without_a_bin_is_refused_with_the_mend():
    with pytest.raises(ConfigError, match="fewer bands"):
        mel_matrix(FrontendSpec(n_mels=200, f_min=0))


@given(n_frames=st.integers(1, 5000), rest=st.integers(0, 159))
def test_frames_and_samples_are_inverse(n_frames, rest):
    spec = FrontendSpec()
    assert spec.n_frames(spec.n_samples(n_frames) + rest) == n_frames
    assert spec.n_frames(spec.n_samples(n_frames) - 1) == n_frames - 1


@given(frames=st.integers(1, 300), hop=st.integers(1, 300), n=st.integers(0, 3000))
def test_window_counts_are_those_of_a_loop(frames, hop, n):
    counted = sum(1 for start in range(0, n, hop) if start + frames <= n)
    assert WindowSpec(frames=frames, hop_frames=hop).n_windows(n) == counted


def test_the_default_window_is_about_a_second():
    assert WindowSpec().n_samples(FrontendSpec()) == 16_080
    assert WindowSpec().duration_s(FrontendSpec()) == pytest.approx(1.005)
    assert WindowSpec().hop_s(FrontendSpec()) == pytest.approx(0.2)


@pytest.mark.parametrize("names", [(), ("dog", "dog"), ("",), ("bell\x07",), ("\x1b[31mred",), ("x" * 65,)])
def test_labels_that_could_harm_a_terminal_or_a_table_are_refused(names):
    with pytest.raises(ConfigError, match="names"):
        LabelSet.parse({"names": names}, source="labels")


def test_an_unknown_label_gets_the_closest_one():
    with pytest.raises(ConfigError, match="Did you mean 'rooster'"):
        LabelSet(names=("dog", "rooster")).index("roster")


def test_hysteresis_cannot_be_upside_down():
    with pytest.raises(ConfigError, match="threshold_off"):
        DecisionSpec.parse({"threshold_on": 0.3, "threshold_off": 0.5}, source="manifest")


def test_equal_specs_have_equal_digests_and_others_not():
    task = TaskSpec(labels=LabelSet(names=("a", "b")))
    assert task.digest() == TaskSpec.model_validate_json(task.model_dump_json()).digest()
    assert task.digest() != TaskSpec(kind="multi_label", labels=task.labels).digest()


def test_canonical_json_has_one_form():
    assert canonical_json({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
