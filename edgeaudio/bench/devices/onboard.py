"""What runs on a device before anything of edgeaudio is there: sent as text, standard library only, Python 3.7 on.

    python3 -c LOADER LENGTH describe|receive|build|agent|remove ...

`LOADER` reads LENGTH bytes of source from standard input and runs them, so no login shell sees more than that line and
the arguments. Each command answers with messages, one JSON object per line (`message_line`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tarfile
import time
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

#: The home folder is where a command over ssh starts, and no place to import from.
LOADER = (
    "import sys;sys.path[:]=[p for p in sys.path if p];"
    "exec(compile(sys.stdin.buffer.read(int(sys.argv[1])),'onboard.py','exec'))"
)
#: Names of run folders; nothing else is ever removed.
RUN_ID = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
#: The tar file of the runtime among the files of a run, and the folder that it becomes.
RUNTIME_FILE, RUNTIME_FOLDER = "runtime.tar.gz", "runtime"
#: Held by the agent while it runs.
LOCK_FILE = "lock"
#: A folder so old that nobody holds is left over from a lost run.
STALE_S = 600
COMPILE_S = 120
STOP_S = 10.0
_CHUNK = 1 << 16


class Refused(Exception):
    """What a command will not do; its text is the answer."""


def checksum(seq: int, kind: str, body: Any) -> int:
    """CRC-32 over the one byte form of a message."""
    return zlib.crc32(json.dumps([seq, kind, body], sort_keys=True, separators=(",", ":")).encode("ascii"))


def message_line(seq: int, kind: str, body: Any) -> bytes:
    """A message as a line, newline included."""
    fields = {"seq": seq, "kind": kind, "crc32": checksum(seq, kind, body), "body": body}
    return (json.dumps(fields, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def run_folder(parent: str, run_id: str) -> str:
    """The absolute path of a run's folder."""
    if not re.fullmatch(RUN_ID, run_id):
        raise Refused(f"{run_id!r} is no name of a run")
    return os.path.join(_absolute(parent), run_id)


def describe(parent: str, *packages: str) -> dict[str, Any]:
    """What the host must know before it sends anything. Removes what lost runs left."""
    folder = _absolute(parent)
    existing = folder
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    paths = sysconfig.get_paths()
    in_venv = sys.prefix != sys.base_prefix
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "externally_managed": not in_venv and os.path.exists(os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
        "has_ensurepip": os.path.isdir(os.path.join(paths["stdlib"], "ensurepip")),
        "python_headers": os.path.exists(os.path.join(paths["include"], "Python.h")),
        "compiler": shutil.which("cc") or shutil.which("gcc"),
        "architecture": platform.machine(),
        "userland_bits": struct.calcsize("P") * 8,
        "multiarch": sysconfig.get_config_var("MULTIARCH") or "",
        "libc": " ".join(platform.libc_ver()).strip(),
        "kernel": platform.release(),
        "os": _os_name(),
        "model": _text("/proc/device-tree/model").strip("\0\n ") or None,
        "cpu_flags": _cpu_flags(),
        "cores": os.cpu_count() or 1,
        "folder": folder,
        "folder_writable": os.access(existing, os.W_OK | os.X_OK),
        "free_disk_bytes": shutil.disk_usage(existing).free,
        "packages": {name: _version(name) for name in packages},
        "apt": shutil.which("apt-get") is not None,
        "root": os.geteuid() == 0,
        "jetson": os.path.exists("/etc/nv_tegra_release"),
        "swept": _sweep(folder),
    }


def receive(parent: str, run_id: str, stream: BinaryIO) -> dict[str, Any]:
    """Make a run's folder from `stream`: a line of JSON that lists name, size and SHA-256 of each file, then the bytes.

    Whatever goes wrong, no folder stays.
    """
    folder = run_folder(parent, run_id)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    os.mkdir(folder, 0o700)
    try:
        for entry in json.loads(stream.readline(1 << 20).decode("utf-8")):
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", entry["name"]):
                raise Refused(f"{entry['name']!r} is no name of a file")
            _receive_file(stream, os.path.join(folder, entry["name"]), entry["bytes"], entry["sha256"])
        runtime = os.path.join(folder, RUNTIME_FILE)
        if os.path.exists(runtime):
            with tarfile.open(runtime) as archive:
                archive.extractall(os.path.join(folder, RUNTIME_FOLDER))
            os.unlink(runtime)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"folder": folder}


