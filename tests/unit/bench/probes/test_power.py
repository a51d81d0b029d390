"""Energy of one inference: measured against the idle board, or the reason why not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeaudio.bench.board import BoardKind
from edgeaudio.bench.probes import BoardWatch, power
from edgeaudio.bench.probes.power import Power, energy_of, mean_power, whole_board_w
from tests.boards import NAMES, recorded_board

CURRENT = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"
VOLTS = 5.048


@pytest.fixture(autouse=True)
def _fast_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "READING_INTERVAL_S", 0.002)


@pytest.mark.parametrize(
    ("kind", "rails", "whole"),
    [
        ("jetson", {"VDD_SOC": 1.4, "VDD_IN": 4.4, "VDD_CPU_GPU_CV": 0.8}, ("VDD_IN", 4.4)),
        ("jetson", {"POM_5V_GPU": 0.0, "POM_5V_IN": 1.75}, ("POM_5V_IN", 1.75)),
        (
            "jetson",
            {"VDD_GPU_SOC": 9.5, "VDD_CPU_CV": 4.5, "VIN_SYS_5V0": 8.0, "VDDQ_VDD2_1V8AO": 0.9},
            ("VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 22.0),
        ),
        ("raspberry-pi", {"VDD_CORE": 0.5, "3V3_SYS": 0.25}, ("PMIC, sum of 2 rails", 0.75)),
        # Parts of a board are not the board.
        ("jetson", {"VDD_GPU": 12.0, "VIN_SYS_5V0": 8.0}, None),
        ("pc", {"package": 12.0}, None),
        ("raspberry-pi", {}, None),
    ],
)
def test_only_what_measures_the_whole_board_counts(
    kind: BoardKind, rails: dict[str, float], whole: tuple[str, float] | None
) -> None:
    assert whole_board_w(kind, rails) == whole


def test_energy_is_what_the_work_adds_to_the_idle_board() -> None:
    told = energy_of(Power("VDD_IN", 2.0, 0.01), Power("VDD_IN", 3.5, 0.02), calls=1_000, seconds=2.0)
    assert told.per_inference_mj == pytest.approx(3.0)
    assert (told.idle_w, told.busy_w, told.rail, told.reason) == (2.0, 3.5, "VDD_IN", None)


def test_work_that_is_lost_in_the_spread_has_no_energy() -> None:
    told = energy_of(Power("VDD_IN", 2.0, 0.03), Power("VDD_IN", 2.1, 0.04), calls=1_000, seconds=2.0)
    assert told.per_inference_mj is None
    assert told.reason == "+0.100 W against the idle board does not stand out, the error is 0.050 W"
    assert energy_of(Power("VDD_IN", 2.0, 0), Power("VDD_IN", 1.9, 0), 10, 1.0).per_inference_mj is None


def test_idle_and_work_must_be_of_the_same_rails() -> None:
    told = energy_of(Power("PMIC, sum of 12 rails", 2.0, 0), Power("PMIC, sum of 11 rails", 3.0, 0), 10, 1.0)
    assert told.per_inference_mj is None
    assert told.reason == "measured on PMIC, sum of 11 rails, the idle board on PMIC, sum of 12 rails"


def test_a_reading_that_misses_a_rail_does_not_count() -> None:
    readings = [("12 rails", 2.0)] * power.MIN_READINGS + [("3 rails", 0.1), None]
    assert mean_power(readings) == Power("12 rails", 2.0, 0.0)
    assert mean_power(readings[1:]) == "9 readings of power, 10 are needed, 0.002 s apart"
    assert mean_power([]) == "0 readings of power, 10 are needed, 0.002 s apart"


def test_a_jetson_is_measured_idle_and_at_work(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano", tmp_path)

    def work() -> None:
        (root / CURRENT).write_text("1864\n")
        time.sleep(0.001)

    with BoardWatch(root, runner, interval_s=1e6) as watch:
        watch.rest(0.1)
        told = watch.energy(work, 0.3)
    assert told.reason is None
    assert told.rail == "VDD_IN"
    assert told.idle_w == pytest.approx(VOLTS * 0.864)
    # A reading can fall into the moment in which the file is being written.
    assert told.busy_w == pytest.approx(VOLTS * 1.864, rel=0.1)
    assert told.per_inference_mj is not None
    assert told.per_inference_mj > VOLTS * 0.8  # At least a millisecond each, about 5 W more.


def test_a_pi_5_is_measured_through_its_firmware(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    idle = runner.replies["vcgencmd pmic_read_adc"]
    busy = {"exit_code": 0, "stdout": idle["stdout"].replace("=0.75012000A", "=4.75012000A")}

    def work() -> None:
        runner.replies["vcgencmd pmic_read_adc"] = busy
        time.sleep(0.001)

    with BoardWatch(root, runner, interval_s=1e6) as watch:
        watch.rest(0.1)
        told = watch.energy(work, 0.3)
    assert told.rail == "PMIC, sum of 12 rails"
    assert told.idle_w is not None
    assert told.busy_w == pytest.approx(told.idle_w + 4 * 0.72, rel=0.05)
    assert told.per_inference_mj is not None


REASONS = {
    "raspberry-pi-3": "no power rail can be read: only a Raspberry Pi 5",
    "raspberry-pi-4": "no power rail can be read: only a Raspberry Pi 5",
    "x86-laptop": "this board measures no power",
    "x86-virtual": "this board measures no power",
    "empty": "this board measures no power",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_board_says_why_energy_was_not_measured(name: str, tmp_path: Path) -> None:
    root, runner = recorded_board(name, tmp_path)
    calls: list[None] = []

    def work() -> None:
        calls.append(None)
        time.sleep(0.001)

    with BoardWatch(root, runner, interval_s=1e6) as watch:
        assert watch.energy(work, 0.2).reason == power.NOT_ASKED
        assert calls == []
        watch.rest(0.2)
        told = watch.energy(work, 0.2)
    reason = REASONS.get(name.replace("-throttled", "").replace("-32-bit", ""))
    # The recorded boards do not change, so where power is measured nothing stands out.
    assert (told.reason or "").startswith(reason or "+0.000 W against the idle board does not stand out")
    assert told.per_inference_mj is None
    assert bool(calls) is (reason is None)


def test_a_jetson_whose_rails_only_root_may_read_says_so(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-nano", tmp_path)
    del runner.replies["tegrastats --interval 500"]
    for path in (root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0").glob("in_power*"):
        path.unlink()
    with BoardWatch(root, runner, interval_s=1e6) as watch:
        watch.rest(0.05)
        assert "only root" in (watch.energy(lambda: None, 0.05).reason or "")


def test_a_board_that_measures_parts_only_says_which(tmp_path: Path) -> None:
    root, runner = recorded_board("jetson-orin-nano", tmp_path)
    (root / CURRENT.replace("curr1_input", "in1_label")).write_text("VDD_GPU\n")
    with BoardWatch(root, runner, interval_s=1e6) as watch:
        watch.rest(0.05)
        told = watch.energy(lambda: None, 0.05)
    assert told.reason == "none of the rails measures the whole board: VDD_GPU, VDD_CPU_GPU_CV, VDD_SOC"
