"""What a device runs: engines, clip and stream classifiers, decision, self-check. Never imports torch.

Read `windows.py`, `classifier.py`, `stream.py`, in this order.
"""

from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.classifier import Classifier, ClipResult
from edgeaudio.runtime.decision import Event
from edgeaudio.runtime.selfcheck import CheckReport, check_bundle
from edgeaudio.runtime.stream import StreamClassifier, StreamStats

__all__ = [
    "Cascade",
    "CheckReport",
    "Classifier",
    "ClipResult",
    "Event",
    "StreamClassifier",
    "StreamStats",
    "check_bundle",
]
