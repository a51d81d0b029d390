"""Recipes from disk: strict YAML plus dotted overrides, validated into a `Spec`.

Every complaint names the file and line (or the override), the dotted field and the mend. The YAML
itself is read by `edgeaudio.pipeline.strict_yaml`; this module knows about models and fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.pipeline.strict_yaml import Document, KeyPath, parse_document
from edgeaudio.spec import Spec
from edgeaudio.spec.limits import RECIPE_BYTES, check_limit

S = TypeVar("S", bound=Spec)

#: Complaints shown at once; a recipe for another model would otherwise fill the screen.
MAX_COMPLAINTS = 5


def load_config(path: Path, model: type[S], overrides: Sequence[str] = ()) -> S:
    """Read the YAML file `path` into `model`, after applying `overrides` such as `train.windows_seen=20000`.

    Relative paths inside are kept as written.

    Raises:
        ConfigError: no such file, bad YAML, bad override, or a field that the model refuses; the
            message gives `file:line` (or `--set a.b=c`), the dotted name and what was wanted.
        LimitError: the file is larger than `limits.RECIPE_BYTES`.
    """
    return parse_config(read_config(path), model, overrides, source=str(path))


def parse_config(text: str, model: type[S], overrides: Sequence[str] = (), *, source: str) -> S:
    """`load_config` for a text that was read before; `source` (its file) leads every message."""
    document = parse_document(text, source=source)
    for override in overrides:
        apply_override(document, override)
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        items = error.errors(include_url=False)
        complaints = [_complain(document, model, item) for item in items[:MAX_COMPLAINTS]]
        if len(items) > MAX_COMPLAINTS:
            complaints.append(f"and {len(items) - MAX_COMPLAINTS} more")
        raise ConfigError("; ".join(complaints)) from error


def apply_override(document: Document, override: str) -> None:
    """Set one dotted field of `document` to a YAML value; missing mappings on the way are made.

    Raises:
        ConfigError: not of the form `a.b=value`, or the path runs through a value that has no fields.
    """
    source = f"--set {override}"
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{source}: an override is written field=value, for example --set train.windows_seen=20000")
    value = parse_document(text, source=source, mapping=False).data
    node: Any = document.data
    for depth, part in enumerate(parts[:-1]):
        child = _child(node, part)
        if child is None and isinstance(node, dict):
            child = node[part] = {}
        if not isinstance(child, dict | list):
            raise ConfigError(f"{source}: {'.'.join(parts[: depth + 1])} is {child!r:.80} and has no fields to set")
        node = child
    if isinstance(node, list):
        node[_index(node, parts, source)] = value
    else:
        node[parts[-1]] = value
    document.override(_key_path(document.data, parts), source)


def read_config(path: Path) -> str:
    """The text of a recipe file; errors as `load_config`."""
    try:
        check_limit(f"{path}: size in bytes", path.stat().st_size, RECIPE_BYTES)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no file {str(path)!r}. {_nearby(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {str(path.parent)!r} does not exist either."
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in {".yaml", ".yml"}]
    return closest_match_hint(path.name, names) if names else f"{str(path.parent)!r} holds no .yaml file."


def _child(node: Any, part: str) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    return None


def _index(node: list[Any], parts: Sequence[str], source: str) -> int:
    if not parts[-1].isdecimal() or int(parts[-1]) >= len(node):
        where = ".".join(parts[:-1])
        raise ConfigError(f"{source}: {where} is a list of {len(node)}; give an index from 0 to {len(node) - 1}")
    return int(parts[-1])


def _key_path(data: Any, parts: Sequence[str]) -> KeyPath:
    """`parts` with list positions as numbers, as the document and pydantic write them."""
    path: list[str | int] = []
    for part in parts:
        path.append(int(part) if isinstance(data, list) else part)
        data = _child(data, part)
    return tuple(path)


def _complain(document: Document, model: type[BaseModel], item: ErrorDetails) -> str:
    path = _data_path(document.data, item)
    name, where = ".".join(map(str, path)) or "the recipe", document.where(path)
    kind, message = item["type"], item["msg"]
    if kind == "extra_forbidden":
        known = sorted({field for owner in _owners(model, item["loc"][:-1]) for field in owner.model_fields})
        hint = closest_match_hint(str(item["loc"][-1]), known) if known else "Nothing can be set there."
        return f"{where}: {name} is not a field. {hint}"
    if kind == "missing":
        return f"{where}: {name} is missing"
    if kind == "value_error":
        return f"{where}: {name}: {message.removeprefix('Value error, ')}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _complain_tag(document, path, item)
    wanted = "a mapping of fields" if kind == "model_type" else message.removeprefix("Input should be ")
    return f"{where}: {name} is {item['input']!r:.80}; wanted {wanted}"


def _complain_tag(document: Document, path: KeyPath, item: ErrorDetails) -> str:
    """A union whose members are told apart by one field, and that field is absent or unknown."""
    context = item.get("ctx", {})
    path = (*path, str(context["discriminator"]).strip("'"))
    name, where = ".".join(map(str, path)), document.where(path)
    if item["type"] == "union_tag_not_found":
        return f"{where}: {name} is missing"
    known = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
    return f"{where}: {name} is {context['tag']!r}. {closest_match_hint(str(context['tag']), known)}"


def _data_path(data: Any, item: ErrorDetails) -> KeyPath:
    """Where in the file an error lies: `loc` without the union tags that pydantic puts between."""
    path: list[str | int] = []
    for part in item["loc"]:
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, dict) and part in data):
            data = data[part]
        elif not (item["type"] == "missing" and part == item["loc"][-1]):
            continue
        path.append(part)
    return tuple(path)


def _owners(model: type[BaseModel], loc: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may hold a field at `loc`; more than one inside a union."""
    owners = [model]
    for part in loc:
        fields = [owner.model_fields[part] for owner in owners if isinstance(part, str) and part in owner.model_fields]
        if fields:
            owners = [inner for field in fields for inner in _models_in(field.annotation)]
        elif isinstance(part, str):
            owners = [owner for owner in owners if _is_tagged(owner, part)] or owners
    return owners


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for part in getattr(annotation, "__args__", ()) for inner in _models_in(part)]


def _is_tagged(owner: type[BaseModel], tag: str) -> bool:
    literals = (getattr(field.annotation, "__args__", ()) for field in owner.model_fields.values())
    return owner.__name__ == tag or any(tag in cast("tuple[Any, ...]", values) for values in literals)
