"""A rule says what it looks like it says, comes back from its own text, and anything else is refused by name."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeaudio.bench.metrics import METRICS
from edgeaudio.bench.rules import Rule, relative_change
from edgeaudio.errors import ConfigError

OPERATORS = st.sampled_from([">", ">=", "<", "<="])
LIMITS = st.floats(0, 1e9).map(lambda value: abs(value) + 0.0)
KINDS = st.sampled_from(["relative", "change", "value"])
#: Names of artefacts are file names of others: anything but what ends the prefix.
ARTEFACTS = st.none() | st.text(min_size=1, max_size=40).filter(lambda name: name == name.strip())


@given(st.sampled_from(list(METRICS)), OPERATORS, LIMITS, KINDS, ARTEFACTS, st.booleans())
def test_a_rule_comes_back_from_its_text(
    name: str, operator: str, limit: float, kind: str, artefact: str | None, down: bool
) -> None:
    limit = -limit if down and kind != "value" else limit
    rule = Rule(name, operator, limit, kind, artefact)  # type: ignore[arg-type]
    assert Rule.parse(str(rule)) == rule


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9_:]{0,12}[<>=]{0,3}[+-]?[0-9.e]{0,8}%?", fullmatch=True))
def test_whatever_is_given_is_a_rule_or_refused_with_the_form(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except ConfigError as error:
        message = str(error)
    else:
        message = "rule "
        assert Rule.parse(str(rule)) == rule
        assert math.isfinite(rule.limit)
    assert message.startswith("rule ")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("latency_ms_p95>+5%", Rule("latency_ms_p95", ">", 5, "relative")),
        (" latency_ms_p95 >= +5 % ", Rule("latency_ms_p95", ">=", 5, "relative")),
        ("accuracy<-0.01", Rule("accuracy", "<", -0.01, "change")),
        ("load_ms>20", Rule("load_ms", ">", 20, "value")),
        ("instructions>+2%", Rule("instructions", ">", 2, "relative")),
        ("onnx-int8:size_bytes<=1e5", Rule("size_bytes", "<=", 1e5, "value", "onnx-int8")),
        ("c:yamnet.tflite:rtf_p50>1", Rule("rtf_p50", ">", 1, "value", "c:yamnet.tflite")),
    ],
)
def test_forms(text: str, rule: Rule) -> None:
    assert Rule.parse(text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95=5", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95>five", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95>+5%%", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95>٥", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95>nan", "wanted [ARTEFACT:]METRIC OP LIMIT"),
        ("latency_ms_p95>1e999", "no finite number"),
        ("latency_ms_p95>5%", "say which way, such as '+5%' or '-5%'"),
        ("latncy_ms_p95>+5%", "Did you mean 'latency_ms_p95'?"),
        ("; rm -rf /:latency>+5%", "metric 'latency' is not known. Did you mean 'latency_ms_"),
        ("x" * 4096 + ">5", "wanted [ARTEFACT:]METRIC OP LIMIT"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_mend(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Rule.parse(text)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "before", "after", "fails"),
    [
        ("latency_ms_p95>+5%", 100, 105, False),
        ("latency_ms_p95>=+5%", 100, 105, True),
        ("latency_ms_p95>+5%", 100, 106, True),
        ("latency_ms_p95>+5%", 100, 50, False),
        ("latency_ms_p95>-5%", 100, 96, True),  # Must become at least 5 % faster.
        ("latency_ms_p95>-5%", 100, 94, False),
        ("accuracy<-0.01", 0.9, 0.88, True),
        ("accuracy<-0.01", 0.9, 0.895, False),
        ("accuracy<0.9", 0.5, 0.89, True),
        ("load_ms>20", 100, 19, False),
        ("load_ms>20", 1, 21, True),
        ("paced_miss_share>+5%", 0, 0, False),
        ("paced_miss_share>+5%", 0, 0.001, True),
    ],
)
def test_what_fails(text: str, before: float, after: float, fails: bool) -> None:
    assert Rule.parse(text).fails(before, after) == fails


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.floats(0, 100))
def test_a_relative_rule_is_the_change_that_is_shown(before: float, after: float, limit: float) -> None:
    change = 100 * relative_change(before, after)
    assume(abs(change - limit) > 1e-6)
    assert Rule("latency_ms_p50", ">", limit, "relative").fails(before, after) == (change > limit)
