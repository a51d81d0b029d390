"""One hour of real clips through `edgeaudio stream --input -`, cut in different ways: are the events the same?

    python benchmarks/stream_one_hour.py work/esc10/bundles/esc10-fold1.eab ../shared/data/esc10/audio

Prints one line per chunk size with the digest of all event lines, and exits 1 when they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgeaudio.audio.files import decode_file
from edgeaudio.audio.resample import resample
from edgeaudio.bundle import Bundle

CHUNK_SAMPLES = ("whole", "16000", "160", "37", "1")


def one_hour(folder: Path, sample_rate: int, duration_s: int) -> bytes:
    """Clips of `folder` in order of name, again and again, as raw s16le at `sample_rate`."""
    clips = []
    for path in sorted(folder.iterdir()):
        decoded = decode_file(path)
        waveform = resample(decoded.waveform, decoded.sample_rate, sample_rate)
        clips.append((np.clip(waveform, -1, 1) * 32767).astype("<i2"))
    audio = np.concatenate(clips)
    return np.resize(audio, sample_rate * duration_s).tobytes()


def decided(lines: bytes) -> bytes:
    """The records without what depends on the clock."""
    records = [json.loads(line) for line in lines.splitlines()]
    return b"\n".join(
        json.dumps(record | {"wall_time": None, "latency_ms": None}, sort_keys=True).encode() for record in records
    )


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--precision", default="int8")
    arguments = parser.parse_args()
    rate = Bundle.read(arguments.bundle).manifest.frontend.sample_rate
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        pcm = Path(folder) / "hour.s16le"
        pcm.write_bytes(one_hour(arguments.clips, rate, arguments.seconds))
        for chunk in CHUNK_SAMPLES:
            samples = str(pcm.stat().st_size // 2) if chunk == "whole" else chunk
            command = [
                sys.executable, "-m", "edgeaudio.cli.main", "stream", str(arguments.bundle), "--input", "-",
                "--engine", arguments.engine, "--precision", arguments.precision, "--chunk-samples", samples,
            ]  # fmt: skip
            with pcm.open("rb") as stream:
                done = subprocess.run(command, stdin=stream, capture_output=True, check=True)
            digest = hashlib.sha256(decided(done.stdout)).hexdigest()
            digests.add(digest)
            print(f"{chunk:>6}: {len(done.stdout.splitlines())} event lines, sha256 {digest[:16]}", flush=True)
            print(f"        {done.stderr.decode().splitlines()[0]}", flush=True)
    print("identical" if len(digests) == 1 else "DIFFERENT")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
