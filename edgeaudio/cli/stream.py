"""`stream`: live audio in, one JSON object per record out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgeaudio.cli.decide import (
    Allow,
    DecisionOptions,
    Deny,
    MinDuration,
    Patience,
    Refractory,
    Smoothing,
    Threshold,
    ThresholdOff,
    TopK,
    decision_of,
)
from edgeaudio.cli.inputs import (
    Channel,
    Channels,
    ChunkSamples,
    Inject,
    Input,
    InputOptions,
    Journal,
    Pace,
    SampleFormat,
    SampleRate,
    source_of,
)  # fmt: skip
from edgeaudio.cli.options import BundleFile, Engine, Exits, Frontend, Precision, Stateful, Threads, examples
from edgeaudio.cli.outputs import OutputOptions, open_outputs, takes_outputs
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.frontend.choice import FrontendChoice
    from edgeaudio.runtime.live import Stream
    from edgeaudio.runtime.observer import Health

INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    stream_examples = examples(
        "edgeaudio stream x.eab --input mic",
        "edgeaudio stream x.eab --input street.wav",
        "edgeaudio stream x.eab --input mic --ui --save-clips heard",
        "edgeaudio stream x.eab --input replay:street.wav --inject drops=0.01",
        "ffmpeg -i rtsp://c/1 -ar 16000 -f s16le - | edgeaudio stream x.eab --input -",
    )
    app.command("stream", epilog=stream_examples)(stream)


@takes_outputs
def stream(
    bundle: BundleFile,
    source: Input,
    engine: Engine = "onnx",
    precision: Precision = "fp32",
    threads: Threads = 1,
    exits: Exits = False,
    frontend: Frontend = "auto",
    stateful: Stateful = False,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    sample_rate: SampleRate = None,
    sample_format: SampleFormat = None,
    channels: Channels = None,
    channel: Channel = None,
    chunk_samples: ChunkSamples = 1600,
    pace: Pace = "max",
    inject: Inject = None,
    journal: Journal = None,
    threshold: Threshold = None,
    threshold_off: ThresholdOff = None,
    min_duration: MinDuration = None,
    smoothing: Smoothing = None,
    patience: Patience = None,
    refractory: Refractory = None,
    allow: Allow = None,
    deny: Deny = None,
    top_k: TopK = None,
    on_overrun: Annotated[
        str, typer.Option(metavar="WHAT", help="When a live input is faster than this machine: drop-oldest or fail.")
    ] = "drop-oldest",
    ring_ms: Annotated[
        int, typer.Option(min=500, metavar="MS", help="Audio that waits at most before it is dropped.")
    ] = 4000,
    health_every: Annotated[
        float, typer.Option(min=0, metavar="S", help="Print health on stderr, as JSON, this often. 0: never.")
    ] = 0,
    outputs: OutputOptions = OutputOptions(),  # noqa: B008 (frozen)
) -> None:
    """Print the events in live audio, one JSON object per line.

    Listens to a microphone, a file, the new files of a folder, or raw PCM on standard input, until that ends, until
    Ctrl-C (exit code 130) or SIGTERM (exit code 0). A summary goes to stderr.
    """
    from edgeaudio.cli.health import HealthLines, service_report
    from edgeaudio.outputs.info import StreamInfo
    from edgeaudio.runtime.classifier import Classifier
    from edgeaudio.runtime.live import Stream
    from edgeaudio.runtime.watchdog import OverrunPolicy, StreamOptions

    options = StreamOptions(on_overrun=cast(OverrunPolicy, on_overrun), ring_s=ring_ms / 1000)
    classifier = Classifier.load(
        bundle,
        engine=engine,
        precision=precision,
        threads=threads,
        exits=exits,
        frontend=cast("FrontendChoice", frontend),
        stateful=stateful,
        require_signature=required_trust(require_signature, trust),
    )
    decision = decision_of(
        classifier.decision,
        DecisionOptions(threshold, threshold_off, min_duration, smoothing, patience, refractory, allow, deny, top_k),
    )
    given = InputOptions(sample_rate, sample_format, channels, channel, chunk_samples, pace, inject, journal)
    opened, taken_channel = source_of(source, given, classifier.sample_rate)
    info = StreamInfo.of(classifier, source=opened.name, decision=decision)
    observers = open_outputs(info, outputs, live=opened.live)
    if health_every:
        observers.append(HealthLines(health_every))
    service = service_report(os.environ)
    try:
        streaming = Stream(
            classifier,
            opened,
            decision=decision,
            channel=taken_channel,
            observers=observers,
            options=options,
            on_tick=service.tick if service else None,
        )
    except BaseException:
        for observer in observers:
            observer.close()
        raise
    try:
        with _stopped_by_signals(streaming) as by:
            for _ in streaming:  # Standard output is one of the outputs.
                pass
    finally:
        if service:
            service.stopping()
        try:
            streaming.close()
        finally:
            _summarise(streaming.health, streaming.sample_rate, str(classifier.frontend))
    if by == [signal.SIGINT]:
        raise typer.Exit(INTERRUPTED)


def _summarise(health: Health, rate_hz: int, frontend: str) -> None:
    print(
        f"heard {health.samples_in / rate_hz:.2f} s ({health.samples_in} samples at {rate_hz} Hz), "
        f"{health.hops} windows, {health.events} events; {health.gaps} gaps, {health.dropped_samples} samples lost, "
        f"{health.nan_samples} not finite, {health.clipped_fraction:.2%} clipped; "
        f"{health.rtf:.4f} of real time, {health.rss_bytes / 2**20:.0f} MiB; "
        f"log-mel by {frontend}",
        file=sys.stderr,
    )
    if health.exit_counts:
        counts = ", ".join(f"exit {number}: {count}" for number, count in enumerate(health.exit_counts))
        print(f"windows that stopped at {counts} (the last is the final answer)", file=sys.stderr)
    if health.macs_per_hop is not None and health.catch_up_share is not None:
        print(
            f"{health.macs_per_hop:,.0f} MACs per hop, {health.catch_up_share:.1%} of them to catch up on hops that "
            "had stopped earlier",
            file=sys.stderr,
        )
    if health.engine_restarts or health.reopened:
        print(f"engine restarted {health.engine_restarts} times, input reopened {health.reopened}", file=sys.stderr)
    for warning in health.warnings:
        print(f"warning: {warning}", file=sys.stderr)


@contextmanager
def _stopped_by_signals(streaming: Stream) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end the stream cleanly; a second one ends it at once. Yields the list of those that came."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        streaming.stop()
        signal.signal(number, before[signal.Signals(number)])

    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}
    for number in wanted:
        signal.signal(number, handler)
    try:
        yield came
    finally:
        for number in wanted:
            signal.signal(number, before[number])
