"""Reading the plugin's lines. The emulator itself is not started here."""

from __future__ import annotations

import pytest

from edgeaudio.bench.emulation.counts import N_MARKS, check_spread, parse_counts, parse_segments
from edgeaudio.errors import BenchInvalidError

LINES = ["mark 0 100 100", "mark 1 130 130", "mark 2 200 200", "mark 3 1200 1200", "end 5000"]


def test_counts_lie_between_the_markers_of_a_pair() -> None:
    assert parse_counts("\n".join(LINES), "x") == [30, 1000]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        LINES[:-1],
        LINES[:3] + LINES[4:],
        [*LINES[:2], LINES[3], LINES[2], LINES[4]],
        [*LINES, "mark 4 1300 1300"],
        [*LINES[:3], "mark 3 12", "end 5000"],
        [*LINES[:3], "mark 3 many 1200", "end 5000"],
        ["qemu: uncaught signal 11", *LINES],
        ["end 5000"],
    ],
)
def test_damaged_counts_are_refused(lines: list[str]) -> None:
    with pytest.raises(BenchInvalidError):
        parse_counts("\n".join(lines), "onnx-int8 on cortex-a76")


def test_work_of_other_threads_is_refused() -> None:
    helped = [*LINES[:3], "mark 3 1200 1700", LINES[4]]
    with pytest.raises(BenchInvalidError, match="other threads ran 500 instructions beside 1000"):
        parse_counts("\n".join(helped), "x")


def test_segments_lie_between_each_marker_and_the_next() -> None:
    lines = [*LINES[:3], "mark 3 1200 1700", LINES[4]]
    assert [(segment.own, segment.others, segment.helped) for segment in parse_segments("\n".join(lines), "x")] == [
        (30, 0, False),
        (70, 0, False),
        (1000, 500, True),
    ]


def test_after_the_last_number_of_a_marker_comes_the_first() -> None:
    lines = [f"mark {number % N_MARKS} {10 * number} {10 * number}" for number in range(N_MARKS + 3)]
    assert {segment.own for segment in parse_segments("\n".join([*lines, "end 99999"]), "x")} == {10}
    with pytest.raises(BenchInvalidError, match="damaged"):
        parse_segments("\n".join([*lines[:7], *lines[8:], "end 99999"]), "x")


def test_counts_that_do_not_repeat_are_refused() -> None:
    check_spread("onnx-int8 on cortex-a76", [1000, 1001, 1003])
    with pytest.raises(BenchInvalidError, match="onnx-int8 on cortex-a76: counts from 1,000 to 1,100"):
        check_spread("onnx-int8 on cortex-a76", [1000, 1001, 1100])
