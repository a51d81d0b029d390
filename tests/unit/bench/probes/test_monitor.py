"""The watch: which samples are before, during and after, what each costs, and what moved between two of them."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeaudio.bench.board import BoardRecord
from edgeaudio.bench.environment import LoadMeter
from edgeaudio.bench.probes import BoardWatch, monitor, run_command
from tests.boards import RecordedRunner, recorded_board

NEVER_S = 1e6


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def phases(record: BoardRecord) -> list[str]:
    return [sample.phase for sample in record.samples]


def test_samples_are_before_during_and_after(tmp_path: Path) -> None:
    watch = BoardWatch(*recorded_board("raspberry-pi-5", tmp_path), interval_s=NEVER_S)
    with watch:
        assert phases(watch.record()) == ["before"]
        watch.timing()
    record = watch.record()
    assert phases(record) == ["before", "during", "after"]
    assert record.board.soc == "BCM2712"
    assert [sample.throttled_now for sample in record.samples] == [()] * 3
    times = [sample.t_s for sample in record.samples]
    assert times == sorted(times)
    assert times[0] == 0
    assert [len(record.of(phase)) for phase in ("before", "during", "after")] == [1, 1, 1]


def test_the_thread_samples_until_the_block_ends_however_it_ends(tmp_path: Path) -> None:
    watch = BoardWatch(*recorded_board("jetson-orin-nano", tmp_path), interval_s=0.001)

    def interrupted() -> None:
        watch.timing()
        until(lambda: len(watch.record().samples) > 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watch:
        interrupted()
    taken = len(watch.record().samples)
    assert "edgeaudio-probes" not in {thread.name for thread in threading.enumerate()}
    time.sleep(0.02)
    assert len(watch.record().samples) == taken
    assert phases(watch.record())[-1] == "after"


def test_commands_are_run_less_often_than_files_are_read(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4", tmp_path)
    watch = BoardWatch(root, runner, interval_s=0.001, command_interval_s=NEVER_S)
    with watch:
        runner.asked.clear()
        watch.timing()
        at_timing = list(runner.asked)
        until(lambda: len(watch.record().samples) > 10)
        assert runner.asked == at_timing == ["vcgencmd get_throttled", "vcgencmd measure_clock arm"]
    asked = [sample.frequencies_mhz for sample in watch.record().samples if sample.throttled_now is not None]
    assert asked == [(600.16992,) * 4] * 3
    between = watch.record().samples[2:-1]
    # Without the firmware nothing is told of throttling, and no clock: the kernel's does not know of it.
    assert {sample.frequencies_mhz for sample in between} == {()}
    assert {sample.throttled_now for sample in between} == {None}
    assert watch.record().samples[-1].throttled_now == ()


def test_without_the_firmware_the_kernel_tells_the_clock_in_all_samples(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4", tmp_path)
    del runner.replies["vcgencmd measure_clock arm"]
    with BoardWatch(root, runner, interval_s=0.001, command_interval_s=NEVER_S) as watch:
        watch.timing()
        until(lambda: len(watch.record().samples) > 5)
    assert {sample.frequencies_mhz for sample in watch.record().samples} == {(600.0,) * 4}


def test_between_commands_low_voltage_is_seen_all_the_same(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4", tmp_path)
    with BoardWatch(root, runner, interval_s=0.001, command_interval_s=NEVER_S) as watch:
        watch.timing()
        (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text("1\n")
        until(lambda: ("under-voltage",) in [sample.throttled_now for sample in watch.record().samples])


def test_throttling_that_comes_and_goes_is_in_the_record(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-4", tmp_path)
    with BoardWatch(root, runner, interval_s=0.001, command_interval_s=0) as watch:
        watch.timing()
        runner.replies["vcgencmd get_throttled"] = {"exit_code": 0, "stdout": "throttled=0x40004\n"}
        until(lambda: ("throttled",) in [sample.throttled_now for sample in watch.record().samples])
        runner.replies["vcgencmd get_throttled"] = {"exit_code": 0, "stdout": "throttled=0x40000\n"}
    assert watch.record().samples[-1].throttled_now == ()
    assert watch.record().samples[-1].throttled_since_boot == ("throttled",)


@pytest.mark.parametrize(
    ("name", "counter", "reason"),
    [
        ("jetson-orin-nano", "sys/class/hwmon/hwmon3/oc3_event_cnt", "over-current"),
        ("jetson-orin-nano", "sys/class/hwmon/hwmon3/oc1_event_cnt", "under-voltage"),
        ("x86-laptop", "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "throttled"),
    ],
)
def test_events_that_were_counted_meanwhile_held_the_processor_down(
    name: str, counter: str, reason: str, tmp_path: Path
) -> None:
    root, runner = recorded_board(name, tmp_path)
    with BoardWatch(root, runner, interval_s=NEVER_S) as watch:
        watch.timing()
        (root / counter).write_text("1000\n")
    assert [sample.throttled_now for sample in watch.record().samples] == [(), (), (reason,)]


def test_what_others_do_is_told_and_what_this_process_does_is_not(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    stat = root / "proc/stat"
    with BoardWatch(root, runner, interval_s=NEVER_S) as watch:
        time.sleep(0.25)
        # 3 s of work in about 0.25 s: some twelve cores of somebody else.
        stat.write_text(stat.read_text().replace("cpu  10234", "cpu  10534"))
        watch.timing()
        time.sleep(0.25)
    loads = [sample.other_busy_cores for sample in watch.record().samples]
    assert loads[0] is None
    assert loads[1] is not None
    assert 1 < loads[1] <= 12
    assert loads[2] == 0


def test_work_of_the_benchmark_itself_is_no_load(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    stat = root / "proc/stat"
    with BoardWatch(root, runner, interval_s=NEVER_S) as watch:
        watch.timing()
        before_s, spent_s = time.process_time(), 0.0
        while spent_s < 0.5:
            spent_s = time.process_time() - before_s
        # The kernel counts ticks of 10 ms, for us as for all.
        stat.write_text(stat.read_text().replace("cpu  10234", f"cpu  {10234 + round(spent_s * 100)}"))
    load = watch.record().samples[-1].other_busy_cores
    assert load is not None
    assert load < 0.05


def test_work_of_this_process_and_its_commands_is_no_load_of_others() -> None:
    spin = ["sh", "-c", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"]
    before = monitor.own_cpu_s()
    meter = LoadMeter()
    meter.start()
    run_command(spin, 60)
    meter.stop()
    spent_s = monitor.own_cpu_s() - before
    assert spent_s > 0.2
    # Others may be busy too, but this command is not among them.
    busy = LoadMeter()
    busy.start()
    time.sleep(meter.wall_s)
    busy.stop()
    assert meter.other_busy_s < busy.other_busy_s + spent_s


@pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="this system does not name children")
def test_a_command_that_still_runs_is_no_load_of_others() -> None:
    def of_commands_s() -> float:
        return monitor.own_cpu_s() - time.process_time()

    before_s = of_commands_s()
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as spinning:
        try:
            until(lambda: of_commands_s() > before_s + 0.3)
        finally:
            spinning.kill()
    # It has ended, and is counted once.
    assert before_s + 0.3 < of_commands_s() < before_s + 10


def test_what_the_watch_itself_costs_is_told(tmp_path: Path) -> None:
    root, runner = recorded_board("raspberry-pi-5", tmp_path)
    with BoardWatch(root, runner, interval_s=0.001) as watch:
        until(lambda: len(watch.record().samples) > 20)
    cost = watch.record().watch_busy_cores
    assert cost is not None
    assert 0 < cost < 1


def test_a_long_run_keeps_fewer_samples_further_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "MAX_SAMPLES", 20)
    watch = BoardWatch(*recorded_board("x86-virtual", tmp_path), interval_s=0.001)
    with watch:
        watch.timing()
        until(lambda: watch._interval_s > 0.005)
    record = watch.record()
    assert len(record.samples) <= 21
    assert phases(record)[0] == "before"
    assert phases(record)[-1] == "after"


def test_an_unknown_board_is_watched_too(tmp_path: Path) -> None:
    with BoardWatch(tmp_path / "nothing", RecordedRunner({}), interval_s=0.001) as watch:
        watch.timing()
        until(lambda: len(watch.record().samples) > 3)
    assert watch.record().board.kind == "unknown"
    assert {sample.throttled_now for sample in watch.record().samples} == {None}


def test_a_watch_can_be_used_again(tmp_path: Path) -> None:
    watch = BoardWatch(*recorded_board("raspberry-pi-3", tmp_path), interval_s=NEVER_S)
    for _ in range(2):
        with watch:
            watch.timing()
        assert phases(watch.record()) == ["before", "during", "after"]
