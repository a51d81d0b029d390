"""A verb that has verbs of its own: `bench x.eab`, and `bench compare a.json b.json`."""

from __future__ import annotations

import difflib
import os
from typing import Any

from typer.core import TyperGroup

from edgeaudio.cli.groups import write_sections
from edgeaudio.errors import ConfigError


class VerbGroup(TyperGroup):
    """The group's own callback is the verb; it gets whatever does not begin with the name of another verb.

    A file with such a name is given as `./compare`.
    """

    # Options may follow the arguments, and there is nothing behind them: this is a command that has others beside it.
    allow_interspersed_args = True
    allow_extra_args = False

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the verb that `args` are for."""
        word = args[0] if args else ""
        if word in self.commands:
            return self.commands[word].make_context(f"{info_name} {word}", args[1:], parent=parent, **extra)
        near = difflib.get_close_matches(word, self.commands, n=1)
        if near and not os.path.lexists(word):
            raise ConfigError(f"{info_name}: {word!r} is neither a file nor a command. Did you mean {near[0]!r}?")
        return super().make_context(info_name, args, parent=parent, **extra)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of the verb under their headings, then the other verbs."""
        write_sections(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Without the word COMMAND: the page of the verb lists the others."""
        return super().collect_usage_pieces(ctx)[:-1]
