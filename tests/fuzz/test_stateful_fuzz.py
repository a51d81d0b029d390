"""A stateful form or a cascade described wrongly: a typed error, when it is read or when an engine is to run it."""

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
from tests import tiny_cascade, tiny_stateful

FUZZ_N = int(os.environ.get("EDGEAUDIO_FUZZ_N", "2000")) // 5
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2, 3, 4, 5, 2**31, 2**63, 1.5, -0.0, 1e300, "", "x", "int8", "uint8", "float32", [], {}, [1],
    [0, 0, 0], [1, 5, 64], [1, 64, 5], [1, 2**40, 64], [1, 5, 64, 1], "onnx", "tflite", "fp32", "stateful", [[[]]],
    "window", "hidden", [None], "artefacts/fp32.onnx", "stages/fp32-0.onnx", "stateful/fp32.onnx",
]  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((*path, key), *_places(inner, (*path, key)))]


def _mutated(manifest: dict[str, Any], parts: tuple[str, ...], rng: random.Random) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    for _ in range(rng.randint(1, 2)):
        part = changed[rng.choice(parts)]
        *way, last = rng.choice(_places(part))
        at: Any = part
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


def _count_refused(data: bytes, parts: tuple[str, ...], n: int) -> int:
    """How many of n wrong descriptions are refused, by reading or by checking; any untyped error is raised."""
    rng = random.Random(6)
    entries = unpack(data, "x")
    manifest = json.loads(entries["manifest.json"])
    refused = 0
    for _ in range(n):
        changed = _mutated(manifest, parts, rng)
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
    return refused


def test_a_wrong_description_never_gets_past_reading_and_checking_untyped() -> None:
    assert _count_refused(tiny_stateful.stateful_bytes(), ("stateful",), FUZZ_N) > FUZZ_N * 0.8


def test_a_wrong_cascade_never_gets_past_reading_and_checking_untyped() -> None:
    # Thresholds, calibration and names of sources may be anything that is well-formed.
    assert _count_refused(tiny_cascade.stateful_cascade_bytes(), ("exits", "stateful"), FUZZ_N) > FUZZ_N * 0.8
