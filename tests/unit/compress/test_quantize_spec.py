"""The quantisation part of a recipe: defaults that do what recipes did before, and settings that exclude each other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeaudio.compress.quantize_spec import QuantizeSpec
from edgeaudio.errors import ConfigError


def test_defaults_are_post_training_quantisation_of_everything() -> None:
    spec = QuantizeSpec()
    assert (spec.method, spec.calibration_windows, spec.per_channel) == ("ptq", 512, True)
    assert spec.max_drop is None
    assert spec.keep_float == ()


@pytest.mark.parametrize(
    ("fields", "saying"),
    [
        ({"method": "qat", "max_drop": 0.01}, "max_drop belongs to method ptq"),
        ({"qat": {"windows_seen": 100}}, "qat belongs to method qat"),
        ({"max_drop": 1.0}, "max_drop"),
        ({"max_drop": -0.1}, "max_drop"),
        ({"keep_float": ["head", "head"]}, "names one twice"),
        ({"calibration_windows": 31}, "calibration_windows"),
        ({"method": "qat", "qat": {"observe_share": 0.0}}, "observe_share"),
    ],
)
def test_settings_that_cannot_be_are_named(fields: dict[str, object], saying: str) -> None:
    with pytest.raises(ConfigError, match=saying):
        QuantizeSpec.parse(fields, source="recipe.yaml")


def test_a_recipe_is_read_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import edgeaudio.compress.quantize_spec"
    subprocess.run([sys.executable, "-c", code], check=True)
