"""A stateful form described wrongly: refused by a typed error when it is read, or when an engine is to run it."""

from __future__ import annotations

import copy
import json
import os
import random
from typing import Any

from edgeaudio.bundle import Bundle
from edgeaudio.bundle.container import pack, unpack
from edgeaudio.errors import BundleError, EdgeAudioError, LimitError
from edgeaudio.runtime import check_bundle
from tests import tiny_stateful

FUZZ_N = int(os.environ.get("EDGEAUDIO_FUZZ_N", "2000")) // 5
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2, 3, 4, 5, 2**31, 2**63, 1.5, -0.0, 1e300, "", "x", "int8", "uint8", "float32", [], {}, [1],
    [0, 0, 0], [1, 5, 64], [1, 64, 5], [1, 2**40, 64], [1, 5, 64, 1], "onnx", "tflite", "fp32", "stateful", [[[]]],
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *_places(inner, (*path, key)))]


def _mutated(manifest: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    for _ in range(rng.randint(1, 2)):
        *way, last = rng.choice(_places(changed["stateful"]))
        at: Any = changed["stateful"]
        for key in way:
            at = at[key]
        mode = rng.randrange(4)
        if mode == 0:
            del at[last]
        elif mode == 1 and isinstance(at, list):
            at.insert(rng.randint(0, len(at)), copy.deepcopy(at[last]))
        elif mode == 2 and isinstance(at[last], int):
            at[last] += rng.choice([-1, 1])
        else:
            at[last] = rng.choice(VALUES)
    return changed


def test_a_wrong_description_never_gets_past_reading_and_checking_untyped() -> None:
    rng = random.Random(6)
    entries = unpack(tiny_stateful.stateful_bytes(), "x")
    manifest = json.loads(entries["manifest.json"])
    refused = 0
    for _ in range(FUZZ_N):
        changed = _mutated(manifest, rng)
        if changed == manifest:
            continue
        try:
            bundle = Bundle.read(pack(entries | {"manifest.json": json.dumps(changed).encode()}))
        except (BundleError, LimitError):
            refused += 1
            continue
        try:
            check_bundle(bundle).raise_if_failed()
        except EdgeAudioError:
            refused += 1
    assert refused > FUZZ_N * 0.8
