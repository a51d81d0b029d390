"""What reaches a terminal: text of others moves no cursor, and JSON stays JSON."""

from __future__ import annotations

import json

import pytest

from edgeaudio.cli.output import print_fields, print_json, print_json_line, print_table

#: A colour, a new line, a C1 control, what turns the text around it, a deletion, half a pair; and what is harmless.
HOSTILE = "\x1b[31m\n\x9b2J\u202egnp\x7f\ud800"
HARMLESS = "Küche 台所 🔊"


def is_harmless(shown: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in shown)


def test_a_table_shows_what_cannot_be_shown_as_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "FLAGS"), [(HOSTILE, [HOSTILE]), (HARMLESS, 3)])
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert shown.count("\n") == 3
    assert "\\x1b[31m\\x0a\\x9b2J\\x202egnp\\x7f" in shown
    assert HARMLESS in shown


def test_fields_too_names_included(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({HOSTILE: HOSTILE, "inner": {HOSTILE: [HOSTILE]}, "rows": [{HOSTILE: HARMLESS}]})
    shown = capsys.readouterr().out
    assert is_harmless(shown)
    assert shown.count("\n") == 5
    assert HARMLESS in shown


def test_json_says_the_same_without_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (print_json, print_json_line):
        show({HOSTILE: [HOSTILE, HARMLESS]})
        shown = capsys.readouterr().out
        assert is_harmless(shown)
        assert HARMLESS in shown
        assert json.loads(shown) == {HOSTILE: [HOSTILE, HARMLESS]}
