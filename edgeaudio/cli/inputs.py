"""The options of `stream` that say what to listen to, and `audio devices`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, ClassVar, Literal, cast

import typer

from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import print_json, print_table
from edgeaudio.errors import ConfigError, closest_match_hint

if TYPE_CHECKING:
    from edgeaudio.audio.source import AudioSource

Input = Annotated[
    str,
    typer.Option(
        "--input",
        metavar="WHAT",
        help="mic, mic:DEVICE, an audio FILE, replay:FILE, a FOLDER to watch, or - for raw PCM on stdin.",
    ),
]

_PACES = ("max", "realtime")


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    group = typer.Typer(help="See what this machine can listen to.", rich_markup_mode=None)
    group.command("devices", epilog=examples("edgeaudio audio devices", "edgeaudio audio devices --json"))(devices)
    app.add_typer(group, name="audio")


def devices(as_json: Json = False) -> None:
    """List the audio inputs of this machine, for --input mic:DEVICE.

    DEVICE is the number or a part of the name.
    """
    from edgeaudio.audio.microphone import list_input_devices

    found = list_input_devices()
    if as_json:
        print_json(found)
        return
    rows = [
        (device.index, device.name, device.host_api, device.channels, device.sample_rate, device.default)
        for device in found
    ]
    print_table(("NUMBER", "NAME", "THROUGH", "CHANNELS", "HZ", "DEFAULT"), rows)
    if not found:
        print("no audio input was found", file=sys.stderr)


@dataclass(frozen=True)
class InputOptions:
    """What was given beside `--input` (see `groups`); None where it was not."""

    HEADINGS: ClassVar = {"sample_rate": "Input"}

    sample_rate: Annotated[
        int | None,
        typer.Option(metavar="HZ", help="Of raw PCM (default: the bundle's) or a microphone (default: its own)."),
    ] = None
    sample_format: Annotated[
        str | None, typer.Option("--format", help="Of raw PCM (default: s16le) or a microphone (default: f32le).")
    ] = None
    channels: Annotated[
        int | None,
        typer.Option(
            min=1, max=8, help="Of raw PCM, interleaved (default: 1), or to open of a microphone (default: 2)."
        ),
    ] = None
    channel: Annotated[
        int | None,
        typer.Option(min=1, max=8, metavar="N", help="Listen to this one, from 1. Default: the mean of all."),
    ] = None
    chunk_samples: Annotated[
        int, typer.Option(min=1, help="Samples read at once of a file or PCM; changes the delay, never the events.")
    ] = 1600
    pace: Annotated[str, typer.Option(metavar="PACE", help="Of a file: max, or realtime as from a microphone.")] = "max"
    inject: Annotated[
        str | None,
        typer.Option(
            metavar="FAULTS",
            help="Of a file: drops=P,dups=P,jitter_ms=N,rate_ppm=N,clip=GAIN,nan=P,dc=N,silence=S@T,unplug=S@T,seed=N.",
        ),
    ] = None
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of a folder: which files were heard. Default: a hidden file in it."),
    ] = None


def source_of(text: str, given: InputOptions, bundle_rate: int) -> tuple[AudioSource, int | None]:
    """The source that `--input` names, not opened yet, and the channel that the stream is to take of it.

    Raises:
        ConfigError: an option that does not belong to it, or a value that is none.
    """
    kind, argument = _kind(text)
    _refuse_strangers(kind, text, given)
    if kind == "microphone":
        from edgeaudio.audio.microphone import Microphone

        device = int(argument) if argument.isdecimal() else argument or None
        channels = given.channels or (max(2, given.channel) if given.channel else None)
        microphone = Microphone(
            device, sample_rate=given.sample_rate, channels=channels, sample_format=_format(given, "f32le")
        )
        return microphone, given.channel
    if kind == "raw PCM":
        return _stdin(given, bundle_rate), given.channel
    if kind == "folder":
        from edgeaudio.audio.watch import WatchedFolder

        # Files differ in their channels, so the folder takes the channel itself.
        return WatchedFolder(argument, sample_rate=bundle_rate, channel=given.channel, journal=given.journal), None
    if kind == "replay" or given.pace == "realtime" or given.inject is not None:
        from edgeaudio.audio.faults import Faults
        from edgeaudio.audio.replay import Replay

        faults = Faults.parse(given.inject or "")
        return Replay(argument, faults, realtime=kind == "replay" or given.pace == "realtime"), given.channel
    from edgeaudio.audio.files import FileSource

    return FileSource(argument, chunk_samples=given.chunk_samples), given.channel


def _kind(text: str) -> tuple[str, str]:
    if text == "-":
        return "raw PCM", ""
    name, _, argument = text.partition(":")
    if name == "mic":
        return "microphone", argument
    if name == "replay":
        return "replay", argument
    return ("folder" if Path(text).is_dir() else "file"), text


#: Which options belong to what.
_BELONGS = {
    "sample_rate": ("raw PCM", "microphone"),
    "sample_format": ("raw PCM", "microphone"),
    "channels": ("raw PCM", "microphone"),
    "inject": ("file", "replay"),
    "journal": ("folder",),
}


def _refuse_strangers(kind: str, text: str, given: InputOptions) -> None:
    if given.pace not in _PACES:
        raise ConfigError(f"--pace {given.pace!r}. {closest_match_hint(given.pace, _PACES)}")
    if given.pace != "max" and kind not in ("file", "replay"):
        raise ConfigError(f"--pace is for files, not for a {kind}")
    for name, kinds in _BELONGS.items():
        if getattr(given, name) is not None and kind not in kinds:
            option = "--format" if name == "sample_format" else "--" + name.replace("_", "-")
            what = f"the file {text!r} knows its own" if kind in ("file", "replay") else f"not for a {kind}"
            raise ConfigError(f"{option} is for {' or '.join(kinds)}; {what}")


def _stdin(given: InputOptions, bundle_rate: int) -> AudioSource:
    from edgeaudio.audio.pcm import PCMSource

    # Unbuffered where there is such a thing: Python cannot end while another thread holds a buffered stdin.
    stdin: BinaryIO = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return PCMSource(
        stdin,
        sample_rate=bundle_rate if given.sample_rate is None else given.sample_rate,
        sample_format=_format(given, "s16le"),
        channels=given.channels or 1,
        chunk_samples=given.chunk_samples,
        name="standard input",
    )


def _format(given: InputOptions, default: Literal["s16le", "f32le"]) -> Literal["s16le", "f32le"]:
    # The source checks it and names the nearest one.
    return default if given.sample_format is None else cast(Literal["s16le", "f32le"], given.sample_format)
