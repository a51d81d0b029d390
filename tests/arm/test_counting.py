"""The counting plugin: the same work counts the same, more work more, and help by another thread is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeaudio.bench.emulation import check_spread, parse_counts
from edgeaudio.errors import BenchInvalidError
from tests.arm.guest import CPUS, DEADLINE_S, emulator

pytestmark = [pytest.mark.arm, pytest.mark.timeout(DEADLINE_S + 100)]

PROGRAM = """
import sys, threading
import numpy
from edgeaudio.bench.emulation.marks import marked

def count(n):
    for _ in range(n):
        pass

def helped(n):
    helper = threading.Thread(target=count, args=(n,))
    helper.start()
    helper.join()

work = helped if "helped" in sys.argv else count
work(1000)
for pair, n in enumerate([100_000, 100_000, 100_000, 200_000]):
    marked(pair, work, n)
"""


def counted(cpu: str, folder: Path, *arguments: str) -> list[int]:
    program, counts = folder / "program.py", folder / "a,comma in it.txt"
    program.write_text(PROGRAM)
    emulator(cpu).run("counting", program, *arguments, counts=counts, deadline_s=DEADLINE_S)
    return parse_counts(counts.read_text(), cpu)


@pytest.mark.parametrize("cpu", CPUS)
def test_counts_repeat_and_grow_with_the_work(cpu: str, tmp_path: Path) -> None:
    *same, double = counted(cpu, tmp_path)
    check_spread(cpu, same)
    assert same[0] > 100_000
    assert double / same[0] == pytest.approx(2, rel=0.01)


def test_work_of_another_thread_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(BenchInvalidError, match="other threads ran"):
        counted(CPUS[0], tmp_path, "helped")
