"""Who listens in yamnet_cpu.py and yamnet_instructions.py: YAMNet, and a bundle as `edgeaudio stream` runs it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgeaudio.bundle import Bundle
from edgeaudio.frontend.choice import FrontendChoice
from edgeaudio.runtime.classifier import Classifier

RATE_HZ, PATCH, HOP = 16_000, 15_600, 7_680
YAMNET = "YAMNet, LiteRT, hop 0.48 s"

Float32 = NDArray[np.float32]
Listener = Callable[[Float32], Any]


def yamnet(model: Path) -> Listener:
    """Chunks of one hop in, classes out."""
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    scores = interpreter.get_output_details()[0]["index"]
    patch = np.zeros((1, PATCH), np.float32)

    def feed(chunk: Float32) -> int:
        patch[0, :-HOP] = patch[0, HOP:]
        patch[0, -HOP:] = chunk
        interpreter.set_tensor(given, patch)
        interpreter.invoke()
        return int(interpreter.get_tensor(scores)[0].argmax())

    return feed


@dataclass(frozen=True)
class Form:
    """One way to run a bundle; `slow` is windows with YAMNet's hop instead of the bundle's."""

    engine: str
    precision: str
    stateful: bool
    slow: bool

    def open(self, bundle: Bundle, frontend: FrontendChoice) -> Classifier:
        """The classifier that listens in this form."""
        if self.slow:
            window = bundle.manifest.window
            hop_frames = HOP * window.hop_frames // window.hop_samples(bundle.manifest.frontend)
            bundle = copy.copy(bundle)
            changed = {"window": window.model_copy(update={"hop_frames": hop_frames})}
            bundle.manifest = bundle.manifest.model_copy(update=changed)
        return Classifier(
            bundle, engine=self.engine, precision=self.precision, frontend=frontend, stateful=self.stateful
        )

    def name(self, classifier: Classifier) -> str:
        """For tables; `classifier` is what `open` gave."""
        hop_s = classifier.hop_samples / RATE_HZ
        return f"{self.engine} {self.precision}{', stateful' if self.stateful else ''}, hop {hop_s:g} s"


def forms(bundle: Bundle) -> list[Form]:
    """Windows with YAMNet's hop, with the bundle's own, and steps where it has them; what is not in it is left out."""
    manifest = bundle.manifest
    windowed = {(item.format, item.precision) for item in manifest.artefacts}
    stepped = {(item.format, item.precision) for item in manifest.stateful.artefacts} if manifest.stateful else set()
    precisions = itertools.product(("int8", "fp32"), (("onnx", "onnx"), ("litert", "tflite")))
    pairs = [(engine, precision, format) for precision, (engine, format) in precisions]
    return [
        Form(engine, precision, stateful, slow)
        for stateful, slow in ((False, True), (False, False), (True, False))
        for engine, precision, format in pairs
        if (format, precision) in (stepped if stateful else windowed)
    ]
