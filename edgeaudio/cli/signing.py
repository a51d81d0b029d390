"""`bundle keygen`, `bundle sign` and `bundle verify`: who made a bundle."""

from __future__ import annotations

import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from edgeaudio.cli.options import BundleFile, Json, examples
from edgeaudio.cli.output import print_fields, print_json
from edgeaudio.cli.trust import Trust, trust_folder
from edgeaudio.errors import ConfigError

PASSPHRASE_VARIABLE = "EDGEAUDIO_KEY_PASSPHRASE"


def register(bundle: typer.Typer) -> None:
    """Add the verbs of this file to the group `bundle`."""
    keygen_examples = examples(
        "edgeaudio bundle keygen release.key",
        "edgeaudio bundle keygen release.key --passphrase",
    )
    bundle.command("keygen", epilog=keygen_examples)(keygen)
    bundle.command("sign", epilog=examples("edgeaudio bundle sign x.eab --key release.key"))(sign)
    verify_examples = examples(
        "edgeaudio bundle verify x.eab",
        "edgeaudio bundle verify x.eab --trust keys --json",
    )
    bundle.command("verify", epilog=verify_examples)(verify)


def keygen(
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="Private key file to make; the public key gets the ending .pub.")
    ],
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help=f"Encrypt it; asks, unless ${PASSPHRASE_VARIABLE} is set."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key pair for signing bundles.

    Only you can read the private key. It is encrypted with --passphrase, and whenever the variable
    EDGEAUDIO_KEY_PASSPHRASE is set. No file is ever overwritten.
    """
    from edgeaudio.bundle.keys import make_key_files, public_path

    secret = os.environ.get(PASSPHRASE_VARIABLE) or (_new_passphrase(key) if passphrase else None)
    public = make_key_files(key, secret)
    made = {
        "private_key": key,
        "encrypted": secret is not None,
        "public_key": public_path(key),
        "key_id": public.key_id,
    }
    if as_json:
        print_json(made)
    else:
        print_fields(made)


def sign(
    bundle: BundleFile,
    key: Annotated[Path, typer.Option("--key", metavar="KEY", help="Private key file, from 'bundle keygen'.")],
    as_json: Json = False,
) -> None:
    """Sign a bundle, in place, after verifying every byte of it.

    A bundle has one signature: a second one takes the place of the first. The passphrase of an
    encrypted key comes from the variable EDGEAUDIO_KEY_PASSPHRASE, or is asked for.
    """
    from edgeaudio.bundle import Bundle, PrivateKey, sign_bundle

    private = PrivateKey.read(key, lambda: _passphrase(key))
    sign_bundle(bundle, private)
    signed = Bundle.read(bundle)
    result = {"bundle": bundle, "sha256": signed.sha256, "key_id": private.public.key_id}
    if as_json:
        print_json(result)
    else:
        print_fields(result)


def verify(bundle: BundleFile, trust: Trust = None, as_json: Json = False) -> None:
    """Verify that a trusted key signed a bundle, and every byte of it.

    Exit code 3 when the bundle is damaged or changed, or no trusted key signed it; 2 when there is
    no trusted key at all.
    """
    from edgeaudio.bundle import Bundle, TrustStore

    folder = trust_folder(trust)
    store = TrustStore.load(folder)
    verified = Bundle.read(bundle, require_signature=store)
    assert verified.signed_by is not None
    result = {
        "bundle": bundle,
        "sha256": verified.sha256,
        "signed_by": verified.signed_by,
        "key_id": store.keys[verified.signed_by].key_id,
        "trust": folder,
    }
    if as_json:
        print_json(result)
    else:
        print_fields(result)


def _passphrase(key: Path) -> str:
    given = os.environ.get(PASSPHRASE_VARIABLE)
    return given or _ask(key, f"Passphrase of {key}: ")


def _new_passphrase(key: Path) -> str:
    given = _ask(key, f"Passphrase for {key}: ")
    if _ask(key, "Again: ") != given:
        raise ConfigError(f"{key}: the two passphrases differ; nothing was written")
    return given


def _ask(key: Path, prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"{key}: needs a passphrase and there is no terminal to ask; set {PASSPHRASE_VARIABLE}")
    return getpass(prompt)
