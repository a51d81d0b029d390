"""`list` and `doctor`: what there is, and what of it this machine can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.catalog import TABLES
from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import format_bytes, print_json, print_table
from edgeaudio.errors import ConfigError, closest_match_hint

if TYPE_CHECKING:
    from edgeaudio.doctor import Diagnosis


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.command("list", epilog=examples("edgeaudio list students", "edgeaudio list --json"))(list_entries)
    app.command("doctor", epilog=examples("edgeaudio doctor", "edgeaudio doctor --json"))(doctor)


def list_entries(
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help=f"One of: {', '.join(TABLES)}. Default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the names that recipes and options know.

    Nothing is imported: an entry is listed also where its libraries are missing.
    """
    if table is not None and table not in TABLES:
        raise ConfigError(f"nothing to list under {table!r}. {closest_match_hint(table, TABLES)}")
    tables = TABLES if table is None else {table: TABLES[table]}
    if as_json:
        print_json(tables)
        return
    rows = [(kind, name, target) for kind, entries in tables.items() for name, target in entries.items()]
    print_table(("TABLE", "NAME", "WHERE"), rows)


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose free disk space is shown.")] = Path(),
    as_json: Json = False,
) -> None:
    """Show what this machine can run, and how to install the rest."""
    from edgeaudio.doctor import diagnose

    diagnosis = diagnose(folder)
    if as_json:
        print_json(diagnosis)
    else:
        _print_diagnosis(diagnosis)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    machine = diagnosis.machine
    flags = " ".join(("+" if there else "-") + flag for flag, there in machine.cpu_flags.items())
    print(f"edgeaudio {diagnosis.edgeaudio}, Python {machine.python}, {machine.system}, {machine.architecture}")
    print(f"{machine.cpu}, {machine.cores} cores: {flags}")
    print(f"{format_bytes(machine.free_disk_bytes)} of disk free\n")
    rows = [
        (capability.name, "usable" if capability.usable else "missing", package.name, package.installed, package.wanted)
        for capability in diagnosis.capabilities
        for package in capability.packages
    ]
    native = diagnosis.native_frontend
    state = "missing" if native.compiler is None else "usable"
    rows.append(("front-end native", state, "(C extension)", native.compiler, "optional: without it numpy"))
    print_table(("FOR", "STATE", "PACKAGE", "INSTALLED", "WANTED"), rows)
    for capability in diagnosis.capabilities:
        if capability.install is not None:
            print(f"\nfor {capability.name}:\n  {capability.install}")
    if native.install is not None:
        print(f"\nfor front-end native: {native.reason}\n  {native.install}")
