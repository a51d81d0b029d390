"""Ed25519 keys and their PEM files. The package `cryptography` is imported only where a key is used."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.spec.fs import write_new
from edgeaudio.spec.limits import KEY_FILE_BYTES, check_limit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PRIVATE_MODE, _PUBLIC_MODE = 0o600, 0o644
_PASSPHRASE_BYTES = 1023  # Above, OpenSSL refuses.
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True)
class PublicKey:
    """A public key. raw: the 32 bytes of RFC 8032."""

    raw: bytes

    @property
    def key_id(self) -> str:
        """SHA-256 (hex) of `raw`."""
        return hashlib.sha256(self.raw).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the private half made `signature` over exactly `message`."""
        _require_cryptography()
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def to_pem(self) -> bytes:
        """The key as PEM (SubjectPublicKeyInfo)."""
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a PEM file that holds one Ed25519 public key and nothing else.

        Raises:
            ConfigError: no such file, a link, not such a key, or writable by everyone.
            UnsupportedError: `cryptography` is not installed.
        """
        data, mode = _read_key_file(path)
        refuse_writable_by_all(path, mode)
        if b"PRIVATE KEY-----" in data:
            raise ConfigError(
                f"{path}: holds a private key, which must stay with who signs. "
                "Give the .pub file that 'edgeaudio bundle keygen' wrote beside it."
            )
        return cls._from_pem(data, path)

    @classmethod
    def _from_pem(cls, data: bytes, path: Path) -> Self:
        _require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            loaded = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: not a public key in PEM form. Make one: edgeaudio bundle keygen KEY") from error
        if not isinstance(loaded, Ed25519PublicKey):
            raise _wrong_kind(path)
        key = cls(loaded.public_bytes_raw())
        # The parser takes the first key and skips the rest; what a person reads in the file must be what counts.
        if key.to_pem().split() != data.split():
            raise ConfigError(f"{path}: holds more than one public key or text around it; leave the key alone in it")
        return key


class PrivateKey:
    """A private key. Make one with `generate` or `read`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature; equal messages give equal signatures."""
        return self._key.sign(message)

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's random numbers. Raises UnsupportedError without `cryptography`."""
        _require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path, passphrase: Callable[[], str]) -> Self:
        """Read a PEM file (PKCS #8) that only its owner can read.

        Args:
            passphrase: called where the key is encrypted, and only then.
        Raises:
            ConfigError: no such file, a link, readable by others, not such a key, or a wrong passphrase.
            UnsupportedError: `cryptography` is not installed.
        """
        data, mode = _read_key_file(path)
        if b"PUBLIC KEY-----" in data:
            raise ConfigError(f"{path}: holds a public key; signing needs the private key that was made with it")
        if mode & 0o077:
            raise ConfigError(f"{path}: mode is {mode:04o}, so others can use this private key: chmod 600 {path}")
        _require_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        encrypted = _ENCRYPTED in data
        secret = _secret(passphrase()) if encrypted else None
        try:
            loaded = load_pem_private_key(data, secret)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            plain = "not a private key in PEM form (PKCS #8). Make one: edgeaudio bundle keygen KEY"
            reason = "the passphrase is wrong, or the file is damaged" if encrypted else plain
            raise ConfigError(f"{path}: {reason}") from error
        if not isinstance(loaded, Ed25519PrivateKey):
            raise _wrong_kind(path)
        return cls(loaded)

    def to_pem(self, passphrase: str | None) -> bytes:
        """The key as PEM (PKCS #8), encrypted where a passphrase is given.

        Raises:
            ConfigError: the passphrase is empty or too long.
        """
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            KeySerializationEncryption,
            NoEncryption,
            PrivateFormat,
        )

        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            secret = _secret(passphrase)
            if not 1 <= len(secret) <= _PASSPHRASE_BYTES:
                raise ConfigError(f"the passphrase has {len(secret)} bytes, wanted 1 to {_PASSPHRASE_BYTES}")
            encryption = BestAvailableEncryption(secret)
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_path(private: Path) -> Path:
    """Where the public half of the key file `private` lies: beside it, ending in `.pub`."""
    return private.with_suffix(".pub")


def make_key_files(private: Path, passphrase: str | None = None) -> PublicKey:
    """Make a key: `private` with mode 0600, and its public half at `public_path(private)`.

    Raises:
        ConfigError: one of the files is there already, the folder is not, or the passphrase is empty or too long.
        UnsupportedError: `cryptography` is not installed.
    """
    public = public_path(private)
    if public == private:
        raise ConfigError(f"{private}: .pub is the ending of the public key; name the private key otherwise")
    key = PrivateKey.generate()
    create_key_file(private, key.to_pem(passphrase), _PRIVATE_MODE)
    try:
        create_key_file(public, key.public.to_pem(), _PUBLIC_MODE)
    except BaseException:
        private.unlink()
        raise
    return key.public


def create_key_file(path: Path, pem: bytes, mode: int = _PUBLIC_MODE) -> None:
    """Write a key file that must not be there yet. Raises ConfigError where it is, or cannot be written."""
    try:
        write_new(path, pem, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already; a key is never overwritten. Choose another name.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def refuse_writable_by_all(path: Path, mode: int) -> None:
    """Raise ConfigError where everyone on the machine could put a key of their own at `path`."""
    if mode & 0o002:
        raise ConfigError(f"{path}: mode is {mode:04o}, so everyone can change what is trusted: chmod o-w {path}")


def _read_key_file(path: Path) -> tuple[bytes, int]:
    """The bytes and the mode of a small regular file."""
    try:
        # A link would let whoever can write elsewhere choose the key; a pipe without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        link = error.errno == errno.ELOOP
        reason = "is a symbolic link; give the key file itself" if link else f"cannot be read: {error.strerror}"
        raise ConfigError(f"{path}: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file; give a key file")
        check_limit(f"{path}: bytes", status.st_size, KEY_FILE_BYTES)
        return os.read(descriptor, KEY_FILE_BYTES), stat.S_IMODE(status.st_mode)
    finally:
        os.close(descriptor)


def _wrong_kind(path: Path) -> ConfigError:
    return ConfigError(f"{path}: is a key of another kind, wanted Ed25519. Make one: edgeaudio bundle keygen KEY")


def _secret(passphrase: str) -> bytes:
    # An environment variable may hold bytes that are not UTF-8.
    return passphrase.encode(errors="surrogateescape")


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "keys and signatures need the package 'cryptography', which is not installed here: "
            "pip install 'edgeaudio[signing]'"
        ) from error
