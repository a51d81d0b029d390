"""Signing a bundle: Ed25519 over the exact bytes of its manifest, which lists everything else with size and digest."""

from __future__ import annotations

from pathlib import Path

from edgeaudio.bundle.container import pack
from edgeaudio.bundle.keys import PrivateKey
from edgeaudio.bundle.reader import MANIFEST_PATH, Bundle
from edgeaudio.bundle.signatures import SIGNATURES_PATH, Signature, pack_signatures
from edgeaudio.bundle.trust import TrustStore
from edgeaudio.spec.fs import atomic_write


def signed_bytes(bundle: Bundle, key: PrivateKey) -> bytes:
    """The bytes of `bundle` with the signature of `key`; those of other keys are kept as they are.

    Raises:
        LimitError: more signatures or entries than `edgeaudio.spec.limits` allows.
    """
    mine = Signature(key.public.key_id, key.sign(bundle.entries[MANIFEST_PATH]))
    others = [signature for signature in bundle.signatures if signature.key_id != mine.key_id]
    # Not through `bundle_bytes`: it would write the manifest anew, and other keys signed these very bytes.
    signatures = {SIGNATURES_PATH: pack_signatures([*others, mine])}
    data = pack({**bundle.entries} | signatures)
    Bundle.read(data, require_signature=TrustStore("new bundle", {"signer": key.public}))
    return data


def sign_bundle(path: Path, key: PrivateKey) -> None:
    """Sign the bundle at `path`: verify all of it, then rewrite it atomically. Signing again changes nothing.

    Raises:
        ConfigError: there is no such file.
        BundleError: it is not a whole bundle.
        LimitError: as `signed_bytes`.
    """
    data = signed_bytes(Bundle.read(path), key)
    # Renaming over a link would leave the bundle itself unsigned.
    atomic_write(path.resolve(), data)
