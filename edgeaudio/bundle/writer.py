"""Writing an `.eab`: equal inputs give equal bytes, and nothing is written that the reader would refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgeaudio.bundle.container import pack
from edgeaudio.bundle.golden import GOLDEN_PATH, Golden
from edgeaudio.bundle.manifest import FileEntry, Manifest
from edgeaudio.bundle.reader import MANIFEST_PATH, Bundle, entry_order
from edgeaudio.errors import BundleError
from edgeaudio.spec.base import canonical_json
from edgeaudio.spec.fs import atomic_write


def file_entry(path: str, payload: bytes) -> FileEntry:
    """The manifest's record of `payload` under the entry name `path`."""
    return FileEntry(path=path, size_bytes=len(payload), sha256=hashlib.sha256(payload).hexdigest())


def golden_entry(golden: Golden) -> FileEntry:
    """The manifest's record of `golden`."""
    return file_entry(GOLDEN_PATH, golden.to_bytes())


def bundle_bytes(manifest: Manifest, artefacts: Mapping[str, bytes], golden: Golden) -> bytes:
    """The whole file in memory, verified as a reader would.

    Args:
        artefacts: entry path -> bytes, for each of `manifest.model_files` and no other.
    Raises:
        BundleError: names, sizes or digests are not the manifest's, or golden shapes do not fit.
        LimitError: above a limit of `edgeaudio.spec.limits`.
    """
    wanted = entry_order(manifest)
    payloads = {MANIFEST_PATH: canonical_json(manifest.model_dump(mode="json"))}
    payloads |= {name: artefacts[name] for name in wanted if name in artefacts}
    payloads[GOLDEN_PATH] = golden.to_bytes()
    unlisted = sorted(set(artefacts) - set(wanted[1:-1]))
    if unlisted:
        raise BundleError(f"new bundle {manifest.name!r}: artefacts {unlisted} are not in the manifest")
    data = pack(payloads)
    Bundle.read(data)
    return data


def write_bundle(path: Path, manifest: Manifest, artefacts: Mapping[str, bytes], golden: Golden) -> None:
    """Write a bundle atomically; arguments and errors are those of `bundle_bytes`."""
    atomic_write(path, bundle_bytes(manifest, artefacts, golden))


def with_manifest(bundle: Bundle, manifest: Manifest) -> bytes:
    """The bytes of `bundle` with another manifest over the same files (parity and metrics, say).

    A signature is left out: it was over the other manifest.

    Raises:
        BundleError: `manifest` lists other files, sizes or digests.
    """
    artefacts = {file.path: bundle.payload(file) for file in bundle.manifest.model_files}
    return bundle_bytes(manifest, artefacts, bundle.golden)


def replace_manifest(path: Path, manifest: Manifest) -> None:
    """Rewrite the bundle at `path` atomically with another manifest over the same files, unsigned."""
    atomic_write(path, with_manifest(Bundle.read(path), manifest))
