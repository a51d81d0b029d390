"""What a stream printed, without what depends on the clock: two runs over the same sound agree in the rest."""

from __future__ import annotations

import json
from typing import Any

_OF_THE_CLOCK = {"wall_time", "wall_start", "latency_ms"}


def decided(lines: str) -> list[dict[str, Any]]:
    """The records in `lines`, one JSON object each."""
    records = [json.loads(line) for line in lines.splitlines()]
    return [{name: value for name, value in record.items() if name not in _OF_THE_CLOCK} for record in records]
