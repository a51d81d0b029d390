"""How the benchmarks here keep what they measured: on which machine, how busy it was, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgeaudio.bench.environment import package_versions
from edgeaudio.bench.probes.linux import cpu_description
from edgeaudio.spec.fs import atomic_write

#: The measuring process itself makes a load of 1.
QUIET_LOAD = 1.5


def command_line() -> str:
    """What was typed."""
    return shlex.join(["python", *sys.argv])


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def machine_facts(load_before: float) -> dict[str, Any]:
    """What was typed, the machine, what is installed, and how busy it was; `load_before` is that of the begin."""
    load_after = load_average()
    return {
        "command": command_line(),
        "cpu": cpu_description()[0],
        "cores": os.cpu_count() or 1,
        "packages": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
        "load_before": load_before,
        "load_after": load_after,
        "quiet": "quiet" if max(load_before, load_after) < QUIET_LOAD else "NOT quiet, other work ran on the machine",
    }


def write_record(out: Path | None, markdown: str, record: Mapping[str, Any] | BaseModel) -> None:
    """OUT.md and OUT.json, and the first to standard output. `out` is without suffix; None writes no files."""
    print(markdown)
    if out is None:
        return
    data = record.model_dump_json(indent=1) if isinstance(record, BaseModel) else json.dumps(record, indent=1)
    atomic_write(out.with_name(f"{out.name}.json"), data.encode() + b"\n")
    atomic_write(out.with_name(f"{out.name}.md"), markdown.encode())
