"""The entry `signatures.ed25519` of a bundle: which keys signed its manifest, and how (docs/SPEC.md, section 2).

Only the form is checked here; whether a signature is true and counts is for `TrustStore.check`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeaudio.errors import SignatureError
from edgeaudio.spec.limits import SIGNATURES, check_limit

SIGNATURES_PATH = "signatures.ed25519"
KEY_ID_BYTES = 32
SIGNATURE_BYTES = 64
_RECORD_BYTES = KEY_ID_BYTES + SIGNATURE_BYTES


@dataclass(frozen=True, order=True)
class Signature:
    """One Ed25519 signature over the exact bytes of `manifest.json`.

    key_id: SHA-256 (hex) of the raw public key. value: 64 bytes.
    """

    key_id: str
    value: bytes


def pack_signatures(signatures: Iterable[Signature]) -> bytes:
    """The content of the entry; equal sets of signatures give equal bytes.

    Raises:
        LimitError: more than `edgeaudio.spec.limits` allows.
    """
    ordered = sorted(signatures)
    check_limit(f"new bundle: {SIGNATURES_PATH}: signatures", len(ordered), SIGNATURES)
    return b"".join(bytes.fromhex(signature.key_id) + signature.value for signature in ordered)


def parse_signatures(data: bytes, source: str) -> tuple[Signature, ...]:
    """What `pack_signatures` wrote; `source` leads each message.

    Raises:
        SignatureError: not whole records, a key twice, or out of order.
        LimitError: more records than `edgeaudio.spec.limits` allows.
    """
    if not data or len(data) % _RECORD_BYTES:
        raise SignatureError(
            f"{source}: has {len(data)} bytes, wanted {_RECORD_BYTES} for each signature: it is cut off or damaged. "
            "Get the bundle again from where it was signed"
        )
    check_limit(f"{source}: signatures", len(data) // _RECORD_BYTES, SIGNATURES)
    records = [data[at : at + _RECORD_BYTES] for at in range(0, len(data), _RECORD_BYTES)]
    signatures = tuple(Signature(record[:KEY_ID_BYTES].hex(), record[KEY_ID_BYTES:]) for record in records)
    key_ids = [signature.key_id for signature in signatures]
    if key_ids != sorted(set(key_ids)):
        raise SignatureError(f"{source}: key ids must rise, each once; it has {', '.join(key_ids)}")
    return signatures
