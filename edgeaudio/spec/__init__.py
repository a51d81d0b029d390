"""Frozen, self-validating descriptions that every other room leans on. Stdlib and pydantic only."""

from edgeaudio.spec.base import Spec, canonical_json, digest_json
from edgeaudio.spec.decision import ClassDecision, DecisionSpec
from edgeaudio.spec.exits import ExitCalibration, ExitSpec
from edgeaudio.spec.frontend import FrontendSpec
from edgeaudio.spec.task import LabelSet, TaskSpec
from edgeaudio.spec.window import WindowSpec

__all__ = [
    "ClassDecision",
    "DecisionSpec",
    "ExitCalibration",
    "ExitSpec",
    "FrontendSpec",
    "LabelSet",
    "Spec",
    "TaskSpec",
    "WindowSpec",
    "canonical_json",
    "digest_json",
]
