"""A decision says no more than it must: bundles from before a field existed keep their bytes and their readers."""

from __future__ import annotations

from typing import Any

import pytest

from edgeaudio.errors import ConfigError
from edgeaudio.spec import ClassDecision, DecisionSpec, canonical_json

FIRST_FIELDS = {"smoothing_windows": 3, "threshold_on": 0.6, "threshold_off": 0.4, "min_duration_s": 0.4}


def test_defaults_are_written_as_the_first_bundles_had_them() -> None:
    assert DecisionSpec().model_dump(mode="json") == FIRST_FIELDS
    # The digest of the first release: finished stages of old work directories stay valid.
    assert canonical_json(DecisionSpec().model_dump(mode="json")) == (
        b'{"min_duration_s":0.4,"smoothing_windows":3,"threshold_off":0.4,"threshold_on":0.6}'
    )
    assert DecisionSpec.parse(FIRST_FIELDS, source="old manifest") == DecisionSpec()


@pytest.mark.parametrize(
    "later",
    [
        {"classes": {"dog": {"threshold_on": 0.8, "threshold_off": None, "min_duration_s": None}}},
        {"patience_windows": 2},
        {"refractory_s": 1.5},
        {"allow": ["dog"]},
        {"deny": ["dog"]},
        {"top_k": 2},
    ],
)
def test_later_fields_are_written_where_they_say_something(later: dict[str, Any]) -> None:
    spec = DecisionSpec.parse(later, source="recipe")
    assert spec.model_dump(mode="json") == FIRST_FIELDS | later
    assert spec.changed().keys() == later.keys()
    assert DecisionSpec.parse(spec.model_dump(mode="json"), source="manifest") == spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": {"dog": {"threshold_off": 0.7}}}, "classes.'dog': threshold_off 0.7 is above threshold_on 0.6"),
        ({"classes": {"dog": {"threshold_on": 2}}}, "classes.dog.threshold_on"),
        ({"allow": ["dog"], "deny": ["dog", "cat"]}, r"allow and deny both name \['dog'\]"),
        ({"patience_windows": 0}, "patience_windows"),
        ({"top_k": 0}, "top_k"),
        ({"refractory_s": -1}, "refractory_s"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecisionSpec.parse(fields, source="recipe")


def test_all_labels_that_are_spoken_of_are_known() -> None:
    spec = DecisionSpec(classes={"dog": ClassDecision()}, allow=("cat",), deny=("rain",))
    assert spec.named_labels == {"dog", "cat", "rain"}
