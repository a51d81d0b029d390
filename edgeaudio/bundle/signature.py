"""The entry `signature.ed25519` of a bundle: a key id and a signature over the manifest (docs/SPEC.md).

Only the form is checked here; whether the signature is true and counts is for `TrustStore.check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from edgeaudio.errors import SignatureError

SIGNATURE_PATH = "signature.ed25519"
_KEY_ID_BYTES, _VALUE_BYTES = 32, 64
SIGNATURE_BYTES = _KEY_ID_BYTES + _VALUE_BYTES


@dataclass(frozen=True)
class Signature:
    """An Ed25519 signature over the exact bytes of `manifest.json`.

    key_id: SHA-256 (hex) of the raw public key. value: 64 bytes.
    """

    key_id: str
    value: bytes

    def to_bytes(self) -> bytes:
        """The content of the entry."""
        return bytes.fromhex(self.key_id) + self.value

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> Self:
        """What `to_bytes` made; `source` leads the message. Raises SignatureError where the length is another."""
        if len(data) != SIGNATURE_BYTES:
            raise SignatureError(
                f"{source}: has {len(data)} bytes, wanted {SIGNATURE_BYTES}: cut off, or not a signature. "
                "Get the bundle again from where it was signed"
            )
        return cls(data[:_KEY_ID_BYTES].hex(), data[_KEY_ID_BYTES:])
