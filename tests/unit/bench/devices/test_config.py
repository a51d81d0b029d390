"""devices.yaml and the words of --device: what is known, and what is refused with a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.devices.config import DEFAULT_FOLDER, DevicesFile, LocalSpec, SshSpec, find_devices_file, spec_of
from edgeaudio.bench.devices.ssh import open_ssh
from edgeaudio.errors import ConfigError
from edgeaudio.pipeline.config import load_config

GOOD = """
devices:
  pi5: {kind: ssh, host: pi@pi5.local, python: ~/edgeaudio/bin/python, notes: active cooler}
  jetson:
    kind: ssh
    host: orin          # a Host of ~/.ssh/config
    port: 2222
    folder: /var/tmp/edgeaudio runs
    deadline_s: 900
  py313: {kind: local, python: python3.13}
"""


def load(tmp_path: Path, text: str) -> DevicesFile:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    return load_config(path, DevicesFile)


def test_a_file_names_devices_of_several_kinds(tmp_path: Path) -> None:
    devices = load(tmp_path, GOOD).devices
    assert list(devices) == ["pi5", "jetson", "py313"]
    assert isinstance(devices["pi5"], SshSpec)
    assert devices["pi5"].folder == DEFAULT_FOLDER
    assert isinstance(devices["py313"], LocalSpec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices:\n  pi5: {kind: shh, host: pi5}", "devices.pi5.kind is 'shh'. Did you mean 'ssh'?"),
        ("devices:\n  pi5: {host: pi5}", "devices.pi5.kind is missing"),
        ("devices:\n  pi5: {kind: ssh}", "devices.pi5.host is missing"),
        ("devices:\n  pi5: {kind: ssh, hots: pi5, host: pi5}", "devices.pi5.hots is not a field. Did you mean 'host'?"),
        ("device:\n  pi5: {kind: ssh, host: pi5}", "device is not a field. Did you mean 'devices'?"),
        ("devices:\n  pi5: {kind: ssh, host: pi5, port: 99999}", "devices.pi5.port is 99999"),
        ("devices:\n  local: {kind: ssh, host: pi5}", "'local' is the name of a kind"),
        ("devices:\n  'pi 5': {kind: ssh, host: pi5}", "'pi 5' must be 1 to 64"),
        ("devices:\n  pi5: {kind: ssh, host: pi5, folder: runs}", "must begin with '/' or '~/'"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_nearest_word(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert "devices.yaml:" in str(caught.value)


HOSTILE = [
    "; rm -rf /",
    "-oProxyCommand=touch pwned",
    "a\nb",
    "x" * 4096,
    "a b",
    "$(id)",
    "a@b@c",
    "\udce4",
    "",
    "@b",
    "a@-b",
]


@pytest.mark.parametrize("host", HOSTILE, ids=ascii)
def test_a_host_that_could_be_an_option_or_a_command_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="host"):
        SshSpec.parse({"host": host}, source="devices.yaml")
    with pytest.raises(ConfigError):
        spec_of(host, {})


@pytest.mark.parametrize("host", ["pi5", "pi@pi5.local", "10.0.0.7", "root@fe80::1%eth0", "a_b-c", "::1"])
def test_hosts_as_ssh_knows_them_are_taken(host: str) -> None:
    assert SshSpec.parse({"host": host}, source="devices.yaml").host == host


@pytest.mark.parametrize("field", ["python", "folder", "ssh_config"])
@pytest.mark.parametrize("text", ["-c", "a\nb", "/x\0y", "/" + "x" * 4096, "\udce4", "", "/a\x1b[2J"], ids=ascii)
def test_paths_that_are_no_single_line_are_refused(field: str, text: str) -> None:
    with pytest.raises(ConfigError, match=field):
        SshSpec.parse({"host": "pi5", field: text}, source="devices.yaml")


@pytest.mark.parametrize("name", ["-x", "..", "a/b", "a b", "x" * 65, "a\nb", "; rm -rf", "ssh", "fake"], ids=ascii)
def test_names_are_fit_for_files_and_options(name: str) -> None:
    with pytest.raises(ConfigError):
        DevicesFile.parse({"devices": {name: {"kind": "local"}}}, source="devices.yaml")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pi", "Did you mean 'pi5'?"),
        ("loacl", "Did you mean 'local'?"),
        ("zzz", "user@host"),
        ("ssh", "is a kind of device"),
    ],
)
def test_an_unknown_word_is_told_with_what_is_near(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--device") as caught:
        spec_of(word, {"pi5": SshSpec(host="pi5")})
    assert said in str(caught.value)


def test_words_that_need_no_file() -> None:
    assert spec_of("local", {}) == LocalSpec()
    assert spec_of("pi@pi5.local", {}) == SshSpec(host="pi@pi5.local")


def test_the_file_is_here_or_in_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "config" / "edgeaudio"
    here.mkdir()
    there.mkdir(parents=True)
    monkeypatch.chdir(here)
    environment: dict[str, Any] = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert find_devices_file(environment) is None
    (there / "devices.yaml").touch()
    assert find_devices_file(environment) == there / "devices.yaml"
    (here / "devices.yaml").touch()
    assert find_devices_file(environment) == Path("devices.yaml")


def test_one_board_is_one_place_however_it_is_written() -> None:
    one = [
        SshSpec(host="pi5.local"),
        SshSpec(host="PI5.local"),
        SshSpec(host="pi@pi5.local", port=22),
        SshSpec(host="root@Pi5.Local."),
    ]
    assert len({open_ssh("x", spec).place for spec in one}) == 1
    assert open_ssh("x", SshSpec(host="pi5.local", port=2222)).place != open_ssh("x", one[0]).place
    assert open_ssh("x", SshSpec(host="pi4.local")).place != open_ssh("x", one[0]).place
