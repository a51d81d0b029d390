"""`bench calibrate`: instructions per cycle of a board that is there, for estimates of those that are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.devices import DevicesFileOption, read_devices
from edgeaudio.cli.options import BundleFile, Json, examples
from edgeaudio.cli.output import print_json, print_table
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust

if TYPE_CHECKING:
    from edgeaudio.bench.emulation.ipc import Calibration


def register(bench: typer.Typer) -> None:
    """Add the verb of this file to the group `bench`."""
    bench.command("calibrate", epilog=examples("edgeaudio bench calibrate x.eab --device pi5 --emulated cortex-a76"))(
        calibrate
    )


def calibrate(
    bundle: BundleFile,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="The board: local, user@host, or a name of devices.yaml.")
    ],
    emulated: Annotated[str, typer.Option(metavar="CPU", help="The CPU it has, such as cortex-a76.")],
    artefact: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this artefact. Default: all.")
    ] = None,
    min_hops: Annotated[int, typer.Option(min=1, metavar="N", help="Hops to time, per artefact.")] = 600,
    min_seconds: Annotated[float, typer.Option(min=0, metavar="S", help="Seconds to time, per artefact.")] = 3.0,
    file: DevicesFileOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where it is kept. Default, and what estimates read: ~/.config/edgeaudio/ipc.json."
        ),
    ] = None,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Fit instructions per cycle: the same artefacts timed on a board and counted on its emulated CPU.

    Later estimates for that CPU rest on it in place of an assumption. Not run on hardware.
    """
    from edgeaudio.bench.base import BenchJob
    from edgeaudio.bench.calibrate import calibrate as run_calibration
    from edgeaudio.bench.devices.emulated import EmulatedDevice
    from edgeaudio.bench.devices.many import open_devices
    from edgeaudio.bench.emulation.ipc import calibration_path, keep_calibrations
    from edgeaudio.bench.schema import BenchOptions
    from edgeaudio.bundle import Bundle
    from edgeaudio.cli.device_progress import device_progress

    word = f"emulated:{emulated}"
    board, player = open_devices([device, word], read_devices(file))
    assert isinstance(player, EmulatedDevice)
    options = BenchOptions(min_hops=min_hops, min_seconds=min_seconds)
    job = BenchJob(
        Bundle.read(bundle, require_signature=required_trust(require_signature, trust)),
        artefact or "all",
        options=options,
    )
    with device_progress([device]) as show:
        made, _, _ = run_calibration(board, player, job, on_progress=lambda *now: show(device, *now))
    path = out or calibration_path()
    keep_calibrations(made, path)
    if as_json:
        print_json(made)
        return
    print_table(("CPU", "ENGINE", "PRECISION", "IPC", "SPREAD", "MHZ", "BOARD"), [_row(item) for item in made])
    print(f"\nkept in {path}")


def _row(item: Calibration) -> tuple[str, ...]:
    ipc = f"{item.ipc[0]:.2f}-{item.ipc[1]:.2f}"
    return item.cpu, item.engine, item.precision, ipc, f"{item.spread_share:.0%}", f"{item.clock_mhz:g}", item.board
