"""Nothing is told to anybody, and nothing is left behind: what runs a bundle writes nowhere in the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeaudio.runtime.engines.onnx_engine import onnxruntime_library
from tests import tiny_bundle as tiny

PROGRAM = """
import sys
import numpy as np
from edgeaudio.runtime import Classifier

for engine in ("onnx", "litert"):
    Classifier.load(sys.argv[1], engine=engine)(np.zeros(16_000, np.float32), 16_000)
"""
VARIABLE = "ORT_DISABLE_TELEMETRY"


def test_running_a_bundle_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """Without the variable onnxruntime 1.31 leaves a device ID and a database of events to upload there."""
    home, bundle = tmp_path / "home", tmp_path / "tiny.eab"
    home.mkdir()
    bundle.write_bytes(tiny.tiny_bytes())
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("XDG_")}
    command = [sys.executable, "-B", "-c", PROGRAM, str(bundle)]
    done = subprocess.run(command, env={**kept, "HOME": str(home)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


def test_who_wants_to_report_to_the_maker_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    onnxruntime_library()
    assert os.environ[VARIABLE] == "0"
