"""Which keys count: the options of every verb that runs a bundle, and the verbs of `bundle trust`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeaudio.cli.options import Json, examples
from edgeaudio.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from edgeaudio.bundle import TrustStore

TRUST_VARIABLE = "EDGEAUDIO_TRUST"

Trust = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="DIR",
        help=f"Folder of trusted keys. Default: ${TRUST_VARIABLE}, else ~/.config/edgeaudio/trust.",
    ),
]
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Refuse a bundle that no trusted key has signed.")
]
RequiredTrust = Annotated[
    Path | None,
    typer.Option("--trust", metavar="DIR", help="As --require-signature, with the trusted keys of this folder."),
]


def register(bundle: typer.Typer) -> None:
    """Add `trust` to the group `bundle`."""
    group = typer.Typer(help="Say whose signatures count on this machine.", rich_markup_mode=None)
    add_examples = examples(
        "edgeaudio bundle trust add release.pub",
        "edgeaudio bundle trust add release.pub --name kitchen-2026",
    )
    group.command("add", epilog=add_examples)(add)
    group.command("list", epilog=examples("edgeaudio bundle trust list"))(list_keys)
    group.command("remove", epilog=examples("edgeaudio bundle trust remove release"))(remove)
    bundle.add_typer(group, name="trust")


def trust_folder(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """`given`, else `$EDGEAUDIO_TRUST`, else `edgeaudio/trust` in `$XDG_CONFIG_HOME` or `~/.config`."""
    if given is not None:
        return given
    if environment.get(TRUST_VARIABLE):
        return Path(environment[TRUST_VARIABLE])
    base = environment.get("XDG_CONFIG_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "edgeaudio" / "trust"


def required_trust(require_signature: bool, trust: Path | None) -> TrustStore | None:
    """The keys of which one must have signed, or None where neither option was given."""
    if not require_signature and trust is None:
        return None
    from edgeaudio.bundle import TrustStore

    return TrustStore.load(trust_folder(trust))


def add(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="Public key file (.pub).")],
    name: Annotated[str | None, typer.Option(help="What to call it here. Default: the name of the file.")] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Trust a public key: what it signed runs here.

    Compare the key id with the one you were given before you rely on it.
    """
    from edgeaudio.bundle.trust import add_trusted

    folder = trust_folder(trust)
    known_as, public = add_trusted(folder, key, name)
    added = {"name": known_as, "key_id": public.key_id, "trust": folder}
    if as_json:
        print_json(added)
    else:
        print_fields(added)


def list_keys(trust: Trust = None, as_json: Json = False) -> None:
    """List the trusted keys."""
    from edgeaudio.bundle import TrustStore

    keys = TrustStore.load(trust_folder(trust)).keys
    if as_json:
        print_json([{"name": name, "key_id": key.key_id} for name, key in keys.items()])
    else:
        print_table(("NAME", "KEY ID"), [(name, key.key_id) for name, key in keys.items()])


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As 'bundle trust list' shows it.")],
    trust: Trust = None,
) -> None:
    """Trust a key no longer: what it signed is refused from now on."""
    from edgeaudio.bundle.trust import remove_trusted

    remove_trusted(trust_folder(trust), name)
