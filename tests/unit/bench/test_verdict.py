"""Figures that must not be used are called so, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeaudio.bench.schema import LoadState, ParityCheck, Verdict
from edgeaudio.bench.stats import summarise
from edgeaudio.bench.verdict import judge

QUIET: dict[str, Any] = {
    "parity": ParityCheck(passed=True, n_vectors=3, detail=""),
    "total": summarise(np.full(400, 500.0)),
    "min_hops": 400,
    "drift_share": 0.02,
    "load": LoadState(cpu_share=0.99, other_busy_cores=0.05, involuntary_switches=1),
    "overhead_p50_us": 0.4,
    "threads": 1,
}


def verdict(**changes: Any) -> Verdict:
    return judge(**(QUIET | changes))


def load(cpu_share: float = 0.99, other_busy_cores: float | None = 0.0) -> LoadState:
    return LoadState(cpu_share=cpu_share, other_busy_cores=other_busy_cores, involuntary_switches=0)


def test_a_quiet_run_is_valid() -> None:
    assert verdict() == Verdict(level="valid")
    assert verdict(drift_share=None, load=load(other_busy_cores=None)).level == "valid"


@pytest.mark.parametrize(
    ("changes", "level", "code"),
    [
        ({"parity": ParityCheck(passed=False, n_vectors=3, detail="0.3 logit")}, "invalid", "parity"),
        ({"total": None, "drift_share": None, "load": None}, "invalid", "too-few-samples"),
        ({"total": summarise([500.0] * 399)}, "invalid", "too-few-samples"),
        ({"total": summarise([500.0] * 4), "min_hops": 1}, "invalid", "too-few-samples"),
        ({"total": summarise([500.0] * 298), "min_hops": 100}, "suspect", "few-samples"),
        ({"drift_share": 0.11}, "suspect", "drift"),
        ({"drift_share": -0.11}, "suspect", "drift"),
        ({"load": load(other_busy_cores=0.3)}, "suspect", "other-load"),
        ({"load": load(cpu_share=0.85)}, "suspect", "off-cpu"),
        ({"load": load(cpu_share=0.45)}, "invalid", "off-cpu"),
        ({"overhead_p50_us": 5.1}, "suspect", "overhead"),
    ],
)
def test_each_fault_has_its_level_and_code(changes: dict[str, Any], level: str, code: str) -> None:
    result = verdict(**changes)
    assert (result.level, [reason.code for reason in result.reasons]) == (level, [code])


def test_with_several_threads_the_share_of_the_measuring_thread_says_nothing() -> None:
    assert verdict(load=load(cpu_share=0.3), threads=2).level == "valid"


def test_the_worst_reason_decides_and_all_are_kept() -> None:
    result = verdict(drift_share=0.5, load=load(cpu_share=0.1, other_busy_cores=1.0))
    assert result.level == "invalid"
    assert {reason.code for reason in result.reasons} == {"drift", "other-load", "off-cpu"}
