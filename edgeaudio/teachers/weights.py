"""Teacher weights on disk: where they live, fetching them, checking them, and the digest of tensors.

Nothing here downloads unless `fetch_file` is called. Checkpoints are read with `weights_only=True` only.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from edgeaudio.errors import ConfigError, DataError, VerificationError
from edgeaudio.spec.fs import atomic_path, sha256_file
from edgeaudio.spec.limits import check_limit

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

CHECKPOINT_BYTES = 512 * 2**20
_CHUNK_BYTES = 256 * 1024


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where fetched weights live: `$XDG_CACHE_HOME/edgeaudio`, else `~/.cache/edgeaudio`. Not created here."""
    base = environment.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path must be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgeaudio"


def fetch_file(
    url: str,
    sha256: str,
    to: Path,
    *,
    limit_bytes: int = CHECKPOINT_BYTES,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> Path:
    """Download `url` to `to`, whole and with the right digest, or not at all.

    A file that is already there with the right digest is kept and nothing is downloaded.

    Args:
        progress: called with (bytes so far, bytes in total; 0 when the server does not say).
    Raises:
        ConfigError: not an https address.
        DataError: the network or the server failed, or the download ended early.
        LimitError: more than `limit_bytes`.
        VerificationError: the bytes are not those that `sha256` names; nothing is kept.
    """
    if urlsplit(url).scheme != "https":
        raise ConfigError(f"weights address {url!r} is not https")
    if to.is_file() and sha256_file(to) == sha256:
        return to
    with atomic_path(to) as temporary:
        try:
            found = _download(url, temporary, limit_bytes, timeout_s, progress)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(
                f"cannot download {url}: {error}. Download it elsewhere, put it at {to}, and run again."
            ) from error
        if found != sha256:
            raise VerificationError(f"{url}: SHA-256 is {found}, wanted {sha256}; the file was not kept")
    logger.info("fetched %s to %s", url, to)
    return to


def _download(url: str, to: Path, limit_bytes: int, timeout_s: float, progress: Progress | None) -> str:
    """Stream `url` into `to`; the SHA-256 (hex) of what came."""
    digest, done = hashlib.sha256(), 0
    request = Request(url, headers={"User-Agent": "edgeaudio"})
    with urlopen(request, timeout=timeout_s) as response, to.open("wb") as stream:
        length = response.headers.get("Content-Length") or ""
        total = int(length) if length.isdecimal() else 0
        check_limit(f"size of {url} in bytes", total, limit_bytes)
        while chunk := response.read(_CHUNK_BYTES):
            done += len(chunk)
            check_limit(f"size of {url} in bytes", done, limit_bytes)
            digest.update(chunk)
            stream.write(chunk)
            if progress is not None:
                progress(done, total)
    if total and done != total:
        raise DataError(f"download of {url} ended after {done} of {total} bytes; run it again")
    return digest.hexdigest()


def load_state_dict(path: Path, sha256: str, *, allow_unknown_digest: bool = False) -> dict[str, torch.Tensor]:
    """A plain dict of tensors from a PyTorch checkpoint whose digest is pinned.

    Raises:
        DataError: the file is absent or not a plain dict of tensors.
        LimitError: larger than `CHECKPOINT_BYTES`.
        VerificationError: another digest than `sha256`, unless `allow_unknown_digest`.
    """
    if not path.is_file():
        raise DataError(f"teacher weights {path} do not exist. Fetch them first or pass the path of a local file.")
    check_limit(f"size of {path} in bytes", path.stat().st_size, CHECKPOINT_BYTES)
    found = sha256_file(path)
    if found != sha256:
        if not allow_unknown_digest:
            raise VerificationError(
                f"teacher weights {path}: SHA-256 is {found}, wanted {sha256}. "
                "Fetch them again: edgeaudio tag --teacher mn04 --fetch FILE.wav"
            )
        logger.warning("%s has the unknown SHA-256 %s, loaded because an unknown digest is allowed", path, found)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"teacher weights {path} are not a plain PyTorch checkpoint: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"teacher weights {path} hold a {type(state).__name__}, wanted a plain dict of tensors")
    return state


def load_strictly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """`load_state_dict(strict=True)` whose complaint is a `VerificationError` naming `source`."""
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        complaint = " ".join(str(error).split())[:400]
        raise VerificationError(f"{source}: these weights do not fit {type(module).__name__}: {complaint}") from error


@contextlib.contextmanager
def generator_untouched() -> Iterator[None]:
    """Building a module draws first weights from torch's global generator; loading must not move that for others."""
    with torch.random.fork_rng(devices=[]):
        yield


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and values: the same tensors in any container are equal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
