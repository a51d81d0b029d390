"""Where a live stream's events go besides standard output: the options, and what they open."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import typer

from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.outputs.base import Output
    from edgeaudio.outputs.info import StreamInfo
    from edgeaudio.runtime.observer import Observer

_MB = 1_000_000

Events = Annotated[
    Path | None, typer.Option("--events", metavar="FILE", help="Append every event to this file too, as JSON lines.")
]
EventsMaxMb = Annotated[
    float, typer.Option("--events-max-mb", min=0.001, help="Size at which --events starts a new file.")
]
EventsKeep = Annotated[
    int, typer.Option("--events-keep", min=0, max=1000, help="Old files of --events that are kept: FILE.1, FILE.2 ...")
]
SaveClips = Annotated[
    Path | None,
    typer.Option("--save-clips", metavar="DIR", help="Save the audio of every event in this folder, with a JSON line."),
]
ClipsPreRollS = Annotated[
    float, typer.Option("--clips-pre-roll-s", min=0, max=600, help="Seconds of a clip before the sound.")
]
ClipsPostRollS = Annotated[
    float, typer.Option("--clips-post-roll-s", min=0, max=600, help="Seconds of a clip after the sound.")
]
ClipsMaxS = Annotated[
    float, typer.Option("--clips-max-s", min=0.1, max=3600, help="Longest clip; a longer sound is cut.")
]
ClipsMaxMb = Annotated[
    float, typer.Option("--clips-max-mb", min=0.001, help="All clips together; above it the oldest are deleted.")
]
ClipsFormat = Annotated[str, typer.Option("--clips-format", help="flac or wav, 16 bits.")]
Ui = Annotated[bool, typer.Option("--ui", help="Serve a live page: spectrogram, scores, events and health.")]
UiListen = Annotated[
    str | None,
    typer.Option(
        "--ui-listen",
        metavar="HOST:PORT",
        help="As --ui, there. Default: 127.0.0.1:8765, which only this machine can reach.",
    ),
]
UiName = Annotated[
    list[str] | None,
    typer.Option("--ui-name", metavar="NAME", help="Host name by which a browser may ask for the page; repeatable."),
]


@dataclass(frozen=True)
class OutputOptions:
    """The options of all outputs, each field one option of the verb that `takes_outputs`."""

    events: Events = None
    events_max_mb: EventsMaxMb = 16.0
    events_keep: EventsKeep = 4
    save_clips: SaveClips = None
    clips_pre_roll_s: ClipsPreRollS = 2.0
    clips_post_roll_s: ClipsPostRollS = 1.0
    clips_max_s: ClipsMaxS = 30.0
    clips_max_mb: ClipsMaxMb = 1000.0
    clips_format: ClipsFormat = "flac"
    ui: Ui = False
    ui_listen: UiListen = None
    ui_name: UiName = None


def takes_outputs(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the parameter `outputs: OutputOptions` of `verb` by one option per field."""
    hints = get_type_hints(verb, include_extras=True)
    option_hints = get_type_hints(OutputOptions, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(verb).parameters.items()
        if name != "outputs"
    ]
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=option_hints[field.name]
        )
        for field in dataclasses.fields(OutputOptions)
    ]

    @functools.wraps(verb)
    def with_options(**given: Any) -> Any:
        chosen = {option.name: given.pop(option.name) for option in options}
        return verb(**given, outputs=OutputOptions(**chosen))

    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *options]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def open_outputs(info: StreamInfo, options: OutputOptions, *, live: bool) -> list[Observer]:
    """Open what `options` ask for, standard output first.

    Args:
        live: the input cannot wait. Otherwise lines and clips make the stream wait rather than lose any.
    Raises:
        ConfigError: an output cannot be opened; those opened before it are closed again.
        UnsupportedError: an output needs a package that is not installed.
    """
    from edgeaudio.outputs.base import Guarded

    opened: list[Output] = []
    try:
        for opener in (_lines, _events_file, _clips, _live_page):
            output = opener(info, options, live)
            if output is not None:
                opened.append(output)
    except BaseException:
        for output in opened:
            output.close()
        raise
    return [Guarded(output) for output in opened]


def _lines(info: StreamInfo, options: OutputOptions, live: bool) -> Output:
    from edgeaudio.outputs.lines import StreamLines

    return StreamLines(sys.stdout, lossless=not live)


def _events_file(info: StreamInfo, options: OutputOptions, live: bool) -> Output | None:
    if options.events is None:
        return None
    from edgeaudio.outputs.lines import FileLines

    max_bytes = round(options.events_max_mb * _MB)
    return FileLines(options.events, max_bytes=max_bytes, keep=options.events_keep, lossless=not live)


def _clips(info: StreamInfo, options: OutputOptions, live: bool) -> Output | None:
    if options.save_clips is None:
        return None
    from edgeaudio.outputs.clips import ClipOptions, ClipSaver

    clip_options = ClipOptions(
        pre_roll_s=options.clips_pre_roll_s,
        post_roll_s=options.clips_post_roll_s,
        max_s=options.clips_max_s,
        max_bytes=round(options.clips_max_mb * _MB),
        format=options.clips_format,
    )
    return ClipSaver(options.save_clips, info, clip_options, lossless=not live)


def _live_page(info: StreamInfo, options: OutputOptions, live: bool) -> Output | None:
    if not (options.ui or options.ui_listen):
        if options.ui_name:
            raise ConfigError("--ui-name is for the live page; add --ui")
        return None
    from edgeaudio.outputs.live import Address, LivePage

    host, port = ("127.0.0.1", 8765) if options.ui_listen is None else _host_and_port(options.ui_listen)
    return LivePage(info, Address(host, port, tuple(options.ui_name or ())))


def _host_and_port(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT`."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.netloc != text or "@" in text:
        raise ConfigError(f"--ui-listen is {text!r}, wanted HOST:PORT, such as 127.0.0.1:8765 or [::1]:8765")
    return host, port
