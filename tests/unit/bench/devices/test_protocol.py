"""Numbered messages with checksums: whatever a link does to them, a part or a change is not taken for the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.devices.protocol import (
    AGENT_KINDS,
    MAX_NOISE_LINES,
    Message,
    MessageReader,
    MessageWriter,
    ReplyError,
    check_complete,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.lists(st.tuples(st.sampled_from(AGENT_KINDS[:-1]), st.dictionaries(st.text(max_size=8), JSON, max_size=4)))


def said(bodies: list[tuple[str, dict[str, Any]]]) -> list[bytes]:
    lines: list[bytes] = []
    writer = MessageWriter(lines.append)
    for kind, body in bodies:
        writer.send(kind, body)
    writer.bye()
    return lines


def heard(data: bytes) -> list[Message]:
    """All messages of a complete conversation; ReplyError for anything else."""
    *lines, rest = data.split(b"\n")
    if rest:
        raise ReplyError("a line without its end")
    reader = MessageReader(AGENT_KINDS)
    for line in lines:
        reader.line(line)
    check_complete(reader.messages)
    return reader.messages


@given(BODIES)
def test_what_is_said_is_heard(bodies: list[tuple[str, dict[str, Any]]]) -> None:
    messages = heard(b"".join(said(bodies)))
    assert [(message.kind, message.body) for message in messages[:-1]] == bodies


@given(BODIES, st.data())
def test_no_cut_is_complete(bodies: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    whole = b"".join(said(bodies))
    with pytest.raises(ReplyError):
        heard(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(BODIES, st.data())
def test_no_changed_byte_is_taken(bodies: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    whole = bytearray(b"".join(said(bodies)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        messages = heard(bytes(whole))
    except ReplyError:
        return
    # JSON has more than one way to write a number or a letter: then nothing has changed.
    assert [(message.kind, message.body) for message in messages[:-1]] == bodies


@given(BODIES.filter(lambda bodies: len(bodies) > 1), st.data())
def test_no_line_can_be_lost_doubled_or_moved(bodies: list[tuple[str, dict[str, Any]]], data: st.DataObject) -> None:
    lines = said(bodies)
    at = data.draw(st.integers(0, len(lines) - 2))
    for spoilt in (
        lines[:at] + lines[at + 1 :],
        lines[: at + 1] + lines[at:],
        [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
    ):
        with pytest.raises(ReplyError):
            heard(b"".join(spoilt))


def test_a_login_shell_may_talk_before_but_not_between() -> None:
    lines = said([("hello", {})])
    assert len(heard(b"Welcome!\n\x1b[31m{}\n" + b"".join(lines))) == 2
    with pytest.raises(ReplyError, match="damaged"):
        heard(lines[0] + b"Broadcast message from root\n" + lines[1])
    reader = MessageReader(AGENT_KINDS)
    assert [reader.line(b"y") for _ in range(MAX_NOISE_LINES)] == [None] * MAX_NOISE_LINES
    with pytest.raises(ReplyError):
        reader.line(b"y")


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 0, "kind": "hello", "body": {}},
        {"seq": "0", "kind": "hello", "body": {}, "crc32": 1},
        {"seq": True, "kind": "hello", "body": {}, "crc32": 1},
        {"seq": 0, "kind": ["hello"], "body": {}, "crc32": 1},
        {"seq": 0, "kind": "shutdown", "body": {}, "crc32": 1},
        {"seq": 0, "kind": "hello", "body": [], "crc32": 1},
        {"seq": 0, "kind": "hello", "body": {}, "crc32": 1, "more": 1},
        [],
        "hello",
    ],
)
def test_a_line_of_another_shape_is_no_message(fields: Any) -> None:
    reader = MessageReader(AGENT_KINDS)
    assert reader.line(json.dumps(fields).encode()) is None  # Before the first message: noise.
    reader.line(said([("hello", {})])[0].rstrip())
    with pytest.raises(ReplyError):
        reader.line(json.dumps(fields).encode())


def test_deep_nesting_is_refused_before_it_is_parsed() -> None:
    reader = MessageReader(AGENT_KINDS)
    reader.line(said([("hello", {})])[0].rstrip())
    with pytest.raises(ReplyError, match="depth"):
        reader.line(b'{"seq":1,"kind":"result","crc32":1,"body":' + b"[" * 100_000 + b"}")


def test_nothing_comes_after_the_last_message() -> None:
    lines = said([("hello", {})])
    again = MessageWriter(lines.append)
    again._seq = 2
    again.send("artefact", {})
    with pytest.raises(ReplyError, match="after the last"):
        heard(b"".join(lines))
