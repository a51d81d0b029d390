"""The choice of a front-end: never another one than asked for, and `auto` always says what it took."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.frontend.choice import FrontendName, choose_frontend, make_frontend
from edgeaudio.frontend.native.stream import EXTENSION
from edgeaudio.runtime import Classifier
from edgeaudio.spec import FrontendSpec
from tests import tiny_bundle as tiny
from tests.frontends import FRONTENDS, needs_native

SPEC = FrontendSpec()


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, EXTENSION, None)


@pytest.mark.parametrize("name", FRONTENDS)
def test_what_is_asked_for_is_what_runs(name: FrontendName) -> None:
    assert make_frontend(SPEC, name).name == name
    assert choose_frontend(SPEC, name).info == {"frontend": name}
    classifier = Classifier(tiny.tiny_bundle("onnx-fp32"), frontend=name)
    assert classifier.engine_info["frontend"] == name
    assert "frontend_reason" not in classifier.engine_info


@needs_native
def test_auto_is_native_where_it_is_built() -> None:
    assert choose_frontend(SPEC, "auto").info == {"frontend": "native"}
    assert make_frontend(SPEC, "auto").name == "native"


@pytest.mark.usefixtures("not_built")
def test_auto_is_numpy_elsewhere_and_says_why() -> None:
    taken = choose_frontend(SPEC, "auto")
    assert taken.name == "numpy"
    assert "is not built here" in taken.info["frontend_reason"]
    assert str(taken).startswith("numpy (edgeaudio.frontend.native._logmel is not built")
    info = Classifier(tiny.tiny_bundle("onnx-fp32")).engine_info
    assert (info["frontend"], info["frontend_reason"]) == ("numpy", taken.reason)


@pytest.mark.usefixtures("not_built")
def test_native_is_refused_where_it_is_not_built() -> None:
    for ask in (lambda: choose_frontend(SPEC, "native"), lambda: make_frontend(SPEC, "native")):
        with pytest.raises(UnsupportedError, match="apt install gcc python3-dev"):
            ask()
    with pytest.raises(UnsupportedError, match="'native'"):
        Classifier(tiny.tiny_bundle("onnx-fp32"), frontend="native")


@needs_native
@pytest.mark.parametrize("changes", [{"n_fft": 400}, {"log_floor": 1e-40}])
def test_a_spec_that_native_cannot_do(changes: dict[str, Any]) -> None:
    spec = FrontendSpec(**changes)
    [field] = changes
    assert f"frontend.{field} is" in choose_frontend(spec, "auto").reason
    frames = make_frontend(spec, "auto").feed(np.ones(400, np.float32))
    assert frames.shape == (1, SPEC.n_mels)
    with pytest.raises(UnsupportedError, match=f"{field}.*Take front-end 'numpy'"):
        make_frontend(spec, "native")


def test_an_unknown_front_end_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'nativ' is not known\. Did you mean 'native'"):
        choose_frontend(SPEC, "nativ")  # type: ignore[arg-type]
