"""A fault suite that cannot fail proves nothing: each must fail on a planted broken twin, and pass without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.planted import ENV, TWINS

ROOT = Path(__file__).resolve().parents[1]
ALL_PASSED, SOME_FAILED = 0, 1


def outcome(suite: str, twin: str | None) -> tuple[int, str]:
    """Exit code and last lines of pytest over one suite, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", ENV))}
    environment |= {"EDGEAUDIO_FUZZ_N": "200", **({ENV: twin} if twin else {})}
    options = ["-q", "-x", "--tb=line", "-p", "tests.planted", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, suite],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr)[-1500:]


@pytest.mark.parametrize("name", TWINS)
def test_the_suite_fails_on_its_planted_twin(name: str) -> None:
    code, said = outcome(TWINS[name].suite, name)
    assert code == SOME_FAILED, f"{TWINS[name].what}: {said}"
    assert " failed" in said, said


def test_the_same_command_passes_where_nothing_is_planted() -> None:
    code, said = outcome("tests/unit/audio/test_ring.py", None)
    assert code == ALL_PASSED, said
