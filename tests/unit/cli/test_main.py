"""The shell around the verbs: exit codes, one-line errors, help that teaches and costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from edgeaudio import __version__, catalog
from edgeaudio.cli import info
from edgeaudio.cli.main import app, main
from edgeaudio.cli.verb_group import VerbGroup
from edgeaudio.errors import (
    AudioDeviceError,
    BenchInvalidError,
    ConfigError,
    EdgeAudioError,
    ParityError,
    UnsupportedError,
)

HEAVY = ("torch", "lightning", "onnx", "onnxruntime", "ai_edge_litert", "litert_torch", "transformers")
HEAVY += ("scipy", "matplotlib", "numpy", "rich", "cryptography", "edgeaudio.pipeline", "edgeaudio.teachers")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The command tree, groups included."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


TREE = dict(commands(typer.main.get_command(app)))
VERBS = [path for path, command in TREE.items() if not hasattr(command, "commands") or isinstance(command, VerbGroup)]


def test_every_documented_verb_exists() -> None:
    documented = "demo, run, label, distill, quantize, export, verify, report, tag, eval, stream, bench, list, doctor"
    documented += (
        ", bench compare, bench report, bench history, bench calibrate, prune, sweep, exits, cascade, audio devices"
    )
    documented += ", data inspect, data synth, bundle show, bundle check, bundle build"
    documented += (
        ", bundle keygen, bundle sign, bundle verify, bundle trust add, bundle trust list, bundle trust remove"
        ", devices list, devices probe, devices doctor, devices setup"
    )
    assert {" ".join(path) for path in VERBS} == set(documented.split(", "))


@pytest.mark.parametrize("path", TREE, ids=lambda path: " ".join(path) or "(top)")
def test_every_help_page_teaches_within_80_columns(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*path, "--help"]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith("Usage: " + " ".join(("edgeaudio", *path)))
    if path in VERBS:
        example = "edgeaudio " + " ".join(path)
        assert example in page.partition("Examples:")[2]
    for parameter in TREE[path].params:
        assert getattr(parameter, "help", ""), f"{path} {parameter.name} has no help"


def test_no_summary_in_the_list_of_verbs_is_cut_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["--help"])
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2].partition("Examples:")[0]


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from edgeaudio.cli.main import main
for path in {[*TREE]!r}:
    assert main([*path, "--help"]) == 0
main(["list"])
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EdgeAudioError("x"), 1),
        (ConfigError("x"), 2),
        (ParityError("x"), 3),
        (BenchInvalidError("x"), 4),
        (UnsupportedError("x"), 6),
        (AudioDeviceError("x"), 7),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_every_failure_is_one_line_on_stderr_and_its_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(info, "print_table", fail)
    assert main(["list"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("interrupted" if code == 130 else "error: ")
    assert ("--debug" in captured.err) == (type(error) in (RuntimeError, OSError))


def test_a_message_of_many_lines_becomes_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("one\n  two\nthree")

    monkeypatch.setattr(info, "print_table", fail)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "error: one two three\n"


def test_a_message_about_a_hostile_name_moves_no_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("pi\x1b[2J\u202e: no such device")

    monkeypatch.setattr(info, "print_table", fail)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "error: pi\\x1b[2J\\x202e: no such device\n"


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(info, "print_table", fail)
    assert main(["--debug", "list"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.endswith("error: RuntimeError: boom\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "error: No such command 'lst'. Did you mean 'list'? See 'edgeaudio --help'."),
        (["bundle", "shwo"], "error: No such command 'shwo'. Did you mean 'show'? See 'edgeaudio bundle --help'."),
        (["bundle"], "error: Missing command. See 'edgeaudio bundle --help'."),
        (
            ["bench", "comapre", "a.json", "b.json"],
            "error: bench: 'comapre' is neither a file nor a command. Did you mean",
        ),
        (["bench"], "error: Missing argument 'BUNDLE'. See 'edgeaudio bench --help'."),
        (["bench", "x.eab", "--thread", "2"], "error: No such option: --thread"),
        (["bench", "compare", "a.json"], "error: Missing argument 'AFTER'. See 'edgeaudio bench compare --help'."),
        (["list", "--jsn"], "error: No such option: --jsn"),
        (["list", "studnets"], "error: nothing to list under 'studnets'. Did you mean 'students'?"),
        (["stream", "x.eab"], "error: Missing option '--input'. See 'edgeaudio stream --help'."),
        (["--log-level", "loud", "list"], "error: Invalid value for '--log-level': 'loud' is not one of"),
        (["bundle", "show", "absent.eab"], "error: absent.eab"),
        (["data", "inspect", "absent", "--kind", "foldr"], "error: dataset kind 'foldr' is not known. Did you mean"),
    ],
)
def test_wrong_usage_names_the_mend(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert len(captured.err.splitlines()) == 1


def test_list_gives_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == catalog.TABLES
    assert main(["list", "engines"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["engines", *next(iter(catalog.ENGINES.items()))]


def test_a_reader_that_leaves_makes_no_noise() -> None:
    code = "from edgeaudio.cli.main import main; import sys; sys.exit(main(['list']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_logs_go_to_stderr_at_the_wished_level(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import logging; from edgeaudio.cli.main import main; main(['--log-level', 'LEVEL', 'list', 'devices']);"
        "logging.getLogger('edgeaudio.x').info('ours'); logging.getLogger('other').info('theirs')"
    )
    for level, wanted in (("info", True), ("warning", False)):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("LEVEL", level)], capture_output=True, text=True, check=True
        )
        assert ("edgeaudio.x: ours" in done.stderr) == wanted
        assert "theirs" not in done.stderr
        assert "ours" not in done.stdout
