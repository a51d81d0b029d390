"""Runs inside the emulated machine: one listener of yamnet_instructions.py, warm-up, then the audio between markers.

python3.11 guest_listener.py REQUEST.json ANSWER.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from yamnet_listeners import Float32, Form, yamnet

from edgeaudio.bench.emulation.marks import marked
from edgeaudio.bundle import Bundle
from edgeaudio.frontend.choice import make_frontend
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.stream import StreamClassifier

#: Pairs of markers: nothing, the whole listener, and of windows also front-end and inference by themselves.
EMPTY, WHOLE, FRONTEND, INFERENCE = range(4)


def pass_over(chunks: list[Float32], feed: Any) -> list[Any]:
    """What `feed` gives for each chunk."""
    return [feed(chunk) for chunk in chunks]


def count_whole(chunks: list[Float32], feed: Any) -> list[Any]:
    """A pass to warm up, one that is counted; what the second gave."""
    pass_over(chunks, feed)
    marked(EMPTY, lambda given: None, chunks)
    return marked(WHOLE, lambda given: pass_over(given, feed), chunks)


def count_parts(chunks: list[Float32], classifier: Classifier) -> None:
    """The front-end on the same chunks, and inference on the windows that they make."""
    frontend = make_frontend(classifier.bundle.manifest.frontend, classifier.frontend.name)
    pass_over(chunks, frontend.feed)
    marked(FRONTEND, lambda given: pass_over(given, frontend.feed), chunks)
    windows = classifier.open_windows()
    pass_over(chunks, windows.feed)
    heard = [window.log_mel for made in pass_over(chunks, windows.feed) for window in made]
    classifier.score(heard[0])
    marked(INFERENCE, lambda given: [classifier.score(log_mel) for log_mel in given], heard)


def main() -> None:
    """See the module docstring."""
    request = json.loads(Path(sys.argv[1]).read_text())
    chunks = list(np.load(request["chunks"], allow_pickle=False))
    if request["form"] is None:
        decisions = count_whole(chunks, yamnet(Path(request["yamnet"])))
        info, name = {}, None
    else:
        form = Form(**request["form"])
        classifier = form.open(Bundle.read(Path(request["bundle"])), request["frontend"])
        events = count_whole(chunks, StreamClassifier(classifier).feed)
        decisions = [[f"{event.kind} {event.label}" for event in made] for made in events]
        info, name = classifier.engine_info, form.name(classifier)
        if not classifier.stateful:
            count_parts(chunks, classifier)
    Path(sys.argv[2]).write_text(json.dumps({"decisions": decisions, "info": info, "name": name}))


if __name__ == "__main__":
    main()
