"""The emulated machines of the tests here: set up on first use, then kept in the cache folder."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeaudio.bench.emulation import MIRROR, Emulator, default_cache, install, run_step

VERBS = Path(__file__).with_name("verbs.py")
CPUS_64, CPU_32 = ("cortex-a72", "cortex-a76"), "cortex-a7"
CPUS = (*CPUS_64, CPU_32)
#: Far more than a quiet machine needs.
DEADLINE_S = 1500


class Answer(NamedTuple):
    """What a verb gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Answers(NamedTuple):
    """Of verbs that ran in one process; `err` is what its libraries wrote beside them."""

    of_verbs: list[Answer]
    err: str


@functools.cache
def emulator(cpu: str) -> Emulator:
    mirror = os.environ.get("EDGEAUDIO_DEBIAN_MIRROR", MIRROR)
    return install(default_cache(), cpu=cpu, mirror=mirror, progress=lambda line: print(line, file=sys.stderr))


def engines_of(cpu: str) -> list[str]:
    return ["litert"] if cpu == CPU_32 else ["onnx", "litert"]


def frontends_of(cpu: str) -> list[str]:
    """Both, if there is a cross-compiler: a test that is about the native one calls `require_native`."""
    return ["numpy"] if emulator(cpu).no_native else ["numpy", "native"]


def require_native(cpu: str) -> None:
    if emulator(cpu).no_native:
        pytest.skip(emulator(cpu).no_native)


def ask(cpu: str | None, asked: Sequence[Sequence[str]]) -> Answers:
    """Run verbs in one process on `cpu`, or on this machine."""
    with tempfile.TemporaryDirectory() as name:
        given, made = Path(name) / "asked.json", Path(name) / "answers.json"
        given.write_text(json.dumps(asked))
        if cpu is None:
            said = run_step("verbs", [sys.executable, str(VERBS), str(given), str(made)], deadline_s=DEADLINE_S)
        else:
            said = emulator(cpu).run(f"verbs on {cpu}", VERBS, given, made, deadline_s=DEADLINE_S)
        return Answers([Answer(**answer) for answer in json.loads(made.read_text())], said.err)
