"""Chatty libraries are silenced, and heard again when they fail."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest

from edgeaudio.compress.quiet import quiet_libraries


def chatter() -> None:
    print("from print")
    print("from stderr", file=sys.stderr)
    warnings.warn("from warnings", stacklevel=1)
    os.write(1, b"from descriptor 1\n")
    os.write(2, b"from descriptor 2\n")


def fail_loudly() -> None:
    with quiet_libraries("converter"):
        chatter()
        raise ValueError("broken")


def test_nothing_is_printed_and_all_is_logged_at_debug(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), quiet_libraries("converter"):
        chatter()
    assert capfd.readouterr() == ("", "")
    for source in ("from print", "from stderr", "from descriptor 1", "from descriptor 2"):
        assert f"converter: {source}" in caplog.messages


def test_a_failure_brings_the_output_back_as_errors(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="broken"):
        fail_loudly()
    assert [record.levelno for record in caplog.records if "from descriptor 2" in record.message] == [logging.ERROR]


def test_printing_works_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries("converter"):
        chatter()
    print("after")
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("after\n", "after\n")
