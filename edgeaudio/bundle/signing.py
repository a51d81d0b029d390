"""Signing a bundle: Ed25519 over the exact bytes of its manifest, which lists everything else with size and digest."""

from __future__ import annotations

from pathlib import Path

from edgeaudio.bundle.container import pack
from edgeaudio.bundle.keys import PrivateKey
from edgeaudio.bundle.reader import MANIFEST_PATH, Bundle
from edgeaudio.bundle.signature import SIGNATURE_PATH, Signature
from edgeaudio.bundle.trust import TrustStore
from edgeaudio.spec.fs import atomic_write


def signed_bytes(bundle: Bundle, key: PrivateKey) -> bytes:
    """The bytes of `bundle` signed by `key`, in place of any other signature; all else stays as it is.

    Raises:
        LimitError: the signature makes more entries or bytes than `edgeaudio.spec.limits` allows.
    """
    signature = Signature(key.public.key_id, key.sign(bundle.entries[MANIFEST_PATH]))
    data = pack({**bundle.entries} | {SIGNATURE_PATH: signature.to_bytes()})
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
