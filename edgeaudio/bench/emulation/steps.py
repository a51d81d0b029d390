"""Running one program to its end, and folders that are there whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edgeaudio.errors import UnsupportedError


class Said(NamedTuple):
    """What a command wrote to standard output and standard error."""

    out: str
    err: str


def run_step(name: str, command: Sequence[str], *, deadline_s: float, cwd: Path | None = None) -> Said:
    """Run one command to its end.

    Raises:
        UnsupportedError: the program is missing, failed, or took longer than `deadline_s`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, cwd=cwd, check=False)
    except FileNotFoundError as error:
        raise UnsupportedError(f"{name}: {command[0]} is not installed on this machine; install it") from error
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(f"{name}: no end after {deadline_s:.0f} s: {' '.join(command)[:200]}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-600:]
        raise UnsupportedError(f"{name}: exit code {done.returncode} of {' '.join(command)[:200]}: {said}")
    return Said(done.stdout, done.stderr)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it to `path` when the block succeeds, else remove it.

    Where another process was faster its folder stays: the name is a digest of what is in it.
    """
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def digest(*texts: str) -> str:
    """Twelve hexadecimal digits for the name of what is made from `texts`."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
