"""devices.yaml: the devices that a user has, by name.

devices:
  pi5: {kind: ssh, host: pi@pi5.local, python: ~/edgeaudio/bin/python, notes: active cooler}
  a72: {kind: emulated, cpu: cortex-a72}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from edgeaudio.bench.emulation.targets import CPUS
from edgeaudio.catalog import DEVICES
from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.spec import Spec

FILE_NAME = "devices.yaml"
DEFAULT_FOLDER = "~/.cache/edgeaudio/runs"
_TEXT_BYTES = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TARGET = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}@)?[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}")


def _plain(text: str) -> str:
    """Text that is one argument on every command line and one line on every terminal."""
    if not text or not text.isprintable() or text.startswith("-") or len(text.encode()) > _TEXT_BYTES:
        raise ValueError(f"{text!r:.80} must be 1 to {_TEXT_BYTES} printable bytes and not begin with '-'")
    return text


def _folder(text: str) -> str:
    if not text.startswith(("/", "~/")):
        raise ValueError(f"{text!r:.80} must begin with '/' or '~/'")
    return _plain(text)


def _target(text: str) -> str:
    if not _TARGET.fullmatch(text):
        raise ValueError(f"{text!r:.80} must be a host, user@host, or a Host of ~/.ssh/config")
    return text


def _emulated_cpu(name: str) -> str:
    if name not in CPUS:
        raise ValueError(f"{name!r:.80} is not emulated. {closest_match_hint(name, CPUS)}")
    return name


class _AnyDevice(Spec):
    """What devices of every kind have.

    folder: where on the device each run has its folder, until it ends.
    """

    folder: Annotated[str, AfterValidator(_folder)] = DEFAULT_FOLDER
    deadline_s: float | None = Field(None, gt=0, le=7 * 24 * 3600, description="of a run; None: from what it measures")
    notes: str = Field("", max_length=500)


class _WithPython(_AnyDevice):
    """python: starts Python 3.11 or newer with NumPy and an engine, such as that of a virtual environment."""

    python: Annotated[str, AfterValidator(_plain)] = "python3"


class LocalSpec(_WithPython):
    """Another Python of this machine; `local` alone, without an entry, is this one."""

    kind: Literal["local"] = "local"


class SshSpec(_WithPython):
    """A machine that OpenSSH reaches without a question. ssh_config: another file than ~/.ssh/config."""

    kind: Literal["ssh"] = "ssh"
    host: Annotated[str, AfterValidator(_target)]
    port: int | None = Field(None, ge=1, le=65535)
    ssh_config: Annotated[str, AfterValidator(_plain)] | None = None


class EmulatedSpec(_AnyDevice):
    """An ARM processor played by this machine: no times, instructions only. Without an entry: `emulated:cortex-a72`.

    cpu: of `edgeaudio.bench.emulation.CPUS`. cache: folder of what `devices setup` makes; None is the default one.
    mirror: a Debian mirror; None is Debian's own.
    """

    kind: Literal["emulated"] = "emulated"
    cpu: Annotated[str, AfterValidator(_emulated_cpu)]
    cache: Annotated[str, AfterValidator(_folder)] | None = None
    mirror: Annotated[str, AfterValidator(_plain)] | None = None


class Fault(Spec):
    """What goes wrong on the way to a fake device, once.

    It happens while `command` runs, after `at_byte` bytes of its output, or of its input, have passed.

    notices: whether the agent sees at once that its link is gone. back_after_s: when a lost board can be reached again;
    None is never.
    """

    command: Literal["describe", "receive", "build", "agent", "remove"]
    kind: Literal["cut", "stall", "slow", "damage", "drop", "double", "garbage", "endless", "reboot", "refuse"]
    at_byte: int = Field(0, ge=0)
    of_input: bool = False
    notices: bool = True
    back_after_s: float | None = Field(0.0, ge=0)


class FakeSpec(_WithPython):
    """A board that is not there, for tests: it answers with the figures of `record`, a result file, as invalid."""

    kind: Literal["fake"] = "fake"
    record: Annotated[str, AfterValidator(_plain)]
    faults: tuple[Fault, ...] = ()


DeviceSpec = Annotated[LocalSpec | SshSpec | EmulatedSpec | FakeSpec, Field(discriminator="kind")]


class DevicesFile(Spec):
    """The whole file."""

    devices: dict[str, DeviceSpec] = Field(default_factory=dict)

    @field_validator("devices")
    @classmethod
    def _names(cls, devices: dict[str, DeviceSpec]) -> dict[str, DeviceSpec]:
        for name in devices:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r:.80} must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with none of . _ -")
            if name in DEVICES:
                raise ValueError(f"{name!r} is the name of a kind; choose another")
        return devices


def find_devices_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """./devices.yaml, else that of the user's configuration; None where there is neither."""
    configuration = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = (Path(FILE_NAME), configuration / "edgeaudio" / FILE_NAME)
    return next((path for path in candidates if path.is_file()), None)


def spec_of(word: str, devices: Mapping[str, DeviceSpec]) -> DeviceSpec:
    """What `--device WORD` means: a name of `devices`, `local`, `user@host`, or `emulated:CPU`.

    Raises:
        ConfigError: none of them, with the closest match.
    """
    if word in devices:
        return devices[word]
    if word == "local":
        return LocalSpec()
    if "@" in word:
        return SshSpec.parse({"host": word}, source="--device")
    kind, colon, cpu = word.partition(":")
    if kind == "emulated" and colon:
        return EmulatedSpec.parse({"cpu": cpu}, source="--device")
    if word in DEVICES:
        raise ConfigError(f"--device {word}: is a kind of device; name one in {FILE_NAME}, or give user@host")
    hint = closest_match_hint(word, ["local", *devices])
    raise ConfigError(
        f"--device {word!r:.80}: no such device. {hint} Others: user@host, emulated:CPU, or name it in {FILE_NAME}."
    )
