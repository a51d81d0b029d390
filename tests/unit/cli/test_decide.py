"""Every rule of a bundle's decision can be changed on the command line, and wrong ones are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from edgeaudio.cli.decide import DecisionOptions, decision_of
from edgeaudio.cli.main import main
from edgeaudio.errors import ConfigError
from edgeaudio.spec import ClassDecision, DecisionSpec
from tests import tiny_bundle as tiny

NOTHING = dict.fromkeys(field.name for field in dataclasses.fields(DecisionOptions))


def changed(own: DecisionSpec | None = None, **given: Any) -> DecisionSpec:
    return decision_of(own or DecisionSpec(), DecisionOptions(**(NOTHING | given)))


def test_without_options_the_bundles_own_decision_holds() -> None:
    own = DecisionSpec(smoothing_windows=7, deny=("dog",))
    assert changed(own) is own


def test_every_option_reaches_its_field() -> None:
    assert changed(
        threshold=["0.7", "dog=0.8"], threshold_off=["0.1", "dog=0.2"], min_duration=["0.5", "a=b=1"], smoothing=5,
        patience=2, refractory=3.5, allow=["dog", "a=b", "cat"], top_k=4,
    ) == DecisionSpec(
        smoothing_windows=5, threshold_on=0.7, threshold_off=0.1, min_duration_s=0.5, patience_windows=2,
        refractory_s=3.5, allow=("dog", "a=b", "cat"), top_k=4,
        classes={"dog": ClassDecision(threshold_on=0.8, threshold_off=0.2), "a=b": ClassDecision(min_duration_s=1)},
    )  # fmt: skip
    assert changed(DecisionSpec(allow=("dog",)), deny=["cat"]) == DecisionSpec(allow=("dog",), deny=("cat",))


def test_a_lower_threshold_takes_the_lower_one_down_with_it() -> None:
    assert changed(threshold=["0.3"]) == DecisionSpec(threshold_on=0.3, threshold_off=0.3)
    own = DecisionSpec(classes={"dog": ClassDecision(threshold_on=0.9, threshold_off=0.5)})
    assert changed(own, threshold=["dog=0.4"]).rule("dog")[:2] == (0.4, 0.4)
    assert changed(own, threshold=["0.1"]).rule("dog")[:2] == (0.9, 0.5)
    with pytest.raises(ConfigError, match=r"threshold_off 0\.5 is above threshold_on 0\.3"):
        changed(threshold=["0.3"], threshold_off=["0.5"])


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000, subtype="FLOAT")
    return ["stream", str(tmp_path / "x.eab"), "--input", str(tmp_path / "scene.wav")]


@pytest.mark.parametrize(
    ("options", "starts"),
    [
        ([], ["low", "high", "mid"]),
        (["--allow", "high", "--allow", "mid"], ["high", "mid"]),
        (["--deny", "high"], ["low", "mid"]),
        (["--min-duration", "high=30"], ["low", "mid"]),
        (["--patience", "999"], []),
        (["--min-duration", "30", "--min-duration", "mid=0.1"], ["mid"]),
    ],
)
def test_options_change_what_is_heard(
    arguments: list[str], options: list[str], starts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *options]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["label"] for record in records if record["event"] == "start"] == starts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "hihg=0.5"], "the bundle has no label 'hihg'. Did you mean 'high'?"),
        (["--allow", "lo"], "Did you mean 'low'?"),
        (["--deny", "xyzzy"], "Known: high, low, mid."),
        (["--threshold", "loud"], "wanted a number, or LABEL=NUMBER such as dog=0.8"),
        (["--threshold", "1.5"], "threshold_on"),
        (["--min-duration", "low=-1"], "classes.low.min_duration_s"),
        (["--allow", "low", "--deny", "low"], "allow and deny both name"),
        (["--smoothing", "0"], "smoothing_windows"),
    ],
)
def test_wrong_options_are_exit_code_2(
    arguments: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err
