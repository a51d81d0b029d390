"""The tiny bundle behind a NumPy engine: what lies around an engine is tested without one."""

from __future__ import annotations

import pytest

from edgeaudio import catalog
from edgeaudio.bundle import Bundle
from edgeaudio.runtime import Classifier
from tests import tiny_bundle as tiny
from tests.frontends import FRONTENDS


@pytest.fixture
def bundle() -> Bundle:
    return tiny.tiny_bundle()


@pytest.fixture(params=FRONTENDS)
def classifier(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Classifier:
    monkeypatch.setitem(catalog.ENGINES, "fake", "tests.tiny_bundle:FakeEngine")
    return Classifier(bundle, engine="fake", frontend=request.param)
