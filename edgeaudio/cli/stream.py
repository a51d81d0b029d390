"""`stream`: live audio in, one JSON object per event out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from edgeaudio.cli.options import BundleFile, Engine, Exits, Precision, Stateful, Threads, examples
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust
from edgeaudio.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from edgeaudio.audio.files import FileChunks
    from edgeaudio.audio.pcm import PCMReader
    from edgeaudio.runtime.stream import StreamClassifier


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    stream_examples = examples(
        "edgeaudio stream x.eab --input street.wav",
        "arecord -q -f S16_LE -r 16000 -t raw | edgeaudio stream x.eab --input -",
    )
    app.command("stream", epilog=stream_examples)(stream)


def stream(
    bundle: BundleFile,
    source: Annotated[str, typer.Option("--input", metavar="FILE|-", help="Audio file, or - for raw PCM on stdin.")],
    engine: Engine = "onnx",
    precision: Precision = "fp32",
    threads: Threads = 1,
    exits: Exits = False,
    stateful: Stateful = False,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    sample_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="Of raw PCM. Default: what the bundle wants.")
    ] = None,
    sample_format: Annotated[str, typer.Option("--format", help="Of raw PCM: s16le or f32le.")] = "s16le",
    channels: Annotated[int, typer.Option(min=1, max=8, help="Of raw PCM, interleaved.")] = 1,
    chunk_samples: Annotated[
        int, typer.Option(min=1, help="Samples read at once; changes the delay, never the events.")
    ] = 1600,
) -> None:
    """Print the events in live audio, one JSON object per line.

    Listens to a file, or to raw PCM on standard input, until it ends or until Ctrl-C (exit code
    130). A summary goes to stderr.
    """
    from edgeaudio.runtime.classifier import Classifier
    from edgeaudio.runtime.stream import StreamClassifier

    chunks: PCMReader | FileChunks
    classifier = Classifier.load(
        bundle,
        engine=engine,
        precision=precision,
        threads=threads,
        exits=exits,
        stateful=stateful,
        require_signature=required_trust(require_signature, trust),
    )
    if source == "-":
        rate_hz = classifier.sample_rate if sample_rate is None else sample_rate
        chunks = _open_stdin(sample_format, channels, chunk_samples)
    else:
        chunks, rate_hz = _open_file(source, sample_rate, chunk_samples)
    streamer = StreamClassifier(classifier, sample_rate=rate_hz)
    n_events, interrupted = 0, False
    try:
        with _stoppable(chunks) as stop:
            for chunk in stop:
                n_events += _emit(streamer.feed(chunk))
        interrupted = stop.requested
        n_events += _emit(streamer.flush())
    finally:
        _summarise(streamer, n_events, rate_hz)
    if interrupted:
        raise typer.Exit(130)


def _open_stdin(sample_format: str, channels: int, chunk_samples: int) -> PCMReader:
    from edgeaudio.audio.pcm import PCMReader

    # The reader checks the format and names the nearest one.
    checked = cast(Literal["s16le", "f32le"], sample_format)
    return PCMReader(sys.stdin.buffer, sample_format=checked, channels=channels, chunk_samples=chunk_samples)


def _open_file(source: str, sample_rate: int | None, chunk_samples: int) -> tuple[FileChunks, int]:
    from edgeaudio.audio.files import iter_file_chunks

    if source == "mic":
        raise UnsupportedError(
            "there is no microphone input here; pipe one in: "
            "arecord -q -f S16_LE -r 16000 -t raw | edgeaudio stream BUNDLE --input -"
        )
    if sample_rate is not None:
        raise ConfigError(f"--sample-rate is for raw PCM (--input -); the file {source!r} knows its own rate")
    chunks = iter_file_chunks(Path(source), chunk_samples)
    return chunks, chunks.sample_rate


def _emit(events: list[Any]) -> int:
    for event in events:
        print(event.to_json(), flush=True)
    return len(events)


def _summarise(streamer: StreamClassifier, n_events: int, rate_hz: int) -> None:
    stats = streamer.stats
    print(
        f"heard {stats.samples_in / rate_hz:.2f} s ({stats.samples_in} samples at {rate_hz} Hz), {stats.hops} windows, "
        f"{n_events} events; {stats.nan_samples} samples not finite, {stats.clipped_fraction:.2%} clipped",
        file=sys.stderr,
    )
    if stats.exit_counts:
        counts = ", ".join(f"exit {number}: {count}" for number, count in enumerate(stats.exit_counts))
        print(f"windows that stopped at {counts} (the last is the final answer)", file=sys.stderr)


class _Stoppable:
    """Iterates chunks until they end or Ctrl-C. Interrupts only the waiting, never a chunk half-way."""

    def __init__(self, chunks: PCMReader | FileChunks) -> None:
        self.requested = False
        self._chunks = chunks
        self._waiting = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The SIGINT handler."""
        self.requested = True
        if self._waiting:
            raise KeyboardInterrupt

    def __iter__(self) -> Iterator[Any]:
        chunks = iter(self._chunks)
        while not self.requested:
            try:
                self._waiting = True
                chunk = next(chunks)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._waiting = False
            yield chunk


@contextmanager
def _stoppable(chunks: PCMReader | FileChunks) -> Iterator[_Stoppable]:
    stop = _Stoppable(chunks)
    before = signal.signal(signal.SIGINT, stop.interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
