"""YAML as recipes use it: plain data, every line known, nothing surprising.

Differences from `yaml.safe_load`: a key given twice, an anchor or alias, a tag and deep nesting are
refused; only true and false are booleans; `1e-3` is a number; dates and `12:30` stay text.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edgeaudio.errors import ConfigError
from edgeaudio.spec.limits import JSON_DEPTH, check_limit

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2: no `yes`, no octal, no base 60, no dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as PyYAML declares it)


_FLOAT = r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
for _tag, _pattern, _first in [
    ("null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(0|[1-9][0-9]*)$", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)

_NOT_FINITE = re.compile(r"\.([iInN])")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class Document:
    """The data of one YAML text, and where each part of it came from."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.data: Any = {}
        self.places: dict[KeyPath, str] = {}

    def place(self, line: int) -> str:
        """`file:line` for a line counted from 0; an option is a single line and keeps its own name."""
        return self.source if self.source.startswith("--set") else f"{self.source}:{line + 1}"

    def where(self, path: KeyPath) -> str:
        """The nearest known place at or above `path`: `file:line`, or the option that set it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.source

    def override(self, path: KeyPath, source: str) -> None:
        """Note that `source` (an option) gave everything at and below `path`."""
        self.places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        self.places[path] = source

    def refuse(self, line: int, message: str) -> NoReturn:
        """Raise the `ConfigError` for a line counted from 0."""
        raise ConfigError(f"{self.place(line)}: {message}")


def parse_document(text: str, *, source: str, mapping: bool = True) -> Document:
    """Parse one YAML document; `source` (a file name or option) leads every message.

    Raises:
        ConfigError: not YAML, or YAML beyond what a recipe may hold; with `mapping`, the top must be a mapping.
        LimitError: nested deeper than `limits.JSON_DEPTH`.
    """
    document = Document(source)
    try:
        _check_events(document, text)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.refuse(mark.line if mark else 0, f"not valid YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    if node is None:
        document.data = {} if mapping else None
        return document
    if mapping and not isinstance(node, MappingNode):
        document.refuse(_line(node), "a recipe is a mapping of fields at the top, such as 'train:'")
    document.data = _plain(document, node, ())
    return document


def _line(item: Node | yaml.Event) -> int:
    assert item.start_mark is not None  # only hand-made nodes have none
    return item.start_mark.line


def _check_events(document: Document, text: str) -> None:
    """Depth and aliases, seen before composing, which recurses and would expand them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or (isinstance(event, yaml.NodeEvent) and event.anchor):
            document.refuse(_line(event), "anchors and aliases are not used in recipes; write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            check_limit(f"{document.place(_line(event))}: nesting", depth, JSON_DEPTH)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _plain(document: Document, node: Node, path: KeyPath) -> Any:
    document.places.setdefault(path, document.place(_line(node)))
    if node.tag not in _PLAIN_TAGS:
        document.refuse(_line(node), f"the tag {node.tag!r} is not allowed; use plain values")
    if isinstance(node, MappingNode):
        return _mapping(document, node, path)
    if isinstance(node, SequenceNode):
        return [_plain(document, item, (*path, position)) for position, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    try:
        return _scalar(node.tag.rpartition(":")[2], node.value)
    except ValueError:
        document.refuse(_line(node), f"{node.value[:40]!r} is not a number that can be read")


def _mapping(document: Document, node: MappingNode, path: KeyPath) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in node.value:
        line = _line(key)
        if not isinstance(key, ScalarNode) or not key.tag.endswith(":str"):
            document.refuse(line, f"a field name must be text, given {getattr(key, 'value', key)!r:.80}; quote it")
        if key.value in fields:
            document.refuse(line, f"{'.'.join(map(str, (*path, key.value)))} is given twice; keep one")
        # The key's line, not the value's: that is where the reader looks for a field.
        document.places[(*path, key.value)] = document.place(line)
        fields[key.value] = _plain(document, value, (*path, key.value))
    return fields


def _scalar(kind: str, text: str) -> Any:
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "float":
            return float(_NOT_FINITE.sub(r"\1", text))
        case _:
            return text
