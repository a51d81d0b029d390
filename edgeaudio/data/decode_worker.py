"""The process that decodes: one JSON request per line in, one JSON answer per line out.

Decoders are C code fed with files from anywhere; a crash or hang here costs one file, not the run.
Started by `edgeaudio.data.decode_pool` as `python -P -m edgeaudio.data.decode_worker`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.data.cache_entry import write_entry
from edgeaudio.errors import AudioFileError

READY = "ready"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Decode `path`; with `out`, resample to `to_hz` and write the cache entry there.

    Returns:
        Facts on the decoded file, or `reason` and `message` when the file is refused.
    """
    try:
        audio = decode_file(Path(request["path"]), max_s=request["max_s"])
    except AudioFileError as error:
        return {"reason": error.reason, "message": str(error)}
    if request["out"] is not None:
        write_entry(Path(request["out"]), resample(audio.waveform, audio.sample_rate, request["to_hz"]))
    return {
        "duration_s": audio.duration_s,
        "sample_rate": audio.sample_rate,
        "channels": audio.channels,
        "format": audio.source_format,
        "peak": float(np.abs(audio.waveform).max()),
        "rms": float(np.sqrt(np.mean(np.square(audio.waveform, dtype=np.float64)))),
    }


def main() -> None:
    """Answer until standard input ends."""
    # What a C library may print must not become an answer: the pipe moves aside, stdout joins stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        answers.write(json.dumps(READY) + "\n")
        answers.flush()
        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except Exception as error:  # noqa: BLE001 - not the file's fault; the parent raises it
                reply = {"fatal": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
