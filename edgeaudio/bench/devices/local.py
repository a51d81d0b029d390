"""`LocalTransport`: another Python of this machine, be it behind an emulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from edgeaudio.bench.base import Device
from edgeaudio.bench.devices.config import DEFAULT_FOLDER, LocalSpec
from edgeaudio.bench.devices.process import ProcessChannel
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.devices.transport import Channel, RealClock
from edgeaudio.bench.local import LocalDevice


def open_local(name: str, spec: LocalSpec) -> Device:
    """A device of kind `local`: this process, or where it has an entry of its own another Python."""
    if name == "local":
        return LocalDevice()
    return RemoteDevice(LocalTransport(name, (spec.python,)), spec.folder, deadline_s=spec.deadline_s)


def this_machine() -> RemoteDevice:
    """This Python, in a process of its own."""
    return RemoteDevice(LocalTransport("local", (sys.executable,)), DEFAULT_FOLDER)


class LocalTransport:
    """See `edgeaudio.bench.devices.transport.Transport`.

    Args:
        python: what starts the Python; an emulator and its options come before it.
        environment: is added to this process's.
    """

    def __init__(self, name: str, python: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.python = tuple(os.path.expanduser(part) for part in python)
        self.clock = RealClock()
        self._environment = environment

    def start(self, command: Sequence[str], *, data: bytes, hold_input: bool = False) -> Channel:
        """See `Transport.start`."""
        return ProcessChannel(command, data=data, hold_input=hold_input, environment=self._environment)

    def failure(self, code: int, stderr: str) -> str | None:
        """See `Transport.failure`."""
        return None

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return command
