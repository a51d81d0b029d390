"""`stream`: live audio in, one JSON object per record out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import typer

from edgeaudio.cli.decide import DecisionOptions, decision_of
from edgeaudio.cli.groups import SectionedCommand, takes_groups
from edgeaudio.cli.inputs import Input, InputOptions, source_of
from edgeaudio.cli.options import BundleFile, Engine, Exits, Frontend, Precision, Stateful, Threads, examples
from edgeaudio.cli.outputs import OutputOptions, open_outputs
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.audio.source import AudioSource
    from edgeaudio.frontend.choice import FrontendChoice
    from edgeaudio.runtime.classifier import Classifier
    from edgeaudio.runtime.live import Stream
    from edgeaudio.runtime.observer import Health
    from edgeaudio.runtime.systemd import ServiceReport
    from edgeaudio.spec import DecisionSpec

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
    app.command("stream", cls=SectionedCommand, epilog=stream_examples)(stream)


@dataclass(frozen=True)
class LiveOptions:
    """How the stream is kept alive (see `groups`)."""

    HEADINGS: ClassVar = {"on_overrun": "Upkeep"}

    on_overrun: Annotated[
        str, typer.Option(metavar="WHAT", help="When a live input is faster than this machine: drop-oldest or fail.")
    ] = "drop-oldest"
    ring_ms: Annotated[
        int, typer.Option(min=500, metavar="MS", help="Audio that waits at most before it is dropped.")
    ] = 4000
    health_every: Annotated[
        float, typer.Option(min=0, metavar="S", help="Print health on stderr, as JSON, this often. 0: never.")
    ] = 0


@takes_groups
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
    inputs: InputOptions = InputOptions(),  # noqa: B008 (frozen, as all groups)
    decide: DecisionOptions = DecisionOptions(),  # noqa: B008
    live: LiveOptions = LiveOptions(),
    outputs: OutputOptions = OutputOptions(),  # noqa: B008
) -> None:
    """Print the events in live audio, one JSON object per line.

    Listens to a microphone, a file, the new files of a folder, or raw PCM on standard input, until that ends, until
    Ctrl-C (exit code 130) or SIGTERM (exit code 0). A summary goes to stderr.
    """
    from edgeaudio.cli.health import service_report
    from edgeaudio.runtime.classifier import Classifier

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
    decision = decision_of(classifier.decision, decide)
    opened, channel = source_of(source, inputs, classifier.sample_rate)
    service = service_report(os.environ)
    streaming = _open(classifier, opened, decision, channel, live, outputs, service)
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


def _open(
    classifier: Classifier,
    source: AudioSource,
    decision: DecisionSpec,
    channel: int | None,
    live: LiveOptions,
    outputs: OutputOptions,
    service: ServiceReport | None,
) -> Stream:
    """The stream with all its outputs; where it does not open, they are closed again."""
    from edgeaudio.cli.health import HealthLines
    from edgeaudio.outputs.info import StreamInfo
    from edgeaudio.runtime.live import Stream
    from edgeaudio.runtime.watchdog import OverrunPolicy, StreamOptions

    options = StreamOptions(on_overrun=cast(OverrunPolicy, live.on_overrun), ring_s=live.ring_ms / 1000)
    info = StreamInfo.of(classifier, source=source.name, decision=decision)
    observers = open_outputs(info, outputs, live=source.live)
    if live.health_every:
        observers.append(HealthLines(live.health_every))
    try:
        return Stream(
            classifier,
            source,
            decision=decision,
            channel=channel,
            observers=observers,
            options=options,
            on_tick=service.tick if service else None,
        )
    except BaseException:
        for observer in observers:
            observer.close()
        raise


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