def build(parent: str, run_id: str) -> dict[str, Any]:
    """Compile the front-end in C into the runtime that was received, where what was sent with it does not load."""
    sys.path.insert(0, os.path.join(run_folder(parent, run_id), RUNTIME_FOLDER))
    from edgeaudio.frontend.native import flags

    folder = os.path.dirname(os.path.abspath(flags.__file__))
    target = os.path.join(folder, "_logmel.abi3.so")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {"built": False, "detail": "no C compiler"}
    command = [compiler, *flags.COMPILER_FLAGS["unix"], "-D{}={}".format(*flags.LIMITED_API), "-fPIC", "-shared"]
    command += ["-I" + sysconfig.get_paths()["include"], "-I" + folder, "-o", target]
    command += [os.path.join(folder, name) for name in flags.SOURCES]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=COMPILE_S)
    detail = done.stderr.decode("utf-8", "replace").strip()[-400:]
    return {"built": done.returncode == 0, "detail": detail}


def agent(parent: str, run_id: str, deadline_s: str) -> int:
    """Be the agent of a run that was received, as `python3 -m edgeaudio.bench.agent FOLDER DEADLINE_S` is."""
    folder = run_folder(parent, run_id)
    runtime = os.path.join(folder, RUNTIME_FOLDER)
    sys.path.insert(0, runtime)
    # For the processes that the agent starts.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (runtime, os.environ.get("PYTHONPATH"))))
    from edgeaudio.bench.agent import main as run_agent

    return run_agent(folder, deadline_s)


def remove(parent: str, run_id: str) -> dict[str, Any]:
    """Stop the agent of a run, if it still works, and remove the folder."""
    folder = run_folder(parent, run_id)
    was_there = os.path.lexists(folder)
    if was_there:
        _stop_holder(os.path.join(folder, LOCK_FILE))
        shutil.rmtree(folder)
    return {"folder": folder, "was_there": was_there}


def main(arguments: list[str], stdin: BinaryIO, write: Callable[[bytes], Any]) -> int:
    """Run one command; its answer is one message, or what the agent says."""
    command, rest = arguments[0], arguments[1:]
    try:
        if command == "agent":
            return agent(*rest)
        body = receive(rest[0], rest[1], stdin) if command == "receive" else _COMMANDS[command](*rest)
    except (Refused, OSError, ValueError, KeyError, ImportError, tarfile.TarError, subprocess.SubprocessError) as error:
        # As the command line's: 5 the link is bad, 6 this machine lacks something.
        exit_code = 6 if isinstance(error, (OSError, ImportError)) else 5
        body = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code}
        write(message_line(0, "error", body))
        return 1
    write(message_line(0, command, body))
    return 0


_COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"describe": describe, "build": build, "remove": remove}


def _receive_file(stream: BinaryIO, path: str, size: int, sha256: str) -> None:
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        while size:
            chunk = stream.read(min(size, _CHUNK))
            if not chunk:
                raise Refused(f"{os.path.basename(path)} ends {size} bytes early")
            digest.update(chunk)
            file.write(chunk)
            size -= len(chunk)
    if digest.hexdigest() != sha256:
        raise Refused(f"{os.path.basename(path)} arrived damaged")


def _sweep(parent: str) -> int:
    """Remove the folders of lost runs; returns how many."""
    swept = 0
    for name in os.listdir(parent) if os.path.isdir(parent) else ():
        folder = os.path.join(parent, name)
        if re.fullmatch(RUN_ID, name) and not os.path.islink(folder) and _is_stale(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept += not os.path.exists(folder)
    return swept


def _is_stale(folder: str) -> bool:
    age_s = abs(time.time() - os.stat(folder).st_mtime)
    return age_s >= STALE_S and _holder(os.path.join(folder, LOCK_FILE)) is None


def _holder(lock_file: str) -> int | None:
    """The process that holds a lock file and wrote its number there."""
    try:
        with open(lock_file, "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(lock.read(20))
    except (OSError, ValueError):
        pass
    return None


def _stop_holder(lock_file: str) -> None:
    """An agent that was asked to stop puts back what it changed; one that does not listen is killed."""
    for number, patience_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 1.0)):
        end_s = time.monotonic() + patience_s
        holder = _holder(lock_file)
        if holder is None:
            return
        os.kill(holder, number)
        while _holder(lock_file) == holder and time.monotonic() < end_s:
            time.sleep(0.05)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _version(package: str) -> str | None:
    try:
        from importlib import metadata

        return metadata.version(package)
    except Exception:  # noqa: BLE001 (before Python 3.8 there is no such module, and metadata may be damaged)
        return None


def _cpu_flags() -> list[str]:
    for line in _text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return sorted(set(value.split()))
    return []


def _os_name() -> str:
    for line in _text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.platform(terse=True)


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


if __name__ == "__main__":
    _stdout = os.fdopen(os.dup(1), "wb", 0)
    sys.exit(main(sys.argv[2:], sys.stdin.buffer, _stdout.write))
