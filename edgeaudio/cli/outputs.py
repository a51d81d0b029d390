"""Where a live stream's events go besides standard output: the options, and what they open."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar
from urllib.parse import SplitResult, urlsplit

import typer

from edgeaudio.errors import ConfigError

if TYPE_CHECKING:
    from edgeaudio.outputs.base import Output
    from edgeaudio.outputs.info import StreamInfo
    from edgeaudio.runtime.observer import Observer

_MB = 1_000_000

#: Secrets come from these variables or from files: what is on the command line, everyone on the machine can read.
MQTT_PASSWORD, WEBHOOK_SECRET = "EDGEAUDIO_MQTT_PASSWORD", "EDGEAUDIO_WEBHOOK_SECRET"

_SECRET_BYTES = 4096

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
Mqtt = Annotated[
    str | None,
    typer.Option(
        "--mqtt",
        metavar="URL",
        help=f"Publish on this broker: mqtt://[USER@]HOST[:PORT], or mqtts:// for TLS. Password: ${MQTT_PASSWORD}.",
    ),
]
MqttPasswordFile = Annotated[
    Path | None, typer.Option("--mqtt-password-file", metavar="FILE", help="Password of the user, in a file.")
]
MqttNode = Annotated[
    str | None, typer.Option("--mqtt-node", metavar="NAME", help="Name of this device. Default: its host name.")
]
MqttPrefix = Annotated[str, typer.Option("--mqtt-prefix", metavar="TOPIC", help="Publish below TOPIC/NAME.")]
MqttDiscovery = Annotated[
    str, typer.Option("--mqtt-discovery", metavar="TOPIC", help="Home Assistant's discovery prefix; '' for none.")
]
MqttCa = Annotated[
    Path | None, typer.Option("--mqtt-ca", metavar="FILE", help="Authority of the broker's certificate (PEM).")
]
MqttCert = Annotated[
    Path | None, typer.Option("--mqtt-cert", metavar="FILE", help="Certificate of this device, where the broker asks.")
]
MqttKey = Annotated[Path | None, typer.Option("--mqtt-key", metavar="FILE", help="Key of --mqtt-cert.")]
Webhook = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        envvar="EDGEAUDIO_WEBHOOK",
        show_envvar=False,
        help="POST every event to this http or https URL. Where it is secret: $EDGEAUDIO_WEBHOOK.",
    ),
]
WebhookSecretFile = Annotated[
    Path | None,
    typer.Option(
        "--webhook-secret-file",
        metavar="FILE",
        help=f"Sign with the secret in this file (HMAC-SHA256). Or: ${WEBHOOK_SECRET}.",
    ),
]
WebhookCa = Annotated[
    Path | None, typer.Option("--webhook-ca", metavar="FILE", help="Authority of the server's certificate (PEM).")
]
WebhookTimeoutS = Annotated[
    float, typer.Option("--webhook-timeout-s", min=0.1, max=300, help="Longest wait for the server at once.")
]


@dataclass(frozen=True)
class OutputOptions:
    """The options of all outputs (see `groups`)."""

    HEADINGS: ClassVar = {
        "events": "Events in a file",
        "save_clips": "Clips",
        "mqtt": "MQTT",
        "webhook": "Webhook",
        "ui": "Live page",
    }

    events: Events = None
    events_max_mb: EventsMaxMb = 16.0
    events_keep: EventsKeep = 4
    save_clips: SaveClips = None
    clips_pre_roll_s: ClipsPreRollS = 2.0
    clips_post_roll_s: ClipsPostRollS = 1.0
    clips_max_s: ClipsMaxS = 30.0
    clips_max_mb: ClipsMaxMb = 1000.0
    clips_format: ClipsFormat = "flac"
    mqtt: Mqtt = None
    mqtt_password_file: MqttPasswordFile = None
    mqtt_node: MqttNode = None
    mqtt_prefix: MqttPrefix = "edgeaudio"
    mqtt_discovery: MqttDiscovery = "homeassistant"
    mqtt_ca: MqttCa = None
    mqtt_cert: MqttCert = None
    mqtt_key: MqttKey = None
    webhook: Webhook = None
    webhook_secret_file: WebhookSecretFile = None
    webhook_ca: WebhookCa = None
    webhook_timeout_s: WebhookTimeoutS = 5.0
    ui: Ui = False
    ui_listen: UiListen = None
    ui_name: UiName = None


def open_outputs(info: StreamInfo, options: OutputOptions, *, live: bool) -> list[Observer]:
    """Open what `options` ask for, standard output first.

    Args:
        live: the input cannot wait. Otherwise lines and clips make the stream wait rather than lose any.
    Raises:
        ConfigError: an output cannot be opened; those opened before it are closed again.
        UnsupportedError: an output needs a package that is not installed.
    """
    opened: list[Output] = []
    try:
        for opener in (_lines, _events_file, _clips, _mqtt, _webhook, _live_page):
            output = opener(info, options, live)
            if output is not None:
                opened.append(output)
    except BaseException:
        for output in opened:
            output.close()
        raise
    return list(opened)


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


def _mqtt(info: StreamInfo, options: OutputOptions, live: bool) -> Output | None:
    if options.mqtt is None:
        return None
    from edgeaudio.outputs.homeassistant import Topics
    from edgeaudio.outputs.mqtt import Broker, MqttPublisher

    url = split_url("--mqtt", options.mqtt, {"mqtt": 1883, "mqtts": 8883})
    if url.path or url.query:
        raise ConfigError(f"--mqtt {options.mqtt!r} names a path; topics are given by --mqtt-prefix")
    tls = url.scheme == "mqtts"
    if not tls and (options.mqtt_ca or options.mqtt_cert or options.mqtt_key):
        raise ConfigError("--mqtt-ca, --mqtt-cert and --mqtt-key are for TLS; give the broker as mqtts://HOST")
    password = read_secret(options.mqtt_password_file, MQTT_PASSWORD)
    if password is not None and url.username is None:
        raise ConfigError("--mqtt: there is a password and no user; give the broker as mqtt://USER@HOST")
    node = options.mqtt_node or re.sub("[^A-Za-z0-9_-]+", "-", socket.gethostname())[:64]
    assert url.hostname is not None
    broker = Broker(
        url.hostname, url.port or (8883 if tls else 1883), tls, url.username, password,
        options.mqtt_ca, options.mqtt_cert, options.mqtt_key,
    )  # fmt: skip
    return MqttPublisher(broker, info, Topics(options.mqtt_prefix, node, options.mqtt_discovery))


def _webhook(info: StreamInfo, options: OutputOptions, live: bool) -> Output | None:
    if options.webhook is None:
        return None
    from edgeaudio.outputs.webhook import Target, Webhook

    url = split_url("--webhook", options.webhook, ("http", "https"))
    if url.username is not None:
        raise ConfigError("--webhook: a user in the URL is not supported; sign with --webhook-secret-file")
    if not (url.path + url.query).isascii():
        raise ConfigError(f"--webhook: the path {url.path!r} is not ASCII; write it percent-encoded")
    if options.webhook_ca and url.scheme != "https":
        raise ConfigError("--webhook-ca is for https; give the URL as https://HOST")
    secret = read_secret(options.webhook_secret_file, WEBHOOK_SECRET)
    return Webhook(Target(options.webhook, secret, options.webhook_ca, options.webhook_timeout_s))


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


def split_url(option: str, text: str, schemes: Collection[str]) -> SplitResult:
    """`text` as a URL with one of `schemes` and a host; ConfigError for others, and for one with a password in it."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
        (host or "").encode("idna")
    except (ValueError, UnicodeError):
        host = None
    if not host or url.scheme not in schemes or not text.isprintable() or " " in text:
        wanted = " or ".join(f"{scheme}://HOST" for scheme in schemes)
        raise ConfigError(f"{option} is {redacted(text)!r}, wanted {wanted}")
    if url.password is not None:
        raise ConfigError(
            f"{option}: the URL holds a password, which everyone on this machine can read. "
            "Put it in a file or in the environment; see --help."
        )
    return url


def redacted(url: str) -> str:
    """`url` without what may be a password: messages end up in logs."""
    return re.sub(r"(://[^:@]*:).*@", r"\1...@", url)


def read_secret(path: Path | None, variable: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The first line of the file, else of the variable, else None.

    Raises:
        ConfigError: the file cannot be read, is empty, or can be read by everyone.
    """
    if path is None:
        return environment.get(variable) or None
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if mode & 0o007:
        raise ConfigError(f"{path}: mode is {stat.S_IMODE(mode):04o}, so everyone can use this secret: chmod o= {path}")
    secret = text.split("\n", 1)[0].rstrip("\r")
    if not secret:
        raise ConfigError(f"{path}: its first line is empty, wanted the secret")
    return secret
