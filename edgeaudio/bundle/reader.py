"""Reading an `.eab`: sizes, structure, signature where required, manifest, digests; only then is anything used.

A `Bundle` holds verified bytes in memory and never a path: what was checked is what runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from edgeaudio import __version__
from edgeaudio.bundle.container import unpack
from edgeaudio.bundle.golden import GOLDEN_PATH, Golden
from edgeaudio.bundle.jsonio import parse_json
from edgeaudio.bundle.manifest import SCHEMA_VERSION, FileEntry, Manifest, ModelFile
from edgeaudio.bundle.signature import SIGNATURE_PATH, Signature
from edgeaudio.bundle.trust import TrustStore
from edgeaudio.errors import BundleError, ConfigError
from edgeaudio.spec.base import explain_validation_error
from edgeaudio.spec.limits import BUNDLE_BYTES, MANIFEST_BYTES, check_limit
from edgeaudio.spec.text import printable

MANIFEST_PATH = "manifest.json"


class Bundle:
    """A verified bundle. Make one with `Bundle.read`."""

    def __init__(
        self,
        manifest: Manifest,
        entries: Mapping[str, bytes],
        golden: Golden,
        source: str,
        data: bytes,
        signature: Signature | None = None,
        signed_by: str | None = None,
    ):
        self.manifest = manifest
        self.golden = golden
        #: The verified bytes of every entry, in the order of the file.
        self.entries: Mapping[str, bytes] = MappingProxyType(dict(entries))
        #: What the file claims; shown to be true only where `signed_by` names the key.
        self.signature = signature
        #: The key of the required trust store that signed it; None where no signature was required.
        self.signed_by = signed_by
        #: Where it came from: for messages only.
        self.source = source
        #: SHA-256 (hex) of the whole file, and its size.
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.size_bytes = len(data)

    def payload(self, file: ModelFile) -> bytes:
        """The verified bytes of one of `manifest.model_files`: an artefact or a stage."""
        return self.entries[file.path]

    @classmethod
    def read(
        cls, source: Path | str | bytes | bytearray | memoryview, *, require_signature: TrustStore | None = None
    ) -> Bundle:
        """Read and verify a bundle from a file or from its bytes.

        Args:
            require_signature: keys of which one must have signed the bundle. Without it a signature is not verified.
        Raises:
            ConfigError: there is no such file, or the trust store is empty.
            BundleError: malformed, damaged, tampered with, or made for another schema version.
            SignatureError: the required signature is missing, by another key, or not over this bundle.
            LimitError: larger than `edgeaudio.spec.limits` allows.
        """
        if isinstance(source, (str, Path)):
            return _verify(_read_capped(Path(source)), str(source), require_signature)
        check_limit("bundle bytes", memoryview(source).nbytes, BUNDLE_BYTES)
        return _verify(bytes(source), "bundle", require_signature)


def _read_capped(path: Path) -> bytes:
    """The file's bytes; never more than the cap plus one, whatever the file claims to be."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file. Give the path of an .eab bundle.")
    if not path.is_file():
        raise BundleError(f"{path}: not a regular file")
    check_limit(f"{path}: bytes", path.stat().st_size, BUNDLE_BYTES)
    try:
        with path.open("rb") as stream:
            return stream.read(BUNDLE_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _verify(data: bytes, source: str, trust: TrustStore | None) -> Bundle:
    payloads = unpack(data, source)
    if next(iter(payloads), None) != MANIFEST_PATH:
        raise BundleError(f"{source}: the first entry must be {MANIFEST_PATH!r}, it is {next(iter(payloads), None)!r}")
    check_limit(f"{source}: {MANIFEST_PATH}: bytes", len(payloads[MANIFEST_PATH]), MANIFEST_BYTES)
    signature = None
    if SIGNATURE_PATH in payloads:
        signature = Signature.from_bytes(payloads[SIGNATURE_PATH], f"{source}: {SIGNATURE_PATH}")
    # Before the manifest is parsed: no parser sees what a stranger wrote.
    signed_by = None if trust is None else trust.check(payloads[MANIFEST_PATH], signature, source)
    manifest = parse_manifest(payloads[MANIFEST_PATH], f"{source}: {MANIFEST_PATH}")
    check_entries(manifest, payloads, source)
    where = f"{source}: {manifest.golden.path}"
    golden = Golden.from_bytes(payloads[manifest.golden.path], where)
    golden.check_fits(manifest, where)
    return Bundle(manifest, payloads, golden, source, data, signature, signed_by)


def parse_manifest(data: bytes, source: str) -> Manifest:
    """Parse `manifest.json`; `source` leads each message. Raises BundleError or LimitError."""
    value = parse_json(data, source)
    if not isinstance(value, dict):
        raise BundleError(f"{source}: is a JSON {type(value).__name__}, wanted an object")
    _check_schema_version(value, source)
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise BundleError(f"{source}: {printable(explain_validation_error(error))}") from error


def entry_order(manifest: Manifest) -> list[str]:
    """The names of all entries in the order of the file; a signature, if any, comes after them."""
    return [MANIFEST_PATH, *manifest.paths, manifest.golden.path]


def check_entries(manifest: Manifest, payloads: dict[str, bytes], source: str) -> None:
    """Raise `BundleError` unless `payloads` are exactly what `manifest` lists, then any signature."""
    if manifest.golden.path != GOLDEN_PATH:
        raise BundleError(f"{source}: golden.path is {manifest.golden.path!r}, wanted {GOLDEN_PATH!r}")
    wanted, given = entry_order(manifest), list(payloads)
    if SIGNATURE_PATH in payloads:
        wanted.append(SIGNATURE_PATH)
    if given != wanted:
        missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
        detail = f"missing: {missing}, not in the manifest: {extra}" if missing or extra else f"wanted order: {wanted}"
        raise BundleError(f"{source}: the entries are not those of the manifest; {detail}")
    for entry in (*manifest.model_files, manifest.golden):
        _check_digest(entry, payloads[entry.path], source)


def _check_digest(entry: FileEntry, payload: bytes, source: str) -> None:
    if len(payload) != entry.size_bytes:
        raise BundleError(
            f"{source}: entry {entry.path!r}: size_bytes is {entry.size_bytes} in the manifest, it has {len(payload)}"
        )
    digest = hashlib.sha256(payload).hexdigest()
    if digest != entry.sha256:
        raise BundleError(f"{source}: entry {entry.path!r}: sha256 is {digest}, the manifest says {entry.sha256}")


def _check_schema_version(value: dict[str, Any], source: str) -> None:
    version = value.get("schema_version")
    if type(version) is int and version == SCHEMA_VERSION:
        return
    lineage = value.get("lineage")
    made_by = lineage.get("edgeaudio_version") if isinstance(lineage, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        known = isinstance(made_by, str) and re.fullmatch(r"[0-9A-Za-z.+]{1,32}", made_by)
        needed = f"edgeaudio {made_by} or newer" if known else "a newer edgeaudio"
        raise BundleError(
            f"{source}: schema_version is {version}, edgeaudio {__version__} reads {SCHEMA_VERSION}. "
            f"This bundle needs {needed}: pip install --upgrade edgeaudio"
        )
    raise BundleError(f"{source}: schema_version is {version!r:.40}, wanted {SCHEMA_VERSION}")
