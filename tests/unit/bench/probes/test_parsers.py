"""The formats that firmware and tools print, bit by bit, and garbage thrown at all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.board import BoardKind
from edgeaudio.bench.probes import Completed, jetson, linux, probe_board, raspberry_pi, sample_board
from edgeaudio.bench.probes.probe import describe, kind_of, sample, throttle_events
from edgeaudio.bench.probes.system import DEADLINE_S, LiveMachine, Recording, Snapshot
from tests.boards import NAMES, recorded_board

REASONS = ("under-voltage", "frequency-capped", "throttled", "soft-temperature-limit")


@pytest.mark.parametrize("bit", range(16))
def test_every_throttle_bit_has_a_name_now_and_since_boot(bit: int) -> None:
    name = REASONS[bit] if bit < 4 else f"bit-{bit}"
    assert raspberry_pi.parse_throttled(f"throttled=0x{1 << bit:x}\n") == ((name,), ())
    assert raspberry_pi.parse_throttled(f"throttled=0x{1 << (bit + 16):x}\n") == ((), (name,))


@given(st.integers(0, 2**32 - 1))
def test_throttle_bits_are_all_told_and_none_is_invented(bits: int) -> None:
    told = raspberry_pi.parse_throttled(f"throttled=0x{bits:x}")
    assert told is not None
    assert sum(map(len, told)) == bits.bit_count()


@pytest.mark.parametrize(
    "text", ["", "throttled=", "throttled=0x", "throttled=0xzz", "throttled=0x123456789", "0x50005"]
)
def test_what_is_no_throttle_word_is_unknown(text: str) -> None:
    assert raspberry_pi.parse_throttled(text) is None


def test_the_clock_is_in_hertz() -> None:
    assert raspberry_pi.parse_clock("frequency(48)=1800457088\n") == 1800.457088
    assert raspberry_pi.parse_clock("frequency(48)=0\n") is None
    assert raspberry_pi.parse_clock('error=2 error_msg="Invalid arguments"\n') is None


def test_rails_are_joined_by_name_not_by_number() -> None:
    text = " VDD_CORE_A current(7)=2.00000000A\n EXT5V_V volt(24)=5.06788000V\n VDD_CORE_V volt(15)=0.90000000V\n"
    assert raspberry_pi.parse_pmic(text) == {"VDD_CORE": 1.8}
    # An ampere in a line of volts is no reading.
    assert raspberry_pi.parse_pmic(text.replace("0.90000000V", "0.90000000A")) == {}


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: ...", "L4T 32.7.1"),
        ("# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic\n# KERNEL_VARIANT: oot\n", "L4T 36.4.4"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727", "L4T 39.2.0"),
        ("# R36 (release)", None),
        ("", None),
    ],
)
def test_the_release_of_jetson_linux(text: str, release: str | None) -> None:
    assert jetson.parse_release(text) == release


def test_clocks_are_locked_when_every_span_is_a_point() -> None:
    locked = "cpu0:  Governor=schedutil MinFreq=2201600 MaxFreq=2201600 CurrentFreq=2201600 IdleStates: WFI=0 c7=0 \n"
    free_gpu = "GPU MinFreq=76800000 MaxFreq=921600000 CurrentFreq=921600000\n"
    emc = "EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=1\n"
    assert jetson.parse_jetson_clocks(locked + emc) is True
    assert jetson.parse_jetson_clocks(locked + free_gpu + emc) is False
    assert jetson.parse_jetson_clocks("Error: Run this script(/usr/bin/jetson_clocks) as a root user\n") is None


def test_a_line_of_tegrastats_of_a_nano() -> None:
    line = (
        "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) "
        "CPU [5%@1224,4%@1224,off,6%@1224] EMC_FREQ 0%@1600 GR3D_FREQ 7%@76 APE 25 PLL@37C CPU@40.5C PMIC@50C "
        "GPU@40C AO@45C thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406"
    )
    told = jetson.parse_tegrastats(line)
    assert told == jetson.TegraStats(
        ram_used_mb=1923,
        core_loads=(5, 4, None, 6),
        core_mhz=(1224, 1224, None, 1224),
        gpu_load=7,
        temperatures_c={"PLL": 37.0, "CPU": 40.5, "GPU": 40.0, "AO": 45.0, "thermal": 40.0},
        power_w={"POM_5V_IN": 1.75, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.366},
    )


def test_a_part_without_power_has_no_temperature() -> None:
    assert jetson.parse_tegrastats("CV0@-256C tj@42C VDD_IN 4500mW/4480mW").temperatures_c == {"tj": 42.0}


def test_the_rails_of_an_agx_orin_are_on_two_chips(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    (root / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2").mkdir(parents=True)
    for name, text in {"in2_label": "VDDQ_VDD2_1V8AO", "in2_input": "1800", "curr2_input": "500", "in1_label": "NC",
                       "in1_input": "5000", "curr1_input": "10"}.items():  # fmt: skip
        (root / "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2" / name).write_text(text)
    assert list(sample_board(root, runner).power_w) == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", "VDDQ_VDD2_1V8AO"]


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,2-3,6", (0, 2, 3, 6)),
        ("0", (0,)),
        ("", ()),
        ("3-0", ()),
        ("0-", ()),
        ("all", ()),
        (None, ()),
    ],
)
def test_lists_of_cores(text: str | None, cores: tuple[int, ...]) -> None:
    assert linux.cpu_list(text) == cores


def test_kinds_of_cores_are_named_and_unknown_ones_told_by_number() -> None:
    block = "processor : {}\nCPU implementer : {}\nCPU part : {}\n\n"
    cores = [(0, "0x41", "0xd05"), (1, "0x41", "0xd05"), (2, "0x41", "0xd0b"), (3, "0x61", "0x022")]
    files = {"/proc/cpuinfo": "".join(block.format(*core) for core in cores).encode()}
    told = linux.cpu_model(Snapshot(files, {}, {}))
    assert told == "Cortex-A55 + Cortex-A76 + implementer 0x61 part 0x022"


def test_a_musl_system_and_a_mac() -> None:
    assert linux.libc(Snapshot({}, {"/lib": ("ld-musl-aarch64.so.1", "libz.so.1")}, {})) == "musl"
    answers = {"machdep.cpu.brand_string": b"Apple M2\n", "hw.logicalcpu": b"8\n", "hw.physicalcpu": b"8\n",
               "hw.memsize": b"17179869184\n", "vm.loadavg": b"{ 1.93 2.05 2.11 }\n"}  # fmt: skip
    commands = {("sysctl", "-n", name): answer for name, answer in answers.items()}
    commands |= {("sw_vers", "-productVersion"): b"14.5\n", ("uname", "-m"): b"arm64\n", ("uname", "-r"): b"23.5.0\n"}
    mac = Snapshot({}, {}, commands)
    board = describe(mac)
    assert (board.cpu_model, board.cores_logical, board.cores_physical) == ("Apple M2", 8, 8)
    assert (board.memory_bytes, board.os, board.kernel) == (2**34, "macOS 14.5", "23.5.0")
    assert sample(mac, board.kind, t_s=0, phase="before").load_average_1min == 1.93


def test_processor_time_leaves_out_waiting_and_counts_what_other_guests_took() -> None:
    stat = b"cpu  100 10 50 9000 700 5 5 30 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert linux.busy_s(Snapshot({"/proc/stat": stat}, {}, {})) == pytest.approx(2.0)
    assert linux.busy_s(Snapshot({"/proc/stat": b"cpu  100 10 50 9000\n"}, {}, {})) is None


PARSERS: list[Callable[[str], Any]] = [
    raspberry_pi.parse_throttled,
    raspberry_pi.parse_clock,
    raspberry_pi.parse_version,
    raspberry_pi.parse_pmic,
    jetson.parse_release,
    jetson.parse_nvpmodel,
    jetson.parse_jetson_clocks,
    jetson.parse_tegrastats,
    linux.cpu_list,
]
# Words that get past the first check of a parser, so that garbage reaches the second.
KNOWN_WORDS = ["throttled=0x", "frequency(", ")=", "version ", "_A current(", "_V volt(", "# R36 (release), REVISION: "]
KNOWN_WORDS += ["4.3", "NV Power Mode: ", "cpu0:", "GPU ", "MinFreq=", "MaxFreq=", "CPU [", "5%@", "]", "@", "C"]
KNOWN_WORDS += [
    "VDD_IN ",
    "mW",
    "/",
    "RAM ",
    "GR3D_FREQ ",
    "-",
    ",",
    "0",
    "9" * 30,
    "\n",
    " ",
    "٣",
    "NaN",
    "1e999",
    "\0",
]
WORDS = st.sampled_from(KNOWN_WORDS)
GARBAGE = st.one_of(
    st.text(), st.binary().map(lambda data: data.decode(errors="replace")), st.lists(WORDS).map("".join)
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(text=GARBAGE)
def test_no_parser_stumbles_over_garbage(parse: Callable[[str], Any], text: str) -> None:
    parse(text)


def test_no_parser_needs_long_for_a_long_line() -> None:
    """Each of these makes a careless pattern try all ways to split them: the suite's time limit would end it."""
    for text in ("9" * 200_000, "A_" * 100_000, "5%@1," * 50_000, " " * 200_000, "cpu0: " * 40_000, "CPU [" * 40_000):
        for parse in PARSERS:
            parse(text)


