"""Damaged bundles: every one is refused by a typed error. EDGEAUDIO_FUZZ_N sets the number of random ones."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from edgeaudio.bundle import Bundle, describe
from edgeaudio.bundle.container import pack, unpack
from edgeaudio.errors import BundleError, LimitError
from tests import tiny_bundle as tiny

FUZZ_N = int(os.environ.get("EDGEAUDIO_FUZZ_N", "2000"))


@pytest.fixture(scope="module")
def data() -> bytes:
    return tiny.tiny_bytes("onnx-fp32", "onnx-int8")


def _assert_refused(damaged: bytes) -> None:
    with pytest.raises((BundleError, LimitError)):
        Bundle.read(damaged)


def _payload_ranges(data: bytes) -> list[range]:
    """Where the contents of all entries but the manifest lie."""
    ranges, at = [], 0
    for name, payload in unpack(data, "x").items():
        at += 30 + len(name)
        if name != "manifest.json":
            ranges.append(range(at, at + len(payload)))
        at += len(payload)
    return ranges


def test_every_single_bit_of_manifest_and_structure_counts(data: bytes) -> None:
    payload = {byte for span in _payload_ranges(data) for byte in span}
    structure = [byte for byte in range(len(data)) if byte not in payload]
    assert len(structure) > 2_000
    damaged = bytearray(data)
    for byte in structure:
        for bit in range(8):
            damaged[byte] ^= 1 << bit
            try:
                Bundle.read(damaged)
            except (BundleError, LimitError):
                pass
            else:
                pytest.fail(f"bit {bit} of byte {byte} can be flipped unnoticed")
            damaged[byte] ^= 1 << bit


def test_flipped_bits_in_payloads_are_refused(data: bytes) -> None:
    rng = random.Random(1)
    spans = _payload_ranges(data)
    for _ in range(FUZZ_N):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.choice(rng.choice(spans))] ^= 1 << rng.randrange(8)
        if damaged != data:
            _assert_refused(damaged)


def test_flipped_bits_in_payloads_are_refused_even_where_the_crc_is_mended(data: bytes) -> None:
    rng = random.Random(2)
    names = list(unpack(data, "x"))[1:]
    for _ in range(FUZZ_N // 10):
        entries = unpack(data, "x")
        name = rng.choice(names)
        payload = bytearray(entries[name])
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        with pytest.raises(BundleError, match=f"entry '{name}': sha256"):
            Bundle.read(pack(entries | {name: bytes(payload)}))


def test_random_multi_byte_damage_is_refused(data: bytes) -> None:
    rng = random.Random(3)
    for _ in range(FUZZ_N):
        damaged = bytearray(data)
        start = rng.randrange(len(data))
        length = rng.choice([1, 2, 4, 8, 64])
        mode = rng.randrange(5)
        if mode == 0:
            damaged[start : start + length] = rng.randbytes(length)
        elif mode == 1:
            del damaged[start : start + length]
        elif mode == 2:
            damaged[start:start] = rng.randbytes(length)
        elif mode == 3:
            other = rng.randrange(len(data))
            damaged[start : start + length] = data[other : other + length]
        else:
            damaged[start : start + 4] = struct.pack("<I", rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
        if damaged != data:
            _assert_refused(damaged)


def test_truncations_and_extensions_are_refused(data: bytes) -> None:
    rng = random.Random(4)
    lengths = {*range(200), *range(len(data) - 400, len(data)), *(rng.randrange(len(data)) for _ in range(FUZZ_N // 4))}
    for length in lengths:
        _assert_refused(data[:length])
    for length in (1, 2, 22, 1_000):
        for junk in (bytes(length), rng.randbytes(length), data[-length:], data[:length]):
            _assert_refused(data + junk)
            _assert_refused(junk + data)


def test_swapped_and_renamed_entries_are_refused(data: bytes) -> None:
    rng = random.Random(5)
    entries = unpack(data, "x")
    names = list(entries)
    for _ in range(FUZZ_N // 10):
        shuffled = rng.sample(names, len(names))
        if shuffled != names:
            _assert_refused(pack({name: entries[name] for name in shuffled}))
            _assert_refused(pack(dict(zip(names, (entries[name] for name in shuffled), strict=True))))
            _assert_refused(pack(dict(zip(shuffled, (entries[name] for name in names), strict=True))))
    _assert_refused(data.replace(b"artefacts/fp32.onnx", b"artefacts/fp33.onnx"))


_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, "", "x", "\x00", "../x", "/x", "é" * 200,
    "\ud800", [], {}, [[]], [None], {"a": None}, [1] * 100, "0" * 64,
]  # fmt: skip


def _mutate(value: Any, rng: random.Random) -> Any:
    """A random change somewhere in a JSON value."""
    if rng.random() < 0.15 or not isinstance(value, (dict, list)) or not value:
        return rng.choice(_VALUES)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    action = rng.random()
    if action < 0.15:
        del changed[key]
    elif action < 0.25:
        if isinstance(changed, dict):
            changed[rng.choice(["x", "", "\x1b[2J", "path", "scale"])] = rng.choice(_VALUES)
        else:
            changed.append(changed[key])
    else:
        changed[key] = _mutate(value[key], rng)
    return changed


def _read_mutants(data: bytes, n: int, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> int:
    """Read `n` mutants whose container is right again; how many were refused. Untyped errors propagate."""
    messages: list[str] = []
    for _ in range(n):
        mutant = pack(change(unpack(data, "x")))
        try:
            json.dumps(describe(Bundle.read(mutant)), allow_nan=False)
        except (BundleError, LimitError) as error:
            messages.append(str(error))
    assert all(message.isprintable() for message in messages)
    return len(messages)


def test_mutated_manifests_give_typed_errors_only(data: bytes) -> None:
    rng = random.Random(6)

    def change(entries: dict[str, bytes]) -> dict[str, bytes]:
        mutant = _mutate(json.loads(entries["manifest.json"]), rng)
        return entries | {"manifest.json": json.dumps(mutant).encode()}

    # Without a signature a changed label is a valid other bundle; most changes are not.
    assert _read_mutants(data, FUZZ_N, change) > FUZZ_N // 2


def test_garbled_manifest_text_gives_typed_errors_only(data: bytes) -> None:
    rng = random.Random(7)

    def change(entries: dict[str, bytes]) -> dict[str, bytes]:
        text = bytearray(entries["manifest.json"])
        for _ in range(rng.randint(1, 5)):
            text[rng.randrange(len(text))] = rng.choice(b'{}[]",:\\0\xff\x00neE+-.')
        return entries | {"manifest.json": bytes(text)}

    assert _read_mutants(data, FUZZ_N, change) > FUZZ_N // 2


def test_garbled_golden_vectors_give_typed_errors_only(data: bytes) -> None:
    rng = random.Random(8)
    manifest = json.loads(unpack(data, "x")["manifest.json"])

    def change(entries: dict[str, bytes]) -> dict[str, bytes]:
        golden = bytearray(entries["golden.safetensors"])
        for _ in range(rng.randint(1, 3)):  # In the header: the vectors behind it are plain numbers.
            golden[rng.randrange(600)] = rng.choice(b'{}[]",:F321640I9-\x00\xff')
        entry = tiny.file_entry("golden.safetensors", bytes(golden)).model_dump()
        text = json.dumps(manifest | {"golden": entry}).encode()
        return entries | {"manifest.json": text, "golden.safetensors": bytes(golden)}

    assert _read_mutants(data, FUZZ_N, change) > FUZZ_N // 3
