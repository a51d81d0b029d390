"""Every limit on untrusted input, in one place. Above a limit is `LimitError(name, given, limit)`."""

from __future__ import annotations

from edgeaudio.errors import LimitError

BUNDLE_BYTES = 64 * 2**20
MODEL_FILE_BYTES = 512 * 2**20
CLIPS_FILE_BYTES = 256 * 2**20
MANIFEST_BYTES = 256 * 2**10
RECIPE_BYTES = 256 * 2**10
BUNDLE_ENTRIES = 64
KEY_FILE_BYTES = 16 * 2**10
LABEL_BYTES = 64
LABELS = 4096
CHANNELS = 8
SAMPLE_RATE_MIN_HZ = 4_000
SAMPLE_RATE_MAX_HZ = 384_000
CLIP_S = 24 * 3600
JSON_DEPTH = 16
WINDOW_FRAMES = 10_000
STATE_BYTES = 16 * 2**20
N_MELS = 256
DEVICES_FILE_BYTES = 64 * 2**10
REPLY_LINE_BYTES = 64 * 2**20
REPLY_BYTES = 256 * 2**20
N_FFT = 16_384


def check_limit(name: str, given: float, limit: float) -> None:
    """Raise `LimitError` when `given` is above `limit`."""
    if given > limit:
        raise LimitError(name, given, limit)
