"""From a new key to a device that runs nothing unsigned, by the command line alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import typer

from edgeaudio.cli import signing
from edgeaudio.cli.main import app, main
from edgeaudio.cli.trust import trust_folder
from tests import tiny_bundle as tiny
from tests import tiny_exits


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, a home of its own, and none of the user's variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("EDGEAUDIO_TRUST", "EDGEAUDIO_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    Path("x.eab").write_bytes(tiny.tiny_bytes())
    (tmp_path / "sounds" / "low").mkdir(parents=True)
    sf.write("sounds/low/0.wav", tiny.noise_band("low", 8_000), 16_000)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def error(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    capsys.readouterr()
    assert main([*arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def run(*arguments: str) -> None:
    assert main([*arguments]) == 0


def sign() -> None:
    run("bundle", "keygen", "release.key")
    run("bundle", "sign", "x.eab", "--key", "release.key")


RUNNING = {
    "eval": ("eval", "x.eab", "sounds"),
    "stream": ("stream", "x.eab", "--input", "sounds/low/0.wav"),
    "bench": ("bench", "x.eab", "--artefact", "onnx-fp32", "--min-hops", "20", "--min-seconds", "0"),
    "exits": ("exits", "x.eab", "sounds"),
    "bundle check": ("bundle", "check", "x.eab"),
    "bundle build": ("bundle", "build", "x.eab"),
}
# Runs a bundle on a board and on an emulated processor, neither of which is here.
ELSEWHERE = {"bench calibrate"}


def test_a_key_signs_a_bundle_and_a_device_that_trusts_it_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    made = result(capsys, "bundle", "keygen", "release.key")
    assert made == {
        "private_key": "release.key",
        "encrypted": False,
        "public_key": "release.pub",
        "key_id": made["key_id"],
    }
    signed = result(capsys, "bundle", "sign", "x.eab", "--key", "release.key")
    assert signed["key_id"] == made["key_id"]
    assert "holds no trusted key" in error(capsys, "bundle", "verify", "x.eab", code=2)
    added = result(capsys, "bundle", "trust", "add", "release.pub")
    assert added == {"name": "release", "key_id": made["key_id"], "trust": str(trust_folder(None))}
    verified = result(capsys, "bundle", "verify", "x.eab")
    assert verified == {
        "bundle": "x.eab",
        "sha256": signed["sha256"],
        "signed_by": "release",
        "key_id": made["key_id"],
        "trust": str(trust_folder(None)),
    }
    assert result(capsys, "bundle", "show", "x.eab")["signature"] == {"key_id": made["key_id"]}


def test_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    sign()
    run("bundle", "trust", "add", "release.pub", "--name", "kitchen")
    run("bundle", "verify", "x.eab")
    run("bundle", "trust", "list")
    page = capsys.readouterr().out
    assert "signed_by  kitchen" in page
    assert page.count(result(capsys, "bundle", "trust", "list")[0]["key_id"]) == 5


def test_every_verb_that_runs_a_bundle_can_require_a_signature() -> None:
    found = set()

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))
        names = {parameter.name for parameter in command.params}
        if any(parameter.name == "bundle" for parameter in command.params if parameter.param_type_name == "argument"):
            found.add(" ".join(path))
            assert ({"require_signature", "trust"} <= names) == (" ".join(path) in {*RUNNING, *ELSEWHERE}), path

    walk(typer.main.get_command(app), ())
    assert found == {*RUNNING, *ELSEWHERE, "bundle show", "bundle sign", "bundle verify"}


@pytest.mark.parametrize("verb", RUNNING)
def test_an_unsigned_bundle_does_not_run_where_a_signature_is_required(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("bundle", "keygen", "release.key")
    run("bundle", "trust", "add", "release.pub")
    message = error(capsys, *RUNNING[verb], "--require-signature", code=3)
    assert "x.eab: signature.ed25519: missing" in message


@pytest.mark.parametrize("verb", RUNNING)
@pytest.mark.usefixtures("fake_tensorrt")
def test_a_signed_bundle_runs_where_a_signature_is_required(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb == "exits":
        Path("x.eab").write_bytes(tiny_exits.exits_bytes())
    if verb == "bundle build":
        Path("x.eab").write_bytes(tiny.tiny_bytes("tensorrt-int8"))
    sign()
    run("bundle", "trust", "add", "release.pub")
    # 4: a benchmark on a busy machine runs, but its figures do not count.
    assert main([*RUNNING[verb], "--require-signature"]) in (0, 4), capsys.readouterr().err


def test_a_trust_folder_on_the_command_line_requires_a_signature(capsys: pytest.CaptureFixture[str]) -> None:
    run("bundle", "keygen", "release.key")
    run("bundle", "trust", "add", "release.pub", "--trust", "keys")
    assert "missing" in error(capsys, "bundle", "check", "x.eab", "--trust", "keys", code=3)
    run("bundle", "sign", "x.eab", "--key", "release.key")
    run("bundle", "check", "x.eab", "--trust", "keys")
    # The default store is another, and empty.
    assert "holds no trusted key" in error(capsys, "bundle", "check", "x.eab", "--require-signature", code=2)


def test_the_variable_names_a_folder_but_requires_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEAUDIO_TRUST", "keys")
    run("bundle", "check", "x.eab")
    sign()
    run("bundle", "trust", "add", "release.pub")
    assert Path("keys/release.pub").is_file()
    run("bundle", "check", "x.eab", "--require-signature")
    assert result(capsys, "bundle", "verify", "x.eab")["trust"] == "keys"


def test_the_default_folder_is_that_of_the_user() -> None:
    home = Path.home()
    assert trust_folder(None, {}) == home / ".config/edgeaudio/trust"
    assert trust_folder(None, {"XDG_CONFIG_HOME": "relative"}) == home / ".config/edgeaudio/trust"
    assert trust_folder(None, {"XDG_CONFIG_HOME": "/c"}) == Path("/c/edgeaudio/trust")
    assert trust_folder(None, {"XDG_CONFIG_HOME": "/c", "EDGEAUDIO_TRUST": "t"}) == Path("t")
    assert trust_folder(Path("given"), {"EDGEAUDIO_TRUST": "t"}) == Path("given")


def test_a_changed_bundle_and_a_removed_key_are_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    sign()
    for name in ("release", "other"):
        if name == "other":
            run("bundle", "keygen", "other.key")
        run("bundle", "trust", "add", f"{name}.pub")
    whole = Path("x.eab").read_bytes()
    damaged = bytearray(whole)
    damaged[60] ^= 1
    Path("x.eab").write_bytes(damaged)
    assert "x.eab" in error(capsys, "bundle", "verify", "x.eab", code=3)
    Path("x.eab").write_bytes(whole)
    run("bundle", "trust", "remove", "release")
    assert "the key is" in error(capsys, "bundle", "verify", "x.eab", code=3)
    assert "Did you mean 'other'?" in error(capsys, "bundle", "trust", "remove", "othr", code=2)


def test_a_missing_bundle_or_key_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "release.key: cannot be read" in error(capsys, "bundle", "sign", "x.eab", "--key", "release.key", code=2)
    run("bundle", "keygen", "release.key")
    assert "is there already" in error(capsys, "bundle", "keygen", "release.key", code=2)
    assert "y.eab: no such file" in error(capsys, "bundle", "sign", "y.eab", "--key", "release.key", code=2)
    assert "--key" in error(capsys, "bundle", "sign", "x.eab", code=2)


def test_without_the_package_the_exit_code_is_6(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "pip install" in error(capsys, "bundle", "keygen", "release.key", code=6)


def test_a_passphrase_from_the_environment_encrypts_and_opens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEAUDIO_KEY_PASSPHRASE", "sesame")
    assert result(capsys, "bundle", "keygen", "release.key")["encrypted"] is True
    run("bundle", "sign", "x.eab", "--key", "release.key")
    monkeypatch.setenv("EDGEAUDIO_KEY_PASSPHRASE", "wrong")
    message = error(capsys, "bundle", "sign", "x.eab", "--key", "release.key", code=2)
    assert "release.key: the passphrase is wrong" in message
    assert "sesame" not in message


def test_a_passphrase_is_asked_for_at_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["one", "other", "sesame", "sesame", "sesame"]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(signing, "getpass", lambda prompt: answers.pop(0))
    message = error(capsys, "bundle", "keygen", "release.key", "--passphrase", code=2)
    assert "the two passphrases differ; nothing was written" in message
    assert not Path("release.key").exists()
    assert result(capsys, "bundle", "keygen", "release.key", "--passphrase")["encrypted"] is True
    run("bundle", "sign", "x.eab", "--key", "release.key")
    assert not answers


def test_without_a_terminal_the_message_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    message = error(capsys, "bundle", "keygen", "release.key", "--passphrase", code=2)
    assert "set EDGEAUDIO_KEY_PASSPHRASE" in message
    monkeypatch.setenv("EDGEAUDIO_KEY_PASSPHRASE", "sesame")
    run("bundle", "keygen", "release.key")
    monkeypatch.delenv("EDGEAUDIO_KEY_PASSPHRASE")
    message = error(capsys, "bundle", "sign", "x.eab", "--key", "release.key", code=2)
    assert "release.key: needs a passphrase" in message
