"""`EmulatedDevice`: an ARM processor that this machine plays. It answers and counts instructions; it has no time."""

from __future__ import annotations

import functools
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.board import Board
from edgeaudio.bench.counting import Label
from edgeaudio.bench.devices import onboard
from edgeaudio.bench.devices.config import EmulatedSpec
from edgeaudio.bench.devices.local import LocalTransport
from edgeaudio.bench.devices.preflight import Description, Finding, preflight
from edgeaudio.bench.devices.protocol import Message
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.devices.transport import Channel, Transport
from edgeaudio.bench.emulation import MIRROR, Emulator, cpu_named, default_cache, install
from edgeaudio.bench.emulation.estimate import StageCounts, counts_of, estimate
from edgeaudio.bench.emulation.ipc import Calibration, basis_of, calibration_path, read_calibrations
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.bench.verdict import judged
from edgeaudio.errors import ConfigError, VerificationError

logger = logging.getLogger(__name__)

#: Processes, each of which counts so many hops of each artefact: the spread is among processes.
PROCESSES, COUNTED_HOPS = 2, 8
_QUIET: Callable[[str], None] = logger.info

#: What starts the agent in an emulator that writes its counts to a file.
OpenTransport = Callable[[str, Emulator, Path], Transport]


def open_emulated(name: str, spec: EmulatedSpec) -> EmulatedDevice:
    """A device of kind `emulated`."""
    return EmulatedDevice(name, spec)


class EmulatedTransport(LocalTransport):
    """Python on an emulated CPU; the instructions of the agent are counted into the file `counts`."""

    def __init__(self, name: str, emulator: Emulator, counts: Path) -> None:
        super().__init__(name, emulator.python())
        self._agent_python = tuple(emulator.python(counts=counts))

    def start(self, command: Sequence[str], *, data: bytes, hold_input: bool = False) -> Channel:
        """See `Transport.start`."""
        arguments = command[len(self.python) :]
        if arguments[arguments.index(onboard.LOADER) + 2] == "agent":
            command = (*self._agent_python, *arguments)
        return super().start(command, data=data, hold_input=hold_input)

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`. Whatever is missing there, the set-up brings it."""
        return f"edgeaudio devices setup {self.name}"


class EmulatedDevice:
    """See `edgeaudio.bench.base.Device`. Its results are estimates."""

    #: It needs this machine's processor.
    place = None

    def __init__(self, name: str, spec: EmulatedSpec, open_transport: OpenTransport = EmulatedTransport) -> None:
        """Raises ConfigError: there is no such CPU model."""
        self.name = name
        self.cpu = cpu_named(spec.cpu)
        self._spec = spec
        self._open_transport = open_transport

    def set_up(self, progress: Callable[[str], None] = _QUIET, *, offline: bool = False) -> Emulator:
        """Make what is missing, and say in lines what it is; what is there is used again.

        Raises:
            UnsupportedError: a step failed, or with `offline` something would have to be fetched.
        """
        cache = Path(self._spec.cache).expanduser() if self._spec.cache else default_cache()
        mirror = self._spec.mirror or MIRROR
        mend = f"edgeaudio devices setup {self.name}" if offline else None
        return install(cache, cpu=self._spec.cpu, mirror=mirror, progress=progress, offline=mend)

    def look(self) -> tuple[Description, list[Finding]]:
        """See `RemoteDevice.look`. Raises UnsupportedError: it is not set up."""
        emulator = self.set_up(offline=True)
        transport = self._open_transport(self.name, emulator, Path("/dev/null"))
        described, _ = self._remote(transport).look()
        # Programs that are not in the guest's root are this machine's: its compiler is none of the guest's.
        compiler = None if emulator.no_native else self.cpu.architecture.compiler
        description = described.model_copy(update={"compiler": compiler, "model": f"{self.cpu.name}, emulated"})
        return description, preflight(description, transport.by_hand)

    def probe(self) -> dict[str, Any]:
        """See `RemoteDevice.probe`: what of a board an emulator has."""
        description, _ = self.look()
        board = Board(
            cpu_model=f"{self.cpu.name}, emulated",
            cpu_flags=description.cpu_flags,
            architecture=description.architecture,
            userland_bits=32 if description.userland_bits == 32 else 64,
            virtualised=True,
            os=description.os,
            libc=description.libc or None,
        )
        return {"board": board.model_dump(mode="json")}

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        """See `Device.bench`. Whatever of `job` asks for times is passed over.

        Raises:
            UnsupportedError: it is not set up, or nothing can run there.
            VerificationError: two processes answered differently.
        """
        if job.threads != 1:
            raise ConfigError(f"{self.name}: instructions are counted of one thread, not of {job.threads}")
        tell = on_progress or (lambda stage, artefact, done, total: None)
        emulator = self.set_up(lambda line: tell(f"set-up: {line}", None, 0, 0), offline=True)
        results: list[BenchResult] = []
        counts: list[dict[int, StageCounts]] = []
        with tempfile.TemporaryDirectory(prefix="edgeaudio-counts-") as folder:
            for number in range(PROCESSES):
                file = Path(folder) / f"{number}.txt"
                remote = self._remote(self._open_transport(self.name, emulator, file))
                # The clips are heard once: they take longest.
                result, messages = remote.run(
                    replace(job, clips=None) if results else job, on_progress=on_progress, interrupted=interrupted
                )
                results.append(result)
                counts.append(counts_of(file.read_text(), labels_of(messages, self.name), self.name))
        _check_alike(results, self.name)
        counted = [self._counted(item, number, counts, emulator) for number, item in enumerate(results[0].artefacts)]
        return judged(results[0].model_copy(update={"artefacts": tuple(counted)}))

    def _remote(self, transport: Transport) -> RemoteDevice:
        return RemoteDevice(transport, self._spec.folder, deadline_s=self._spec.deadline_s, counted_hops=COUNTED_HOPS)

    def _counted(
        self, item: ArtefactResult, number: int, counts: Sequence[Mapping[int, StageCounts]], emulator: Emulator
    ) -> ArtefactResult:
        """`item` with its estimate; without one where its answers are wrong."""
        if not all(number in process for process in counts):
            return item
        basis = basis_of(self.cpu.name, item.engine, item.precision, self._calibrations)
        made = estimate(
            [process[number] for process in counts], cpu=self.cpu.name, emulator=emulator.version, basis=basis
        )
        return item.model_copy(update={"estimate": made})

    @functools.cached_property
    def _calibrations(self) -> tuple[Calibration, ...]:
        return read_calibrations(calibration_path())


def labels_of(messages: Sequence[Message], device: str) -> list[Label]:
    """What the agent says of its marks.

    Raises:
        VerificationError: it says nothing, or something else.
    """
    said = [message.body.get("labels") for message in messages if message.kind == "segments"]
    if len(said) != 1 or not isinstance(said[0], list):
        raise VerificationError(f"{device}: the run ended without a word on its marks")
    try:
        labels = [Label(*label) for label in said[0]]
    except TypeError as error:
        raise VerificationError(f"{device}: marks are not labelled: {error}") from error
    if any(not (type(x.artefact) is int and type(x.hop) is int and isinstance(x.stage, str)) for x in labels):
        raise VerificationError(f"{device}: a mark has a label that is none")
    return labels


def _check_alike(results: Sequence[BenchResult], device: str) -> None:
    """The same work must have been done in every process."""
    first, *others = [[(item.artefact, item.engine, item.parity) for item in result.artefacts] for result in results]
    for other in others:
        if other != first:
            raise VerificationError(f"{device}: two processes answered differently: {first} and {other}"[:600])
