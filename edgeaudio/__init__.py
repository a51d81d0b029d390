"""edgeaudio: turn a large audio model into a tiny one and run it where the sound is.

    from edgeaudio import Classifier, Microphone, Stream

    classifier = Classifier.load("x.eab")
    print(classifier(waveform, sample_rate).label)
    for record in Stream(classifier, Microphone()):
        print(record.event, record.label)

Nothing is imported before it is used, and nothing here needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeaudio.audio.files import FileSource
    from edgeaudio.audio.microphone import Microphone
    from edgeaudio.runtime.classifier import Classifier
    from edgeaudio.runtime.live import Stream
    from edgeaudio.runtime.observer import EventRecord

__version__ = "0.1.0"

__all__ = ["Classifier", "EventRecord", "FileSource", "Microphone", "Stream", "__version__"]

_HOMES = {
    "Classifier": "edgeaudio.runtime.classifier",
    "EventRecord": "edgeaudio.runtime.observer",
    "FileSource": "edgeaudio.audio.files",
    "Microphone": "edgeaudio.audio.microphone",
    "Stream": "edgeaudio.runtime.live",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeaudio' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
