"""Every recorded board is told as what it is, and in its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.board import Board, BoardSample
from edgeaudio.bench.probes import probe_board, run_command, sample_board
from tests.boards import NAMES, recorded_board

ARM = {"architecture": "aarch64", "userland_bits": 64, "virtualised": False}
PI = ARM | {"kind": "raspberry-pi", "cores_logical": 4, "cores_physical": 4, "os": "Debian GNU/Linux 12 (bookworm)"}
PI |= {"libc": "glibc 2.36", "jetpack": None, "power_mode": None, "clocks_locked": None}
PI_3: dict[str, Any] = PI | {
    "model": "Raspberry Pi 3 Model B Plus Rev 1.3",
    "soc": "BCM2837",
    "cpu_model": "Cortex-A53",
}
PI_3 |= {"memory_bytes": 928_252 * 1024, "firmware": "Oct 17 2023 15:39:16 30f0c5e4"}
PI_4: dict[str, Any] = PI | {"model": "Raspberry Pi 4 Model B Rev 1.4", "soc": "BCM2711", "cpu_model": "Cortex-A72"}
PI_4 |= {"kernel": "6.6.51+rpt-rpi-v8", "cpu_flags": ("asimd", "cpuid", "crc32", "evtstrm", "fp")}
PI_5: dict[str, Any] = PI | {"model": "Raspberry Pi 5 Model B Rev 1.0", "soc": "BCM2712", "cpu_model": "Cortex-A76"}
PI_5 |= {"firmware": "2024/09/23 14:02:56 26826259"}
NANO: dict[str, Any] = ARM | {"kind": "jetson", "model": "NVIDIA Jetson Nano Developer Kit", "soc": "Tegra210"}
NANO |= {"cpu_model": "Cortex-A57", "cores_logical": 4, "cores_physical": 4, "os": "Ubuntu 18.04.6 LTS"}
NANO |= {"libc": "glibc 2.27", "firmware": "L4T 32.7.1", "jetpack": "4.6.1-b110", "power_mode": "MAXN"}
NANO |= {"clocks_locked": False, "kernel": "4.9.253-tegra"}
ORIN: dict[str, Any] = ARM | {"kind": "jetson", "soc": "Tegra234", "cpu_model": "Cortex-A78AE", "cores_logical": 6}
ORIN |= {"model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "cores_physical": 6}
ORIN |= {"firmware": "L4T 36.4.4", "jetpack": "6.2.1+b38", "power_mode": "15W", "clocks_locked": False}

BOARDS: dict[str, dict[str, Any]] = {
    "raspberry-pi-3": PI_3,
    "raspberry-pi-3-throttled": PI_3,
    "raspberry-pi-4": PI_4,
    "raspberry-pi-4-throttled": PI_4,
    "raspberry-pi-4-32-bit": PI_4 | {"userland_bits": 32, "os": "Raspbian GNU/Linux 12 (bookworm)"},
    "raspberry-pi-5": PI_5,
    "raspberry-pi-5-throttled": PI_5,
    "jetson-nano": NANO,
    "jetson-orin-nano": ORIN,
    "jetson-orin-nano-throttled": ORIN,
    "x86-laptop": {
        "kind": "pc",
        "model": "LENOVO 20X9S00A00",
        "soc": None,
        "cpu_model": "11th Gen Intel(R) Core(TM) i3-1115G4 @ 3.00GHz",
        "architecture": "x86_64",
        "userland_bits": 64,
        "cores_logical": 4,
        "cores_physical": 2,
        "virtualised": False,
        "firmware": None,
    },
    "x86-virtual": {"kind": "pc", "model": None, "cpu_model": "AMD EPYC", "cores_logical": 2, "virtualised": True},
    "empty": Board().model_dump(),
}

SAMPLES: dict[str, dict[str, Any]] = {
    "raspberry-pi-3": {
        "governors": ("ondemand",) * 4,
        "frequencies_mhz": (600.0,) * 4,
        "frequency_max_mhz": 1400.0,
        "temperatures_c": {"cpu-thermal": 48.312},
        "throttled_now": (),
        "throttled_since_boot": (),
        "load_average_1min": 0.08,
        "power_w": {},
    },
    # The kernel's files still say 1400, 1800 and 2400 MHz: only the firmware knows.
    "raspberry-pi-3-throttled": {
        "frequencies_mhz": (600.0,) * 4,
        "throttled_now": ("under-voltage", "throttled"),
        "throttled_since_boot": ("under-voltage", "throttled"),
    },
    "raspberry-pi-4": {"frequencies_mhz": (600.16992,) * 4, "throttled_now": (), "power_w": {}},
    "raspberry-pi-4-throttled": {
        "frequencies_mhz": (1000.2656,) * 4,
        "frequency_max_mhz": 1800.0,
        "temperatures_c": {"cpu-thermal": 84.731},
        "throttled_now": ("frequency-capped", "throttled"),
        "throttled_since_boot": ("frequency-capped", "throttled"),
    },
    "raspberry-pi-4-32-bit": {"frequencies_mhz": (600.16992,) * 4, "throttled_now": ()},
    "raspberry-pi-5": {"frequencies_mhz": (1500.018304,) * 4, "throttled_now": (), "throttled_since_boot": ()},
    "raspberry-pi-5-throttled": {
        "frequencies_mhz": (2200.0,) * 4,
        "throttled_now": ("soft-temperature-limit",),
        "throttled_since_boot": ("frequency-capped", "throttled", "soft-temperature-limit"),
    },
    "jetson-nano": {
        "governors": ("schedutil",) * 4,
        "frequencies_mhz": (1326.0,) * 4,
        # PMIC-Die is a constant and left out.
        "temperatures_c": {
            "AO-therm": 45.0,
            "CPU-therm": 40.0,
            "GPU-therm": 40.0,
            "PLL-therm": 37.0,
            "thermal-fan-est": 40.0,
        },
        "throttled_now": None,
        "throttled_since_boot": None,
        "power_w": {"POM_5V_IN": 1.75, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.366},
    },
    "jetson-orin-nano": {
        "frequencies_mhz": (1190.4, 1190.4, 1190.4, 1190.4, 729.6, 729.6),
        # What the power mode allows, not what the silicon could.
        "frequency_max_mhz": 1510.4,
        "throttled_now": (),
        "throttled_since_boot": ("over-current",),
        "power_w": {"VDD_IN": 4.361472, "VDD_CPU_GPU_CV": 0.80768, "VDD_SOC": 1.4112},
    },
    "jetson-orin-nano-throttled": {
        "throttled_now": ("throttled",),
        "throttled_since_boot": ("over-current", "under-voltage"),
    },
    "x86-laptop": {
        "governors": ("powersave",) * 4,
        "frequencies_mhz": (1820.334, 400.0, 2417.912, 400.0),
        "temperatures_c": {
            "acpitz": 47.0,
            "acpitz#2": 20.0,
            "x86_pkg_temp": 51.0,
            "coretemp Package id 0": 51.0,
            "coretemp Core 0": 49.0,
            "coretemp Core 1": 51.0,
        },
        "throttled_now": (),
        "throttled_since_boot": ("throttled",),
    },
    "x86-virtual": {"governors": (), "frequencies_mhz": (2596.136, 2596.136), "frequency_max_mhz": None,
                    "throttled_now": None, "load_average_1min": 1.72},
    "empty": BoardSample(t_s=0, phase="before").model_dump(),
}  # fmt: skip


def test_every_recorded_board_is_tested() -> None:
    assert set(NAMES) == set(BOARDS) == set(SAMPLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_board_is_told(name: str, tmp_path: Path) -> None:
    board = probe_board(*recorded_board(name, tmp_path)).model_dump()
    assert {field: board[field] for field in BOARDS[name]} == BOARDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_state_is_told(name: str, tmp_path: Path) -> None:
    sample = sample_board(*recorded_board(name, tmp_path)).model_dump()
    assert {field: sample[field] for field in SAMPLES[name]} == SAMPLES[name]


def test_all_thermal_zones_that_answer_are_told(tmp_path: Path) -> None:
    """Three of Orin's zones belong to parts without power, and cannot be read."""
    sample = sample_board(*recorded_board("jetson-orin-nano", tmp_path))
    assert list(sample.temperatures_c) == [
        *("cpu-thermal", "gpu-thermal", "soc0-thermal", "soc1-thermal", "soc2-thermal", "tj-thermal")
    ]


