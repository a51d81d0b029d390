"""`devices`: what a benchmark can run on, what these boards are and lack; and the way from `bench` to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import print_fields, print_json, print_table
from edgeaudio.errors import EdgeAudioError, UnsupportedError

if TYPE_CHECKING:
    from edgeaudio.bench.base import BenchJob
    from edgeaudio.bench.devices.config import DeviceSpec
    from edgeaudio.bench.devices.emulated import EmulatedDevice
    from edgeaudio.bench.devices.many import OnResult, Outcome
    from edgeaudio.bench.devices.preflight import Description, Finding
    from edgeaudio.bench.devices.remote import RemoteDevice

DevicesFileOption = Annotated[
    Path | None,
    typer.Option(
        "--devices", metavar="FILE", help="Names of devices. Default: ./devices.yaml, ~/.config/edgeaudio/devices.yaml."
    ),
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all of the file.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    devices = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
    devices.command("list", epilog=examples("edgeaudio devices list", "edgeaudio devices list --json"))(list_devices)
    devices.command("probe", epilog=examples("edgeaudio devices probe pi5", "edgeaudio devices probe pi@pi5.local"))(
        probe
    )
    devices.command("doctor", epilog=examples("edgeaudio devices doctor", "edgeaudio devices doctor pi5 --json"))(
        doctor
    )
    devices.command(
        "setup", epilog=examples("edgeaudio devices setup a72", "edgeaudio devices setup emulated:cortex-a76")
    )(setup)
    app.add_typer(devices, name="devices", help="Boards to benchmark on: which, what they are, what they lack.")


def list_devices(file: DevicesFileOption = None, as_json: Json = False) -> None:
    """List the devices by name. Nothing is connected."""
    devices = read_devices(file)
    if as_json:
        print_json(devices)
        return
    rows = [("local", "local", "this machine", "-", "")]
    for name, spec in devices.items():
        where = str(getattr(spec, "host", None) or getattr(spec, "cpu", "-"))
        rows.append((name, spec.kind, where, str(getattr(spec, "python", "-")), spec.notes))
    print_table(("NAME", "KIND", "HOST OR CPU", "PYTHON", "NOTES"), rows)


def probe(names: Names = None, file: DevicesFileOption = None, as_json: Json = False) -> None:
    """Show what each device is and in which state. Sends the runtime there, and removes it again."""
    boards: dict[str, Any] = {}
    failures: list[EdgeAudioError] = []
    for name, device in _lookable(names, file).items():
        try:
            boards[name] = device.probe()["board"]
        except EdgeAudioError as error:
            failures.append(error)
    if as_json:
        print_json(boards)
    else:
        for name, board in boards.items():
            print(f"{name}:")
            print_fields(board, indent=2)
    _raise_all(failures, len(boards) + len(failures))


def doctor(names: Names = None, file: DevicesFileOption = None, as_json: Json = False) -> None:
    """Show what each device lacks, and what installs it.

    Exit code 5 when a device cannot be reached, 6 when one lacks something.
    """
    looked: dict[str, tuple[Description, list[Finding]]] = {}
    failures: list[EdgeAudioError] = []
    devices = _lookable(names, file)
    for name, device in devices.items():
        try:
            looked[name] = device.look()
        except EdgeAudioError as error:
            failures.append(error)
    if as_json:
        print_json({name: [item._asdict() for item in findings] for name, (_, findings) in looked.items()})
    else:
        for name, (description, findings) in looked.items():
            _print_findings(name, description, findings)
    lacking = [name for name, (_, findings) in looked.items() if any(item.grade == "missing" for item in findings)]
    failures += [UnsupportedError(f"{name} lacks what is marked 'missing'") for name in lacking]
    _raise_all(failures, len(devices))


def setup(names: Names = None, file: DevicesFileOption = None) -> None:
    """Install an emulated processor: QEMU, Python, wheels.

    Needs the network and 300 MB; on Debian or Ubuntu. QEMU itself is installed only by root.
    """
    from edgeaudio.bench.devices.emulated import EmulatedDevice
    from edgeaudio.bench.devices.many import open_devices
    from edgeaudio.errors import ConfigError

    specs = read_devices(file)
    words = names or [name for name, spec in specs.items() if spec.kind == "emulated"]
    if not words:
        raise ConfigError(
            "no emulated device is named in devices.yaml. Try: edgeaudio devices setup emulated:cortex-a72"
        )
    for device in open_devices(words, specs):
        if not isinstance(device, EmulatedDevice):
            raise ConfigError(
                f"{device.name} is not emulated; 'edgeaudio devices doctor {device.name}' says what it lacks"
            )
        device.set_up(functools.partial(_say_of, device.name))


def _say_of(device: str, line: str) -> None:
    print(f"{device}: {line}", flush=True)


def read_devices(path: Path | None) -> Mapping[str, DeviceSpec]:
    """The devices of `path`, else of the first file that is where such files are; none where there is no file.

    Raises:
        ConfigError: the file is not there or wrong; names the file, the line and the field.
    """
    from edgeaudio.bench.devices.config import DevicesFile, find_devices_file

    path = path or find_devices_file()
    if path is None:
        return {}
    from edgeaudio.pipeline.config import load_config

    return load_config(path, DevicesFile).devices


def bench_on(
    words: Sequence[str],
    file: Path | None,
    job: BenchJob,
    *,
    keep_in: Path | None,
    on_result: OnResult | None = None,
) -> list[Outcome]:
    """Run `job` on the devices that `words` name, with a line of progress for each; see `bench_devices`.

    Args:
        keep_in: for what is left of runs that broke off; None is `incomplete` in the cache folder.
    """
    from edgeaudio.bench.devices.many import bench_devices, open_devices
    from edgeaudio.cli.device_progress import device_progress
    from edgeaudio.spec.fs import cache_folder

    # A file that is wrong does not keep anyone from using what needs none.
    needs_file = file is not None or any(word != "local" for word in words)
    devices = open_devices(words, read_devices(file) if needs_file else {})
    with device_progress(words) as show:
        keep_in = keep_in or cache_folder("incomplete")
        return bench_devices(devices, job, keep_in=keep_in, on_progress=show, on_result=on_result)


def raise_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise for the devices that failed; the others' results have been shown before."""
    failures: list[EdgeAudioError] = []
    for outcome in outcomes:
        if outcome.error is not None:
            kept = f"; kept: {', '.join(map(str, outcome.kept))}" if outcome.kept else ""
            failure = EdgeAudioError(f"{outcome.error}{kept}")
            failure.exit_code = outcome.error.exit_code
            failures.append(failure)
    _raise_all(failures, len(outcomes))


