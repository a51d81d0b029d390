"""The trust store: a folder of public keys, `NAME.pub`, whose signatures count on this machine."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edgeaudio.bundle.keys import PublicKey, create_key_file, refuse_writable_by_all
from edgeaudio.bundle.signature import SIGNATURE_PATH, Signature
from edgeaudio.errors import ConfigError, SignatureError, closest_match_hint
from edgeaudio.spec.fs import fsync_dir

_SUFFIX = ".pub"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class TrustStore:
    """Trusted public keys by name; `source` is for messages only."""

    source: str
    keys: Mapping[str, PublicKey]

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read every `NAME.pub` of a folder; a folder that is not there holds none.

        Raises:
            ConfigError: one of the files is not a public key, a link, or a key that is there twice, or everyone may
                write to the folder. Nothing is skipped: a key that silently does not count is found too late.
            UnsupportedError: there are keys, but `cryptography` is not installed.
        """
        folder = Path(folder)
        paths = _key_files(folder)
        keys = {path.stem: PublicKey.read(path) for path in paths}
        names: dict[PublicKey, str] = {}
        for name, key in keys.items():
            first = names.setdefault(key, name)
            if first != name:
                # Who removes one name must have removed the key.
                raise ConfigError(f"{folder}: {first}{_SUFFIX} and {name}{_SUFFIX} hold the same key; remove one")
        return cls(str(folder), keys)

    def check(self, manifest: bytes, signature: Signature | None, source: str) -> str:
        """The name of the trusted key that signed exactly these bytes.

        Raises:
            ConfigError: this store is empty.
            SignatureError: no signature, by a key that is not in this store, or not over these bytes.
        """
        where = f"{source}: {SIGNATURE_PATH}"
        if not self.keys:
            raise ConfigError(f"{self.source}: holds no trusted key. Add one: edgeaudio bundle trust add NAME.pub")
        if signature is None:
            raise SignatureError(
                f"{where}: missing, and a signature is required. Sign the bundle: edgeaudio bundle sign FILE --key KEY"
            )
        names = {key.key_id: name for name, key in self.keys.items()}
        name = names.get(signature.key_id)
        if name is None:
            raise SignatureError(
                f"{where}: the key is {signature.key_id}, trusted in {self.source}: {', '.join(self.keys)}. "
                "If you know that key: edgeaudio bundle trust add NAME.pub"
            )
        if not self.keys[name].verifies(signature.value, manifest):
            raise SignatureError(
                f"{where}: not a signature by key {name!r} over this manifest: the bundle was changed after it was "
                "signed, or carries the signature of another. Get it again from where it was signed"
            )
        return name


def add_trusted(folder: Path, file: Path, name: str | None = None) -> tuple[str, PublicKey]:
    """Put the public key of `file` into a trust store, made where it is not there; the name it has now and the key.

    Adding what is there already, under the same name, changes nothing.

    Args:
        name: of the key. Default: that of the file.
    Raises:
        ConfigError: not a public key, a name that cannot be used or is taken, or the key has another name.
        UnsupportedError: `cryptography` is not installed.
    """
    key = PublicKey.read(file)
    name = file.stem if name is None else name
    _check_name(name, folder)
    known = TrustStore.load(folder).keys
    for other, there in known.items():
        if there == key and other != name:
            raise ConfigError(f"{file}: this key is trusted already, as {other!r} in {folder}")
    if name not in known:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        create_key_file(folder / f"{name}{_SUFFIX}", key.to_pem())
    elif known[name] != key:
        raise ConfigError(
            f"{folder}: {name!r} is another key, {known[name].key_id}. Choose a --name for the new one, "
            f"or remove the old one: edgeaudio bundle trust remove {name}"
        )
    return name, key


def remove_trusted(folder: Path, name: str) -> None:
    """Take a key out of a trust store: what it signed no longer counts here.

    Raises:
        ConfigError: there is no such key; the message names the nearest.
    """
    paths = {path.stem: path for path in _key_files(folder)}
    if name not in paths:
        hint = closest_match_hint(name, paths) if paths else "It is empty."
        raise ConfigError(f"{folder}: no key {name!r}. {hint}")
    paths[name].unlink()
    fsync_dir(folder)


def _key_files(folder: Path) -> list[Path]:
    """Every `*.pub` of the folder, by name."""
    try:
        mode = folder.stat().st_mode
        paths = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read as a trust store: {error.strerror}") from error
    refuse_writable_by_all(folder, stat.S_IMODE(mode))
    for path in paths:
        _check_name(path.stem, folder)
    return paths


def _check_name(name: str, folder: Path) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{folder}: {name!r:.80} cannot be the name of a key: letters, digits, '_', '.', '-', at most 64, "
            "beginning with a letter, a digit or '_'"
        )
