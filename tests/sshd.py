"""A real sshd on this machine with keys of its own, and the files that lead a client to it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.mosquitto import free_port
from tests.stream_driver import eventually

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")


class Sshd:
    """Listens on 127.0.0.1 until it is stopped. `config` is for `ssh -F`; in it the machine is called `board`."""

    def __init__(self, folder: Path) -> None:
        if SSHD is None or shutil.which("ssh") is None:
            pytest.skip("no sshd here: apt-get install openssh-server openssh-client")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Where it puts itself apart; made at boot elsewhere.
        self.folder = folder
        self.port = free_port()
        for name in ("host", "id", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "authorized_keys").write_bytes((folder / "id.pub").read_bytes())
        host_key = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        self.config = self.client_config("id", "known_hosts")
        self._process: subprocess.Popen[bytes] | None = None

    def client_config(self, key: str, known_hosts: str) -> Path:
        """A configuration with another key or other known hosts."""
        path = self.folder / f"client-{key}-{known_hosts}"
        lines = [
            "Host board",
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {getpass.getuser()}",
            f"IdentityFile {self.folder / key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.folder / known_hosts}",
            "GlobalKnownHostsFile none",
            "StrictHostKeyChecking yes",
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert SSHD is not None
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            f"PidFile {self.folder / 'sshd.pid'}",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        log = (self.folder / "sshd.log").open("ab")
        # sshd starts itself again for each connection and wants its own absolute path for that.
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(listens)

    def cut_connections(self) -> None:
        """End every connection without a word, as a pulled cable does once it is noticed; new ones are taken."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children(recursive=True):
            if child.name().startswith("sshd"):
                child.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it and every connection."""
        if self._process is not None:
            self.cut_connections()
            self._process.kill()
            self._process.wait()
            self._process = None