@dataclass
class GarbageMachine:
    """Every file exists, every folder is full, every command answers; nothing of it makes sense."""

    replies: list[bytes]
    listed: list[str]

    def read(self, path: str) -> bytes | None:
        return self.replies[len(path) % len(self.replies)]

    def names(self, folder: str) -> tuple[str, ...]:
        return tuple(self.listed)

    def run(self, *argv: str, deadline_s: float = DEADLINE_S, endless: bool = False) -> bytes | None:
        return self.replies[len(" ".join(argv)) % len(self.replies)]


KINDS: tuple[BoardKind, ...] = ("raspberry-pi", "jetson", "pc", "unknown")
KNOWN_NAMES = ["thermal_zone0", "cooling_device0", "hwmon0", "temp1_input", "iio:device0", "1-0040", "ld-musl-x.so.1"]
BYTES = st.one_of(
    st.binary(max_size=300),
    st.lists(WORDS, max_size=20).map(lambda words: "".join(words).encode()),
    st.sampled_from([b"0-4095\n", b"rpi_volt\n", b"soctherm_oc\n", b"coretemp\n", b"-1\n", b"999999999999999\n"]),
)


@given(
    st.lists(BYTES, min_size=1, max_size=8), st.lists(st.one_of(st.sampled_from(KNOWN_NAMES), st.text()), max_size=5)
)
def test_a_board_that_answers_garbage_is_described_all_the_same(replies: list[bytes], listed: list[str]) -> None:
    machine = GarbageMachine(replies, listed)
    json.loads(describe(machine).model_dump_json())
    for kind in KINDS:
        told = sample(machine, kind, t_s=0, phase="during", events_before=throttle_events(machine))
        json.loads(told.model_dump_json())


