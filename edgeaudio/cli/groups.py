"""Options in groups: a verb with a parameter that is a dataclass gets one option per field of it.

A group may say under which headings the help shows them: `HEADINGS`, name of a field -> heading from there on.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand


class SectionedCommand(TyperCommand):
    """A verb whose help shows options under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See `TyperCommand`."""
        write_sections(self, ctx, formatter)


def write_sections(command: Any, ctx: Any, formatter: Any) -> None:
    """Write the parameters of a verb to its help, each under its heading; what has none is under "Options"."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        heading = "Arguments" if parameter.param_type_name == "argument" else None
        heading = heading or getattr(parameter, "rich_help_panel", None) or "Options"
        if record is not None:
            sections.setdefault(heading, []).append(record)
    for heading, records in sections.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


def takes_groups(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Replace every parameter of `verb` whose type is a dataclass by its fields, each an option with its default.

    Fields are annotated like any parameter of a verb; names are unique over all groups.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in groups:
            parameters += _options(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def with_options(**given: Any) -> Any:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        return verb(**given, **made)

    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _options(group: Any) -> list[inspect.Parameter]:
    hints, headings = get_type_hints(group, include_extras=True), getattr(group, "HEADINGS", {})
    heading, made = None, []
    for field in dataclasses.fields(group):
        heading = headings.get(field.name, heading)
        annotation = _under(heading, hints[field.name])
        made.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        )
    return made


def _under(heading: str | None, annotation: Any) -> Any:
    """`Annotated[type, typer.Option(...)]` with the option under `heading`."""
    given, option = get_args(annotation)
    assert isinstance(option, typer.models.OptionInfo)
    placed = copy.copy(option)
    placed.rich_help_panel = heading
    return Annotated[given, placed]
