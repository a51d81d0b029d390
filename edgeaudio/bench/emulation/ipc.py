"""From instructions to a band of latency: clocks of boards, and instructions per cycle (IPC), assumed or measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from edgeaudio.errors import ConfigError
from edgeaudio.spec import Spec
from edgeaudio.spec.fs import atomic_write


@dataclass(frozen=True)
class Basis:
    """What a band of latency rests on. ipc: from and to. calibrated_on: the board it was measured on; None: assumed."""

    clock_mhz: float
    ipc: tuple[float, float]
    calibrated_on: str | None = None

    def latency_ms(self, instructions: int) -> tuple[float, float]:
        """How long so many instructions take, from and to."""
        low, high = self.ipc
        return instructions / (high * self.clock_mhz * 1e3), instructions / (low * self.clock_mhz * 1e3)


#: CPU -> clock of the first board of `targets.CPUS` it is found in, by Raspberry Pi's documentation, and an IPC that is
#: **assumed**: no board was measured. Source: the width of each core. A76 starts two 128-bit vector instructions in a
#: cycle, A72 one, A53 and A7 run in order, A7 with vectors of half the width; neural kernels then wait for memory.
ASSUMED: Final[Mapping[str, Basis]] = {
    "cortex-a76": Basis(2400, (1.8, 2.8)),
    "cortex-a72": Basis(1500, (1.0, 1.5)),
    "cortex-a53": Basis(1200, (0.6, 1.0)),
    "cortex-a7": Basis(900, (0.3, 0.7)),
}


class Calibration(Spec):
    """IPC that a real board had, over the artefacts of one engine and precision.

    ipc: from and to, over the artefacts and the 95 % intervals of their medians. spread_share: of the IPC of single
    artefacts, largest less smallest over the median. run_ids: of the measured run and of the counted one.
    """

    cpu: str
    engine: str
    precision: str
    board: str
    clock_mhz: float = Field(gt=0)
    ipc: tuple[float, float]
    ipc_median: float = Field(gt=0)
    spread_share: float = Field(ge=0)
    n_artefacts: int = Field(ge=1)
    bundle_sha256: str
    run_ids: tuple[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is of: the next calibration of the same takes its place."""
        return self.cpu, self.engine, self.precision


class CalibrationFile(Spec):
    """The whole file."""

    file_version: Literal[1] = 1
    calibrations: tuple[Calibration, ...] = ()


def calibration_path(environment: Mapping[str, str] = os.environ) -> Path:
    """`ipc.json` of the user's configuration."""
    configuration = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return configuration / "edgeaudio" / "ipc.json"


def read_calibrations(path: Path) -> tuple[Calibration, ...]:
    """What was measured so far; nothing where there is no file.

    Raises:
        ConfigError: the file is damaged; names it and the field.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable calibration ({error}). Run 'bench calibrate' again.") from error
    return CalibrationFile.parse(value, source=str(path)).calibrations


def keep_calibrations(made: Iterable[Calibration], path: Path) -> None:
    """Add `made` to the file; what was there of the same CPU, engine and precision goes."""
    kept = {item.key: item for item in (*read_calibrations(path), *made)}
    path.parent.mkdir(parents=True, exist_ok=True)
    file = CalibrationFile(calibrations=tuple(kept[key] for key in sorted(kept)))
    atomic_write(path, file.model_dump_json(indent=1).encode() + b"\n")


def basis_of(cpu: str, engine: str, precision: str, calibrations: Sequence[Calibration]) -> Basis:
    """Measured where it was, else assumed."""
    for item in calibrations:
        if item.key == (cpu, engine, precision):
            return Basis(item.clock_mhz, item.ipc, item.board)
    return ASSUMED[cpu]
