"""The tiny bundle behind a NumPy engine, and the stream's description."""

from __future__ import annotations

import pytest

from edgeaudio import catalog
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.runtime import Classifier
from tests import tiny_bundle as tiny


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    monkeypatch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
    return Classifier(tiny.tiny_bundle(), engine="fake")


@pytest.fixture
def info(classifier: Classifier) -> StreamInfo:
    return StreamInfo.of(classifier, source="a test")
