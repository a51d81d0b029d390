"""Recipes that could only fail after hours are refused at once, by field and with the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.errors import ConfigError
from edgeaudio.pipeline.config import load_config
from edgeaudio.pipeline.recipe import Recipe
from edgeaudio.pipeline.stepping import check_steps

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
LABELS_ONLY_LOSS = {"labels": 1, "logits": 0, "embedding": 0}
NOTHING = {"labels": 0, "logits": 0, "embedding": 0}


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({"name": "x", "data": {"kind": "synth"}, **changes}, source="recipe")


def wide_cnn(**changes: Any) -> dict[str, Any]:
    return {"name": "wide-cnn", "train": {"loss": LABELS_ONLY_LOSS}, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"kind": "synth", "test_folds": [2, 1, 2]}}, r"data.test_folds names one twice: \[2, 1, 2\]"),
        ({"formats": ["onnx", "onnx"]}, "formats names one twice"),
        ({"frontend": {"centre": True}}, "frontend.centre and frontend.preemphasis are for teachers"),
        ({"frontend": {"preemphasis": 0.97}}, "frontend.centre and frontend.preemphasis are for teachers"),
        ({"windows": {"count": 64, "held_out": 64}}, "held_out 64 leaves none of windows.count"),
        (
            {"windows": {"unlabelled_count": 512}, "pretrain": {"loss": {"labels": 0, "logits": 0}}},
            "held_out 512 leaves none of windows.unlabelled_count",
        ),
        ({"train": {"unlabelled_share": 0.995}}, "leaves no labelled window in a batch of 64"),
        ({"train": {"loss": NOTHING}}, "train.loss: every term is 0"),
        ({"pretrain": {"loss": NOTHING}}, "pretrain.loss: every term is 0"),
        ({"teacher": wide_cnn(train={"windows_seen": 100})}, "teacher.train.loss: wide-cnn has no teacher itself"),
        ({"teacher": wide_cnn(train={"loss": NOTHING})}, "teacher.train.loss: wide-cnn has no teacher itself"),
        ({"teacher": wide_cnn(width=13)}, "teacher.width is 13; wanted an even number"),
        ({"quantize": {"calibration_windows": 8}}, "calibration_windows"),
        ({"stateful": True, "student": {"family": "transformer"}}, "stateful: a transformer looks at its whole window"),
        ({"stateful": {"step_frames": 3}}, r"stateful.step_frames is 3; it must divide window.hop_frames \(20\)"),
        ({"stateful": True, "window": {"frames": 9}}, r"is 20; .* fit into window.frames \(9\)"),
        ({"stateful": True, "formats": ["tensorrt"]}, "stateful comes as onnx and tflite; add one of them to formats"),
        ({"stateful": {"hop": 2}}, "stateful"),
    ],
)
def test_an_impossible_recipe_names_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_stateful_is_off_unless_asked_for_and_steps_by_the_hop() -> None:
    assert recipe().step_frames is None
    assert recipe(stateful=False).step_frames is None
    assert recipe(stateful=True).step_frames == 20
    assert recipe(stateful={"step_frames": 2}).step_frames == 2


def test_a_step_that_does_not_fit_the_strides_is_refused_before_any_training() -> None:
    with pytest.raises(ConfigError, match=r"step_frames is 10, but .* use 1, 2 or a multiple of 4"):
        check_steps(recipe(stateful={"step_frames": 10}), 4)
    check_steps(recipe(stateful={"step_frames": 10}), 2)
    check_steps(recipe(stateful={"step_frames": 2}), 8)
    check_steps(recipe(), 3)


def test_a_recipe_uses_unlabelled_sounds_when_it_pretrains_or_mixes_them_in() -> None:
    assert not recipe().uses_unlabelled
    assert recipe(train={"unlabelled_share": 0.5}).uses_unlabelled
    assert recipe(pretrain={"loss": {"labels": 0, "logits": 0}}).uses_unlabelled


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    recipe = load_config(path, Recipe)
    assert recipe.name
    assert recipe == Recipe.model_validate_json(recipe.model_dump_json())


def test_tensorrt_is_a_format_that_must_be_asked_for() -> None:
    assert recipe().formats == ("onnx", "tflite")
    assert recipe(formats=["onnx", "tflite", "tensorrt"]).formats == ("onnx", "tflite", "tensorrt")
    with pytest.raises(ConfigError, match="add onnx to formats"):
        recipe(formats=["tensorrt"], quantize={"compact": True})