def test_a_pi_5_tells_the_power_of_its_rails(tmp_path: Path) -> None:
    rails = sample_board(*recorded_board("raspberry-pi-5", tmp_path)).power_w
    assert len(rails) == 12
    assert rails["VDD_CORE"] == pytest.approx(0.75012 * 0.72)
    # These have a voltage only.
    assert not {"EXT5V", "BATT"} & set(rails)


def test_a_pi_whose_firmware_may_not_be_asked_is_not_called_unthrottled(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-3-throttled", tmp_path)
    runner.replies = {name: reply for name, reply in runner.replies.items() if not name.startswith("vcgencmd")}
    told = sample_board(root, runner)
    assert (told.throttled_now, told.throttled_since_boot) == (("under-voltage",), None)
    (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text("0\n")
    assert sample_board(root, runner).throttled_now is None
    assert told.frequencies_mhz == (1400.0,) * 4
    assert probe_board(root, runner).firmware is None


def test_a_32_bit_userland_is_told_without_getconf(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4-32-bit", tmp_path)
    del runner.replies["getconf LONG_BIT"]
    assert probe_board(root, runner).userland_bits == 32
    (root / "bin/sh").write_bytes(b"#!/bin/busybox sh\n")
    assert probe_board(root, runner).userland_bits is None


def test_cores_that_a_power_mode_switched_off_are_not_counted(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    (root / "sys/devices/system/cpu/online").write_text("0-3\n")
    assert probe_board(root, runner).cores_logical == 4
    assert len(sample_board(root, runner).governors) == 4


def test_without_root_the_locked_clocks_of_a_jetson_are_seen_in_the_kernels_files(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano-throttled", tmp_path)
    for policy in ("policy0", "policy4"):
        (root / f"sys/devices/system/cpu/cpufreq/{policy}/scaling_min_freq").write_text("1510400\n")
    assert probe_board(root, runner).clocks_locked is True


def test_without_its_sensors_a_jetson_is_asked_through_tegrastats(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    for channel in "123":
        (root / f"sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr{channel}_input").unlink()
    assert sample_board(root, runner).power_w == {"VDD_IN": 4.5, "VDD_CPU_GPU_CV": 0.799, "VDD_SOC": 1.598}


def test_no_serial_number_and_no_host_name_is_recorded(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    cpuinfo = root / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("0000000000000000", "1c96860cc48df543"))
    (root / "etc/hostname").write_text("kitchen\n")
    told = probe_board(root, runner).model_dump_json() + sample_board(root, runner).model_dump_json()
    assert "1c96860cc48df543" not in told
    assert "kitchen" not in told


def test_this_machine_is_told() -> None:
    board = probe_board(Path("/"), run_command)
    assert board.cores_logical
    assert board.memory_bytes
    assert board.architecture != "unknown"
    sample = sample_board(Path("/"), run_command, t_s=1.5, phase="during")
    assert (sample.t_s, sample.phase) == (1.5, "during")
    assert sample.load_average_1min is not None


@pytest.mark.parametrize("model", [Board, BoardSample])
def test_the_documentation_says_where_every_field_comes_from(model: type[Board] | type[BoardSample]) -> None:
    text = (Path(__file__).parents[4] / "docs" / "benchmark-board.md").read_text()
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert [field for field in model.model_fields if f"`{field}`" not in rows] == []
