"""Certificates for servers on this machine."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificates(folder: Path, name: str) -> dict[str, Path]:
    """An authority, and a certificate of its for 127.0.0.1, as PEM files."""
    keys = {part: ec.generate_private_key(ec.SECP256R1()) for part in ("ca", "server")}
    names = {part: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {part}")]) for part in keys}
    now = datetime.now(UTC)
    paths = {}
    for part, key in keys.items():
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[part])
            .issuer_name(names["ca"])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=part == "ca", path_length=None), critical=True)
            .add_extension(alternative, critical=False)
            .sign(keys["ca"], hashes.SHA256())
        )
        paths[part] = folder / f"{name}-{part}.pem"
        paths[part].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[f"{part}_key"] = folder / f"{name}-{part}.key"
        paths[f"{part}_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return paths
