"""What all tests share: the assets beside the repository, two threads at most, repeatable examples."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports NumPy or torch: two torch jobs that each take all cores slow each other many-fold.
os.environ["OMP_NUM_THREADS"] = str(min(2, int(os.environ.get("OMP_NUM_THREADS", "2"))))

# Some tests import onnxruntime by themselves, which would report to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In the background of a shell, or under nohup, signals are ignored, and so would they be in every process of a test.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The same examples every time: a failure that one run finds, the next one finds too.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("explore", derandomize=False, deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on emulated processors run where they are asked for by name: they install programs."""
    if "arm" in config.option.markexpr:
        return
    asked_for = [item for item in items if item.get_closest_marker("arm") is None]
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("arm")])
    items[:] = asked_for


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """`../shared` beside the repository: real audio, teacher weights. Mark the test with `assets`."""
    if not (SHARED / "data").is_dir():
        reason = f"{SHARED.name}/data is not beside the repository"
        if os.environ.get("EDGEAUDIO_REQUIRE_ASSETS") == "1":
            pytest.fail(f"EDGEAUDIO_REQUIRE_ASSETS=1, but {reason}")
        pytest.skip(reason)
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Benchmarks add to the history of the user who runs them; tests have none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command line sets log levels and handlers for its process; the next test must not inherit them."""
    names = ("", "edgeaudio", "edgeaudio_export")
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """TensorRT and a GPU that are not there (`tests.fake_tensorrt.Fake`), with a cache folder of their own.

    Afterwards: no call of the driver went wrong inside.
    """
    from edgeaudio.runtime.engines import cuda_driver
    from tests.fake_cuda import FakeDriver
    from tests.fake_tensorrt import Fake

    fake = Fake(FakeDriver())
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
    monkeypatch.setattr(cuda_driver, "_load", lambda: fake.driver.library)
    monkeypatch.setenv("EDGEAUDIO_CACHE", str(tmp_path / "cache"))
    cuda_driver.first_gpu.cache_clear()
    yield fake
    cuda_driver.first_gpu.cache_clear()
    assert fake.driver.faults == []
