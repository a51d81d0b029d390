"""`SshTransport`: the system's OpenSSH, with the user's configuration, keys and known hosts.

Every command is a connection of its own: what holds the link together is the user's affair (ControlMaster in the
configuration is honoured), and after a cut the next command simply connects again.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from edgeaudio.bench.devices.config import SshSpec
from edgeaudio.bench.devices.process import ProcessChannel
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.devices.transport import Channel, RealClock, last_words
from edgeaudio.errors import UnsupportedError

CONNECT_S = 10
# A link that is dead shows after so many unanswered questions.
_ALIVE_S, _ALIVE_COUNT = 5, 3
_SSH_FAILED = 255
_PORT = 22
_MENDS = {
    "Permission denied": "let your key in once: ssh-copy-id {target}",
    "Host key verification failed": "connect once by hand and check the key: ssh {target}",
    "Could not resolve hostname": "check 'host' in devices.yaml",
}


def open_ssh(name: str, spec: SshSpec) -> RemoteDevice:
    """A device of kind `ssh`."""
    config = Path(spec.ssh_config).expanduser() if spec.ssh_config else None
    transport = SshTransport(name, spec.host, python=spec.python, port=spec.port, config=config)
    return RemoteDevice(transport, spec.folder, place=place_of(spec), deadline_s=spec.deadline_s)


def place_of(spec: SshSpec) -> str:
    """The same for every way to write one board: whoever logs in, in whatever case, with the port said or not."""
    return f"{spec.host.rpartition('@')[2].lower().removesuffix('.')}:{spec.port or _PORT}"


class SshTransport:
    """See `edgeaudio.bench.devices.transport.Transport`.

    Args:
        target: `host` or `user@host`, a Host of the configuration included; checked by `DeviceSpec`.
        config: another file than ~/.ssh/config.
    """

    def __init__(
        self, name: str, target: str, *, python: str = "python3", port: int | None = None, config: Path | None = None
    ) -> None:
        self.name = name
        # A command starts in the home folder; quoted, ~ would not be expanded.
        self.python = (python.removeprefix("~/"),)
        self.clock = RealClock()
        self._target = target
        self._own = [*(("-F", str(config)) if config else ()), *(("-p", str(port)) if port else ())]

    def start(self, command: Sequence[str], *, data: bytes, hold_input: bool = False) -> Channel:
        """See `Transport.start`. This is the one place where anything is quoted for a remote shell."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": _ALIVE_S,
            "ServerAliveCountMax": _ALIVE_COUNT,
            "RequestTTY": "no",
            # What a configuration may ask for with a shell in mind.
            "RemoteCommand": "none",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
        }
        given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        line = ["ssh", *self._own, *given, "--", self._target, shlex.join(command)]
        try:
            return ProcessChannel(line, data=data, hold_input=hold_input)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error}. Install OpenSSH: sudo apt-get install openssh-client") from error

    def failure(self, code: int, stderr: str) -> str | None:
        """See `Transport.failure`."""
        if code != _SSH_FAILED:
            return None
        mend = next((mend for sign, mend in _MENDS.items() if sign in stderr), "try it by hand: ssh {target} true")
        return f"{last_words(stderr) or 'ssh lost the connection'}; {mend.format(target=self._by_hand_target)}"

    def by_hand(self, command: str) -> str:
        """See `Transport.by_hand`."""
        return f"ssh -t {self._by_hand_target} {shlex.quote(command)}"

    @property
    def _by_hand_target(self) -> str:
        return shlex.join([*self._own, self._target])
