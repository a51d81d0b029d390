"""How results reach stdout: JSON for programs, aligned text for people. Logs never come here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NOT_PLAIN = re.compile(r"[^\n -~]")


def to_jsonable(value: Any) -> Any:
    """`value` as plain JSON types: specs, dataclasses, paths, NumPy scalars and arrays included."""
    if hasattr(value, "model_dump"):  # A spec; naming its class would import pydantic for every --help.
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    # NumPy without importing it: scalars and arrays both have tolist().
    return value.tolist() if hasattr(value, "tolist") else value


def print_json(value: Any) -> None:
    """One indented JSON document on stdout."""
    print(_json(value, indent=2))


def print_json_line(value: Any) -> None:
    """One JSON object on one line, flushed at once: the reader may be a live pipe."""
    print(_json(value), flush=True)


def _json(value: Any, indent: int | None = None) -> str:
    """JSON in which letters stay letters, and what a terminal would obey is escaped."""
    text = json.dumps(to_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _NOT_PLAIN.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Left-aligned columns, two spaces apart. What cannot be shown of a text is shown as its number."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_fields(value: Any, indent: int = 0) -> None:
    """Nested names and values, one per line, the names of a level aligned; texts as in `print_table`."""
    value = {_cell(key): item for key, item in to_jsonable(value).items()}
    width = max((len(key) for key, item in value.items() if not _is_nested(item)), default=0)
    for key, item in value.items():
        if not _is_nested(item):
            print(f"{' ' * indent}{key:<{width}}  {_cell(item)}")
        elif isinstance(item, dict):
            print(f"{' ' * indent}{key}:")
            print_fields(item, indent + 2)
        else:
            for number, part in enumerate(item):
                print(f"{' ' * indent}{key}[{number}]:")
                print_fields(part, indent + 2)


def format_bytes(n_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _is_nested(item: Any) -> bool:
    return bool(item) and (isinstance(item, dict) or (isinstance(item, list) and isinstance(item[0], dict)))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    from edgeaudio.spec.text import printable  # Not for every --help: it is in a room that imports pydantic.

    return printable(str(value))
