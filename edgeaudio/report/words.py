"""How pages word numbers and names."""

from __future__ import annotations

from edgeaudio.spec.text import printable


def percent(share: float, digits: int = 1) -> str:
    """`93.4 %`."""
    return f"{share * 100:.{digits}f} %"


def count(value: int | None) -> str:
    """`23.1 k`, `4.6 M`; a dash for None."""
    if value is None:
        return "–"
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if value >= limit:
            return f"{value / (1_000 if unit == 'k' else limit):.1f} {unit}"
    return f"{value:,}"


def kib(value: int | None) -> str:
    """`61.4 KiB`; a dash for None."""
    if value is None:
        return "–"
    return f"{value / 2**20:.1f} MiB" if value >= 2**20 else f"{value / 1024:.1f} KiB"


def milliseconds(value_us: float | None) -> str:
    """`0.564 ms`, `12.31 ms`; a dash for None."""
    return "–" if value_us is None else f"{ms_digits(value_us)} ms"


def ms_digits(value_us: float) -> str:
    """Milliseconds with as many digits as they deserve, without the unit."""
    return f"{value_us / 1e3:.{3 if value_us < 1e3 else 2 if value_us < 1e5 else 0}f}"


def plain(text: str, width: int = 120) -> str:
    """A name of others, shortened: pages are for reading."""
    return printable(text, width)
