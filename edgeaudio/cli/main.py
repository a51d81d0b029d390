"""The `edgeaudio` command: global options, the verbs, and how every failure becomes an exit code.

Verbs live one file per group; each parses, calls one function and prints. Whatever is heavy is
imported inside the verb, so that help and completion answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from edgeaudio import __version__
from edgeaudio.cli import bench, bundle, cascade, data, devices, exits, info, inputs, recipe, score, stream, sweep
from edgeaudio.cli.options import examples
from edgeaudio.errors import EdgeAudioError

# Base of every usage error, in typer's own copy of click as in click itself.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]

INTERRUPTED = 130

app = typer.Typer(
    name="edgeaudio",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class LogLevel(StrEnum):
    """What reaches stderr."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "edgeaudio demo                          everything, on a built-in dataset",
        "edgeaudio run recipes/esc10.yaml        from sounds to a verified bundle",
        "edgeaudio stream x.eab --input -        live tags, one JSON object per line",
    )
    + "\n\n\b\nExit codes: 0 ok, 1 unexpected, 2 usage or config, 3 verification failed,\n"
    "4 benchmark invalid, 5 device unreachable, 6 unsupported here, 7 audio device,\n130 interrupted.",
)
def _global_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="On an error, show the traceback too.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What to log on stderr.")] = LogLevel.info,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a large audio model into a tiny one and run it where the sound is."""
    context.obj = {"debug": debug}
    _log_to_stderr(log_level)
    if context.invoked_subcommand is None:
        print(context.get_help())


for group in (recipe, sweep, data, score, exits, cascade, bundle, stream, inputs, bench, devices, info):
    group.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A service may have closed it; whoever asks it whether it is a terminal need not care.
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        code = _invoke(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader left (`| head`). Nothing is wrong, and the flush at exit must not say otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _invoke(given: list[str]) -> int:
    debug = "--debug" in given
    try:
        result = app(given, prog_name="edgeaudio", standalone_mode=False)
    except _ClickException as error:
        return _report_usage(error)
    except EdgeAudioError as error:
        return _report(str(error), error.exit_code, debug=debug)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:  # noqa: BLE001 (the last door: one line and an exit code for whatever came)
        hint = "" if debug else " (run 'edgeaudio --debug ...' for the traceback)"
        return _report(f"{type(error).__name__}: {error}{hint}", 1, debug=debug)
    if result == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _report(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    from edgeaudio.spec.text import printable  # Not for every --help: it is in a room that imports pydantic.

    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _report_usage(error: Exception) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "edgeaudio"
    message = message.replace("Value error, ", "").rstrip(".")
    end = "" if message.endswith("?") else "."
    return _report(f"{message}{end} See '{path} --help'.", 2, debug=False)


def _log_to_stderr(level: LogLevel) -> None:
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S", force=True,
    )  # fmt: skip
    # Ours at the wished level; the libraries below only when something is wrong.
    for name in ("edgeaudio", "edgeaudio_export"):
        logging.getLogger(name).setLevel(level.upper())


if __name__ == "__main__":
    sys.exit(main())
