"""A device without torch: a clip is classified and a stream runs with all training packages blocked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny_bundle as tiny
from tests import tiny_cascade, tiny_exits

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

BLOCKED = {
    "torch", "torchaudio", "lightning", "pytorch_lightning", "litert_torch", "torchao", "onnx", "onnxscript",
    "transformers", "scipy", "matplotlib", "tensorboard", "edgeaudio_export",
}
ROOMS = {"data", "teachers", "students", "distill", "compress", "pipeline"}

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition(".")
        if top in BLOCKED or (top == "edgeaudio" and rest.partition(".")[0] in ROOMS):
            raise ImportError(f"{name} must not be imported on a device")
        return None

sys.meta_path.insert(0, Blocker())
import numpy as np
from edgeaudio.bundle import describe
from edgeaudio.runtime import Classifier, StreamClassifier, check_bundle

waveform = np.load(sys.argv[2], allow_pickle=False)
for engine, precision in (("onnx", "fp32"), ("litert", "int8")):
    classifier = Classifier.load(sys.argv[1], engine=engine, precision=precision)
    label = classifier(waveform, 16_000).label
    stream = StreamClassifier(classifier)
    events = stream.feed(waveform) + stream.flush()
    assert {event.label for event in events} == {label}, (label, events)
    assert describe(classifier.bundle)["name"].endswith("tiny")
report = check_bundle(classifier.bundle)
assert report.complete
classifier = Classifier.load(sys.argv[1], engine="onnx", precision="int8", exits=True)
assert set(classifier(waveform, 16_000).window_exits) <= {0, 1}
print(label)
"""


@pytest.mark.parametrize("made", [tiny_exits.exits_bytes, tiny_cascade.cascade_bytes])
@pytest.mark.parametrize("label", ["high"])
def test_a_clip_is_classified_where_torch_cannot_be_imported(
    tmp_path: Path, label: str, made: Callable[[], bytes]
) -> None:
    import numpy as np

    bundle, clip = tmp_path / "tiny.eab", tmp_path / "clip.npy"
    bundle.write_bytes(made())
    np.save(clip, tiny.noise_band(label, 16_000))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(bundle), str(clip)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == label


def test_the_blocker_blocks() -> None:
    program = PROGRAM.partition("import numpy")[0] + "import torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "torch must not be imported on a device" in done.stderr
