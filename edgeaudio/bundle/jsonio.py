"""Strict JSON for untrusted manifests: bounded depth, no key twice, no NaN."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from edgeaudio.errors import BundleError, LimitError
from edgeaudio.spec.limits import JSON_DEPTH

# A string without its end runs to the end of the data: were it no match, the scan would restart
# at each quote and take quadratic time.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def parse_json(data: bytes, source: str) -> Any:
    """Parse one JSON document.

    Raises:
        BundleError: not JSON or not UTF-8, a key given twice, NaN or Infinity.
        LimitError: nested deeper than `JSON_DEPTH`.
    """
    check_depth(data, source)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed: dict[str, Any] = {}
        for key, value in pairs:
            if key in parsed:
                raise BundleError(f"{source}: key {key!r:.80} is there twice")
            parsed[key] = value
        return parsed

    def no_constant(word: str) -> NoReturn:
        raise BundleError(f"{source}: {word} is not a number that JSON knows")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
        raise BundleError(f"{source}: not JSON: {error}") from error


def check_depth(data: bytes, source: str) -> None:
    """Raise `LimitError` where brackets nest deeper than `JSON_DEPTH`, before any recursive parser sees them."""
    depth = 0
    for match in _TOKEN.finditer(data):
        first = match.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > JSON_DEPTH:
                raise LimitError(f"{source}: JSON depth", f"above {JSON_DEPTH}", JSON_DEPTH)
        elif first in b"]}":
            depth -= 1