@given(st.data())
def test_a_recorded_board_with_one_damaged_answer_is_described_all_the_same(data: st.DataObject) -> None:
    recording = RECORDINGS[data.draw(st.sampled_from(NAMES))]
    files, commands = dict(recording.files), dict(recording.commands)
    damaged = data.draw(st.sampled_from([*sorted(files), *sorted(commands)]))
    answer = data.draw(st.one_of(BYTES, st.none()))
    if isinstance(damaged, str):
        files[damaged] = answer
    else:
        commands[damaged] = answer
    machine = Snapshot(files, recording.folders, commands)
    board = describe(machine)
    json.loads(board.model_dump_json())
    json.loads(sample(machine, kind_of(machine), t_s=0, phase="before").model_dump_json())


@pytest.fixture(scope="module", autouse=True)
def _recordings(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in NAMES:
        root, runner = recorded_board(name, tmp_path_factory.mktemp(name))
        RECORDINGS[name] = recording = Recording(LiveMachine(root, runner))
        sample(recording, describe(recording).kind, t_s=0, phase="before")


RECORDINGS: dict[str, Recording] = {}


@given(st.one_of(st.none(), st.builds(Completed, st.one_of(st.none(), st.integers(-255, 255)), BYTES)))
def test_a_runner_that_answers_garbage_does_no_harm(done: Completed | None) -> None:
    root = Path("/nonexistent")
    probe_board(root, lambda argv, deadline_s: done)
    sample_board(root, lambda argv, deadline_s: done)
