"""What a board is and what state it is in: the record that probes fill. What a board does not tell is None or empty."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgeaudio.spec import Spec

BoardKind = Literal["raspberry-pi", "jetson", "pc", "unknown"]
#: When a sample was taken: before, while the artefacts were timed, after.
Phase = Literal["before", "during", "after"]
#: What holds a processor down. A bit of a Raspberry Pi's firmware that has no name here is `bit-N`.
ThrottleReason = Literal["under-voltage", "frequency-capped", "throttled", "soft-temperature-limit", "over-current"]


class Board(Spec):
    """What does not change while a benchmark runs. No serial number and no host name: records are published."""

    kind: BoardKind = "unknown"
    model: str | None = Field(None, description="such as Raspberry Pi 4 Model B Rev 1.4")
    soc: str | None = Field(None, description="such as BCM2711")
    cpu_model: str = "unknown"
    cpu_flags: tuple[str, ...] = ()
    architecture: str = Field("unknown", description="of the kernel: x86_64, aarch64, armv7l")
    userland_bits: Literal[32, 64] | None = Field(None, description="32 on a 64-bit kernel is common on a Pi")
    cores_logical: int | None = Field(None, ge=1, description="those that are switched on")
    cores_physical: int | None = None
    memory_bytes: int | None = None
    virtualised: bool | None = None
    os: str = "unknown"
    kernel: str = "unknown"
    libc: str | None = Field(None, description="such as glibc 2.36")
    firmware: str | None = Field(None, description="of a Raspberry Pi's VideoCore, or L4T of a Jetson")
    jetpack: str | None = None
    power_mode: str | None = Field(None, description="of nvpmodel, such as MAXN")
    clocks_locked: bool | None = Field(None, description="by jetson_clocks")

    @property
    def name(self) -> str:
        """What it is called, else its processor."""
        return self.model or self.cpu_model


class BoardSample(Spec):
    """The state at one moment. `t_s` counts from the start of the watch."""

    t_s: float
    phase: Phase
    governors: tuple[str, ...] = Field((), description="one per core")
    frequencies_mhz: tuple[float, ...] = Field((), description="one per core")
    frequency_max_mhz: float | None = None
    temperatures_c: dict[str, float] = Field(default_factory=dict, description="thermal zone -> degrees Celsius")
    throttled_now: tuple[str, ...] | None = Field(None, description="of ThrottleReason; None: was not asked or told")
    throttled_since_boot: tuple[str, ...] | None = None
    load_average_1min: float | None = None
    other_busy_cores: float | None = Field(
        None, ge=0, description="cores that other processes kept busy since the sample before"
    )
    power_w: dict[str, float] = Field(default_factory=dict, description="rail -> watts")


class BoardRecord(Spec):
    """The board and its states in order of time."""

    board: Board
    samples: tuple[BoardSample, ...] = ()
    watch_busy_cores: float | None = Field(
        None, ge=0, description="cores that this watch and its commands kept busy; no part of other load"
    )

    def of(self, phase: Phase) -> tuple[BoardSample, ...]:
        """The samples of one phase."""
        return tuple(sample for sample in self.samples if sample.phase == phase)

    def load_text(self) -> str:
        """The load average in words, of the first sample and the last."""
        loads = [sample.load_average_1min for sample in (*self.samples[:1], *self.samples[-1:])]
        known = [load for load in loads if load is not None]
        return f"{known[0]:.2f} before, {known[1]:.2f} after" if len(known) == 2 else "not told by this system"
