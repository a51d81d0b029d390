"""`StreamInfo`: what an output may want to know of a stream before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from edgeaudio.runtime.classifier import Classifier
from edgeaudio.spec import DecisionSpec, FrontendSpec


@dataclass(frozen=True)
class StreamInfo:
    """A stream, as far as it is known beforehand.

    bundle: first 12 digits of the bundle's digest, as in `EventRecord`. source: what is listened to, in words.
    thresholds_on, thresholds_off: of the smoothed score, per label. smoothing_windows: of the moving mean.
    """

    bundle_name: str
    bundle: str
    engine: str
    precision: str
    source: str
    labels: tuple[str, ...]
    frontend: FrontendSpec
    window_s: float
    hop_s: float
    thresholds_on: tuple[float, ...]
    thresholds_off: tuple[float, ...]
    smoothing_windows: int
    min_duration_s: float

    @classmethod
    def of(cls, classifier: Classifier, *, source: str, decision: DecisionSpec | None = None) -> StreamInfo:
        """`decision`: instead of the artefact's or the bundle's own."""
        manifest = classifier.bundle.manifest
        decision = decision or classifier.decision
        rules = [decision.rule(label) for label in classifier.labels.names]
        return cls(
            bundle_name=manifest.name,
            bundle=classifier.bundle.sha256[:12],
            engine=classifier.engine_info["engine"],
            precision=classifier.artefact.precision,
            source=source,
            labels=classifier.labels.names,
            frontend=manifest.frontend,
            window_s=manifest.window.duration_s(manifest.frontend),
            hop_s=classifier.hop_samples / classifier.sample_rate,
            thresholds_on=tuple(rule.threshold_on for rule in rules),
            thresholds_off=tuple(rule.threshold_off for rule in rules),
            smoothing_windows=decision.smoothing_windows,
            min_duration_s=decision.min_duration_s,
        )
