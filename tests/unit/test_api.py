"""The three lines of the README work, cost nothing to import, and need no torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import edgeaudio
from edgeaudio import Classifier, EventRecord, FileSource, Microphone, Stream
from tests import tiny_bundle as tiny
from tests.test_imports import run_without_training_rooms


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "x.eab").write_bytes(tiny.tiny_bytes())
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000, subtype="FLOAT")
    return tmp_path / "x.eab"


def test_a_clip_and_a_stream_in_three_lines(bundle: Path) -> None:
    clf = Classifier.load(bundle)
    assert clf(tiny.noise_band("mid", 8_000), 16_000).label == "mid"
    labels = [record.label for record in Stream(clf, FileSource(bundle.parent / "scene.wav")) if record.event == "end"]
    assert labels == ["low", "high", "mid"]


def test_a_loop_may_be_left_and_the_classifier_used_again(bundle: Path) -> None:
    clf = Classifier.load(bundle)
    for _ in range(3):
        for record in Stream(clf, FileSource(bundle.parent / "scene.wav")):
            assert isinstance(record, EventRecord)
            break
    assert clf(tiny.noise_band("low", 8_000), 16_000).label == "low"


def test_a_microphone_is_named_before_it_is_opened() -> None:
    assert Microphone().name == "the default microphone"
    assert Microphone("USB").live


def test_every_name_is_there_and_no_other() -> None:
    for name in edgeaudio.__all__:
        assert getattr(edgeaudio, name) is not None
        assert name in dir(edgeaudio)
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        edgeaudio.Clasifier  # noqa: B018


def test_importing_edgeaudio_imports_nothing_else() -> None:
    code = (
        "import sys, edgeaudio; print(sorted(m for m in sys.modules if m.startswith(('edgeaudio.', 'numpy', 'pyd'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_api_works_without_torch(bundle: Path) -> None:
    code = """
        from edgeaudio import Classifier, FileSource, Microphone, Stream
        clf = Classifier.load(sys.argv[1])
        print([record.label for record in Stream(clf, FileSource(sys.argv[2]))])
        assert "sounddevice" not in sys.modules
        """
    done = run_without_training_rooms(textwrap.dedent(code), str(bundle), str(bundle.parent / "scene.wav"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['low', 'low', 'high', 'high', 'mid', 'mid']"


def test_types_are_told(bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        from edgeaudio import Classifier, Microphone, Stream
        clf = Classifier.load("x.eab")
        for record in Stream(clf, Microphone()):
            reveal_type(record.score)
        reveal_type(clf)
        """)
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--no-incremental",
        "--config-file=",
        "--follow-imports=silent",
        str(script),
    ]
    root = Path(edgeaudio.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=300)
    assert 'Revealed type is "float | None"' in done.stdout, done.stdout + done.stderr
    assert 'Revealed type is "edgeaudio.runtime.classifier.Classifier"' in done.stdout


def test_waveforms_of_other_rates_and_types_are_taken(bundle: Path) -> None:
    clf = Classifier.load(bundle, engine="litert", precision="int8")
    waveform = np.repeat(tiny.noise_band("low", 8_000), 3).astype(np.float64)
    assert clf(waveform, 48_000).label == "low"
