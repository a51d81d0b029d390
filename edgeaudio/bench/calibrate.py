"""Instructions per cycle (IPC) of a real board, from the same artefacts timed there and counted on its emulated CPU.

*Not run on hardware*: exercised on records made by hand.
"""

from __future__ import annotations

import platform
import statistics
import struct
from collections import defaultdict
from collections.abc import Iterator

from edgeaudio.bench.base import BenchJob, Device, OnProgress
from edgeaudio.bench.compare import invalid_reasons
from edgeaudio.bench.devices.emulated import EmulatedDevice
from edgeaudio.bench.devices.remote import RemoteDevice
from edgeaudio.bench.emulation.counts import spread
from edgeaudio.bench.emulation.ipc import Calibration
from edgeaudio.bench.emulation.targets import Cpu
from edgeaudio.bench.schema import ArtefactResult, BenchResult
from edgeaudio.bench.verdict import fastest_mhz
from edgeaudio.errors import BenchInvalidError, ConfigError, UnsupportedError

#: Names of an ARM core in /proc/cpuinfo's words begin so, where they are known.
_KNOWN_CORE = "Cortex-"


def calibrate(
    board: Device, emulated: EmulatedDevice, job: BenchJob, *, on_progress: OnProgress | None = None
) -> tuple[list[Calibration], BenchResult, BenchResult]:
    """Time `job` on `board`, count it on `emulated`, and fit.

    Returns:
        The calibrations, the measured result and the counted one.
    Raises:
        ConfigError: the board has another instruction set or another core.
        BenchInvalidError: a run must not be used. UnsupportedError: the board does not tell its clock.
    """
    _require_instruction_set(board, emulated.cpu)
    measured = board.bench(job, on_progress=on_progress)
    _require_usable(measured)
    _require_core(measured, emulated.cpu)
    clock_mhz(measured)  # Before the emulator takes its minutes.
    counted = emulated.bench(job, on_progress=on_progress)
    _require_usable(counted)
    return fit(measured, counted), measured, counted


def fit(measured: BenchResult, counted: BenchResult) -> list[Calibration]:
    """IPC = instructions / (median time of inference x clock), per engine and precision.

    Raises:
        ConfigError: the runs are of different bundles, or have no artefact in common. UnsupportedError: no clock.
    """
    if measured.kind != "measured" or counted.kind != "estimated" or measured.threads != 1:
        raise ConfigError(
            f"{measured.run_id} and {counted.run_id}: wanted a measured run of one thread and an estimate"
        )
    if measured.bundle_sha256 != counted.bundle_sha256:
        raise ConfigError(f"{measured.run_id} and {counted.run_id} are of different bundles")
    clock = clock_mhz(measured)
    groups: defaultdict[tuple[str, str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for item, other in _pairs(measured, counted):
        ipc = _ipc(item, other, clock)
        if ipc is not None and other.estimate is not None:
            groups[other.estimate.cpu, item.engine, item.precision].append(ipc)
    if not groups:
        raise ConfigError(f"{measured.run_id} and {counted.run_id} have no artefact that was both timed and counted")
    return [
        Calibration(
            cpu=cpu,
            engine=engine,
            precision=precision,
            board=measured.known_board.board.name,
            clock_mhz=clock,
            ipc=(min(low for low, _, _ in found), max(high for _, _, high in found)),
            ipc_median=statistics.median(middle for _, middle, _ in found),
            spread_share=spread([middle for _, middle, _ in found]),
            n_artefacts=len(found),
            bundle_sha256=measured.bundle_sha256,
            run_ids=(measured.run_id, counted.run_id),
        )
        for (cpu, engine, precision), found in groups.items()
    ]


def clock_mhz(measured: BenchResult) -> float:
    """The clock of the fastest core that the run may use, the median of the samples while it was timed.

    Raises:
        UnsupportedError: the board does not tell it.
    """
    told = (fastest_mhz(sample, measured) for sample in measured.known_board.of("during"))
    clocks = [mhz for mhz in told if mhz is not None]
    if not clocks:
        raise UnsupportedError(f"{measured.environment.device} does not tell its clock, so no IPC can be fitted")
    return statistics.median(clocks)


def _pairs(measured: BenchResult, counted: BenchResult) -> Iterator[tuple[ArtefactResult, ArtefactResult]]:
    others = {(item.artefact, item.engine): item for item in counted.artefacts}
    for item in measured.artefacts:
        other = others.get((item.artefact, item.engine))
        if other is not None:
            yield item, other


def _ipc(item: ArtefactResult, other: ArtefactResult, clock: float) -> tuple[float, float, float] | None:
    """Low, middle and high: at the upper end of the median's interval, the median, the lower end."""
    stage = item.stage("inference")
    summary = stage.summary if stage else None
    if summary is None or summary.p50.value_us is None or other.estimate is None:
        return None
    shortest, longest = summary.p50_interval_us or (summary.p50.value_us, summary.p50.value_us)
    instructions = other.estimate.instructions_per_inference
    low, middle, high = (instructions / (us * clock) for us in (longest, summary.p50.value_us, shortest))
    return low, middle, high


def _require_instruction_set(board: Device, cpu: Cpu) -> None:
    if isinstance(board, EmulatedDevice):
        raise ConfigError(f"{board.name} is emulated too: it has no time")
    if isinstance(board, RemoteDevice):
        description, _ = board.look()
        machine, bits = description.architecture, description.userland_bits
    else:
        machine, bits = platform.machine(), struct.calcsize("P") * 8
    found = instruction_set(machine, bits)
    if found != cpu.architecture.machine:
        raise ConfigError(
            f"{board.name} has another instruction set ({found}) than {cpu.name} ({cpu.architecture.machine}): "
            "its time says nothing of these instructions. Calibrate on the board itself."
        )


def instruction_set(machine: str, userland_bits: int) -> str:
    """What programs there are made of: a 64-bit kernel of ARM may have a 32-bit system."""
    arm = machine.startswith(("arm", "aarch64"))
    return ("aarch64" if userland_bits == 64 else "armv7l") if arm else machine


def _require_core(measured: BenchResult, cpu: Cpu) -> None:
    core = measured.known_board.board.cpu_model
    if core.startswith(_KNOWN_CORE) and core.casefold() != cpu.name and cpu.architecture.machine == "aarch64":
        raise ConfigError(f"{measured.environment.device} has {core}, not {cpu.name}. Try --emulated {core.casefold()}")


def _require_usable(result: BenchResult) -> None:
    if reasons := invalid_reasons(result):
        raise BenchInvalidError(
            f"{result.environment.device}: cannot calibrate on figures that must not be used: {reasons}"
        )
