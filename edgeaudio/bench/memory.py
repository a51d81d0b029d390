"""How much memory this process takes, as its kernel counts it. Imports nothing that would be counted too."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    # VmHWM belongs to this program alone; ru_maxrss survives exec and can be the parent's.
    known = _bytes(Path("/proc/self/status"), "VmHWM:")
    if known is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pss_bytes() -> int | None:
    """Resident now, a page that n processes share counted as a part in n; None where the kernel does not tell."""
    return _bytes(Path("/proc/self/smaps_rollup"), "Pss:")


def _bytes(path: Path, field: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)
