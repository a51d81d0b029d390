"""How many times faster: medians over medians, of artefacts that were timed in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeaudio.bench.candidate import Candidate
from edgeaudio.bench.metrics import ratio_by_hops
from edgeaudio.bench.schema import Ratio, StageName
from edgeaudio.bench.stats import ratio_interval
from edgeaudio.bench.subjects import BundleSubject

_STAGES: tuple[StageName, ...] = ("inference", "total")


def ratios(candidates: Sequence[Candidate]) -> tuple[Ratio, ...]:
    """All timed artefacts against the first foreign file, and each other form against the windows of the same."""
    timed = {item.name: item for item in candidates if item.timer is not None and len(item.timer)}
    return tuple(
        ratio
        for own, other in _pairs(list(timed.values()))
        for stage in _STAGES
        if (ratio := _ratio(own, timed.get(other), stage)) is not None
    )


def _pairs(timed: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    baseline = next((item.name for item in timed if item.subject.form == "foreign"), None)
    for item in timed:
        if baseline is not None and item.name != baseline:
            yield item, baseline
    for item in timed:
        if isinstance(item.subject, BundleSubject) and item.subject.form != "windowed":
            yield item, item.subject.windowed_name


def _ratio(own: Candidate, other: Candidate | None, stage: StageName) -> Ratio | None:
    if other is None:
        return None
    values, baseline = (item.stream()[0].columns_us()[stage] for item in (own, other))
    below = float(np.median(baseline))
    if not below > 0:
        return None
    ratio = Ratio(
        artefact=own.name,
        baseline=other.name,
        stage=stage,
        value=float(np.median(values)) / below,
        interval=ratio_interval(values, baseline),
    )
    return ratio_by_hops(ratio, own.subject.hop_samples, other.subject.hop_samples)
