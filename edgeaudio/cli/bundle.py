"""`bundle`: what a bundle holds, whether it keeps its promise here, and (in two files beside this) who signed it."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeaudio.cli import signing
from edgeaudio.cli import trust as trust_verbs
from edgeaudio.cli.options import BundleFile, Json, examples
from edgeaudio.cli.output import print_fields, print_json
from edgeaudio.cli.trust import RequiredTrust, RequireSignature, required_trust


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    group = typer.Typer(help="Look into a bundle, test it on this machine, sign it.", rich_markup_mode=None)
    group.command("show", epilog=examples("edgeaudio bundle show x.eab", "edgeaudio bundle show x.eab --json"))(show)
    group.command("check", epilog=examples("edgeaudio bundle check x.eab"))(check)
    group.command("build", epilog=examples("edgeaudio bundle build x.eab       not run on hardware"))(build)
    signing.register(group)
    trust_verbs.register(group)
    app.add_typer(group, name="bundle")


def show(bundle: BundleFile, as_json: Json = False) -> None:
    """Show everything a bundle says about itself, after verifying every byte of it."""
    from edgeaudio.bundle import Bundle, describe
    from edgeaudio.bundle.describe import in_brief

    described = describe(Bundle.read(bundle))
    if as_json:
        print_json(described)
    else:
        print_fields(in_brief(described))


def check(
    bundle: BundleFile,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine: onnx or litert. Default: all.")] = None,
    require_signature: RequireSignature = False,
    trust: RequiredTrust = None,
    as_json: Json = False,
) -> None:
    """Replay the golden vectors of a bundle through every artefact on this machine.

    Exit code 3 when one gives another answer than where it was made, 6 when none can run here.
    """
    from edgeaudio.bundle import Bundle
    from edgeaudio.runtime.selfcheck import check_bundle

    report = check_bundle(
        Bundle.read(bundle, require_signature=required_trust(require_signature, trust)), engine or None
    )
    if as_json:
        print_json(report.to_dict())
    else:
        for item in report.items:
            print(item)
    report.raise_if_failed()


def build(bundle: BundleFile, require_signature: RequireSignature = False, trust: RequiredTrust = None) -> None:
    """Build the TensorRT engines of a bundle on this device, so that its first start need not. Not run on hardware.

    They stay in a cache of this user ($EDGEAUDIO_CACHE, else ~/.cache/edgeaudio), for this GPU and TensorRT alone.
    """
    from edgeaudio.bundle import Bundle
    from edgeaudio.runtime.engines.tensorrt_engine import build_ahead

    for name, cache, build_s in build_ahead(
        Bundle.read(bundle, require_signature=required_trust(require_signature, trust))
    ):
        print(f"{name}: {'was there already' if cache == 'hit' else cache}, built in {build_s} s")