def _raise_all(failures: Sequence[EdgeAudioError], n_devices: int) -> None:
    """One error for all of them, with the exit code of the first."""
    if not failures:
        return
    said = " | ".join(map(str, failures))
    error = EdgeAudioError(said if n_devices == 1 else f"{len(failures)} of {n_devices} devices: {said}")
    error.exit_code = failures[0].exit_code
    raise error


def _lookable(names: list[str] | None, file: Path | None) -> dict[str, RemoteDevice | EmulatedDevice]:
    """The named devices; `local` is looked at like the others, from outside."""
    from edgeaudio.bench.devices.emulated import EmulatedDevice
    from edgeaudio.bench.devices.local import this_machine
    from edgeaudio.bench.devices.many import open_devices
    from edgeaudio.bench.devices.remote import RemoteDevice

    devices = read_devices(file)
    words = names or ["local", *devices]
    opened = {device.name: device for device in open_devices(words, devices)}
    return {
        name: device if isinstance(device, RemoteDevice | EmulatedDevice) else this_machine()
        for name, device in opened.items()
    }


def _print_findings(name: str, description: Description, findings: Sequence[Finding]) -> None:
    from edgeaudio.spec.text import printable  # All of it is what the device says.

    board = f"{description.model or description.architecture}, {description.os}, {description.cores} cores"
    print(f"{name}: {printable(board)}")
    rows = [(item.subject, item.grade, item.found, item.wanted) for item in findings]
    print_table(("FOR", "STATE", "FOUND", "WANTED"), rows)
    for item in findings:
        if item.mend is not None:
            print(f"\n{printable(item.subject)}:\n  {printable(item.mend)}")
    print()
