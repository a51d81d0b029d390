"""`RemoteDevice`: a benchmark behind a transport, from preflight to the checked result."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from edgeaudio.bench.agent import BUNDLE_FILE, CLIPS_FILE, REQUEST_FILE, AgentRequest, foreign_file
from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.board import Board
from edgeaudio.bench.devices.collect import broken_off, collect
from edgeaudio.bench.devices.preflight import Description, Finding, missing, preflight
from edgeaudio.bench.devices.protocol import Message
from edgeaudio.bench.devices.recompute import subjects_of
from edgeaudio.bench.devices.session import Session
from edgeaudio.bench.devices.transport import Transport
from edgeaudio.bench.harness import new_run_id
from edgeaudio.bench.marked_sounds import MarkedSounds
from edgeaudio.bench.schema import MAX_RUN_HOPS, BenchResult, ResultKind
from edgeaudio.bench.subjects import BundleSubject
from edgeaudio.bundle import Bundle
from edgeaudio.bundle.container import pack
from edgeaudio.errors import ConfigError, UnsupportedError, VerificationError

#: Of a run, beside what it measures: connecting, sending, imports, checks, clean-up; and per artefact to load.
_RUN_S, _ARTEFACT_S = 300.0, 60.0
# A hop on the slowest board that is worth waiting for.
_SLOW_HOP_S = 0.5
# Of its length: a sound is first heard without a clock, which takes a slow board as long as with one.
_SOUND_HEARD = 2
_LOOK_S = 180.0


class RemoteDevice:
    """See `edgeaudio.bench.base.Device`.

    folder: parent of the run folders on the device. deadline_s: of a run; None follows from what it measures.
    counted_hops: of an emulated processor, which has a runtime of its own and times nothing.
    """

    def __init__(
        self,
        transport: Transport,
        folder: str,
        *,
        place: str | None = None,
        deadline_s: float | None = None,
        counted_hops: int = 0,
    ) -> None:
        self.name = transport.name
        self.place = place
        self._transport = transport
        self._folder = folder
        self._deadline_s = deadline_s
        self._counted_hops = counted_hops

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        """See `Device.bench`.

        Raises:
            ConfigError: more samples are asked for than may come back.
            VerificationError: what came back is not of this run, or cannot be true.
        """
        return self.run(job, on_progress=on_progress, interrupted=interrupted)[0]

    def run(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> tuple[BenchResult, list[Message]]:
        """As `bench`, with all that the device said."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        check_size(job)
        session = self._session(job.deadline_s or self._deadline_s or default_deadline_s(job), on_progress, interrupted)
        files = self._files(job, session.run_id)
        description = session.describe()
        self._require(preflight(description, self._transport.by_hand, _formats(job), sum(map(len, files.values()))))
        start_s = self._transport.clock.now()
        messages = session.run_agent(description, files)
        elapsed_s = self._transport.clock.now() - start_s
        why = broken_off(messages)
        if why is not None:
            raise session.broken(f"{self.name}: {why}", messages)
        kind: ResultKind = "estimated" if self._counted_hops else "measured"
        result = collect(messages, job, self.name, session.run_id, elapsed_s, kind=kind)
        # Boards without a battery do not know what day it is.
        return result.model_copy(update={"started_at": started_at}), messages

    def _files(self, job: BenchJob, run_id: str) -> dict[str, bytes]:
        """What the agent reads."""
        request = AgentRequest(
            task="bench",
            run_id=run_id,
            device=self.name,
            bundle_sha256=job.bundle.sha256,
            artefacts=job.artefacts if job.artefacts == "all" else tuple(job.artefacts),
            engine=job.engine,
            threads=job.threads,
            options=job.options,
            foreign=tuple(model.name for model in job.foreign),
            clips=job.clips is not None,
            counted_hops=self._counted_hops,
        )
        files = {BUNDLE_FILE: pack(job.bundle.entries), REQUEST_FILE: request.model_dump_json().encode()}
        files |= {foreign_file(number): model.payload for number, model in enumerate(job.foreign)}
        return files | ({CLIPS_FILE: job.clips.to_bytes()} if job.clips is not None else {})

    def look(self) -> tuple[Description, list[Finding]]:
        """What the device is, and what it lacks. Nothing is sent there.

        Raises:
            DeviceError: it cannot be reached. UnsupportedError: there is no Python.
        """
        description = self._session(_LOOK_S).describe()
        return description, preflight(description, self._transport.by_hand)

    def probe(self) -> dict[str, Any]:
        """The board, as the device rooms see it from there.

        Raises:
            DeviceError: it cannot be reached. UnsupportedError: it lacks what these rooms import.
            VerificationError: what it answers is no board.
        """
        session = self._session(_LOOK_S)
        request = AgentRequest(task="probe", run_id=session.run_id, device=self.name)
        description = session.describe()
        findings = preflight(description, self._transport.by_hand)
        self._require([item for item in findings if not item.subject.startswith("engine")])
        messages = session.run_agent(description, {REQUEST_FILE: request.model_dump_json().encode()})
        told = next((message.body.get("board") for message in messages if message.kind == "result"), None)
        try:
            board = Board.parse(told, source=self.name)
        except ConfigError as error:
            raise VerificationError(f"{self.name}: what it answers is no board: {error}") from error
        return {"board": board.model_dump(mode="json")}

    def _session(
        self, deadline_s: float, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> Session:
        interrupted = interrupted or threading.Event()
        has_runtime = self._counted_hops > 0
        return Session(self._transport, self._folder, new_run_id(), deadline_s, on_progress, interrupted, has_runtime)

    def _require(self, findings: list[Finding]) -> None:
        lacks = missing(findings)
        if lacks:
            raise UnsupportedError(f"{self.name} cannot run this: {lacks}. See 'edgeaudio devices doctor {self.name}'")


def check_size(job: BenchJob) -> None:
    """Raise ConfigError where the samples of all artefacts together are more than a device may send."""
    rate_hz, options = job.bundle.manifest.frontend.sample_rate, job.options
    hops_s = [subject.hop_samples / rate_hz for subject in subjects_of(job).values()]
    n_hops = sum(options.min_hops + options.paced_s / hop_s for hop_s in hops_s)
    if n_hops > MAX_RUN_HOPS:
        raise ConfigError(
            f"{n_hops:.0f} hops of {len(hops_s)} artefacts: the samples of at most {MAX_RUN_HOPS} come back from a "
            "device. Ask for fewer hops, fewer paced seconds, or fewer artefacts in one run."
        )


def default_deadline_s(job: BenchJob) -> float:
    """Long enough for a slow board: it ends what hangs, not what takes its time."""
    options, clips = job.options, job.clips
    subjects = _subjects(job)
    n_artefacts = len(subjects) + len(job.foreign)
    hops = options.min_hops + options.warmup_hops
    each_s = _ARTEFACT_S + 2 * options.min_seconds + _SLOW_HOP_S * hops + 2 * options.paced_s
    # Power is read again while each artefact works.
    each_s += options.idle_s
    if options.cold_starts:
        # One comes first that is not counted.
        each_s += (options.cold_starts + 1) * _ARTEFACT_S
    if options.marked_sounds:
        each_s += options.marked_sounds * _SOUND_HEARD * _marked_sound_s(job.bundle)
    heard_samples = 0.0 if clips is None else clips.duration_s * job.bundle.manifest.frontend.sample_rate
    heard_hops = sum(heard_samples / subject.hop_samples for subject in subjects)
    return _RUN_S + options.idle_s + n_artefacts * each_s + _SLOW_HOP_S * heard_hops


def _marked_sound_s(bundle: Bundle) -> float:
    """A marked sound with the pauses on both its sides."""
    rate = bundle.manifest.frontend.sample_rate
    return max(len(audio.waveform) / rate for audio in MarkedSounds(bundle, rate).lots(1))


def _formats(job: BenchJob) -> set[str] | None:
    """The formats that an engine is needed for; None where "all" takes those that run."""
    if job.engine is None and job.artefacts == "all":
        return None
    return {file.format for subject in _subjects(job) for file in subject.files}


def _subjects(job: BenchJob) -> list[BundleSubject]:
    """What of the bundle is to be run."""
    return [subject for subject in subjects_of(job).values() if isinstance(subject, BundleSubject)]
