"""The one error family of edgeaudio, with the exit code that the CLI gives for each.

Library code raises these and never prints or exits; `edgeaudio.cli` turns them into one line.
A message says what was given, what was wanted, and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeAudioError(Exception):
    """Anything edgeaudio refuses or fails to do. Subclasses set the documented exit code."""

    exit_code = 1


class ConfigError(EdgeAudioError):
    """A recipe, option or specification is wrong; the message names the field and the mend."""

    exit_code = 2


class LimitError(ConfigError):
    """A quantity exceeds a limit of `edgeaudio.spec.limits`."""

    def __init__(self, name: str, given: object, limit: object) -> None:
        super().__init__(f"{name} is {given}, the limit is {limit}")
        self.name, self.given, self.limit = name, given, limit


class ShapeError(ConfigError):
    """An array has another shape or dtype than the callee documents."""


class DataError(ConfigError):
    """A dataset or one of its files cannot be used."""


class AudioFileError(DataError):
    """One audio file cannot be decoded or fails the checks after decoding; `reason` is a short slug."""

    def __init__(self, message: str, *, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class SampleRateError(DataError):
    """Audio arrives at another sample rate than the bundle or front-end needs."""


class WorkDirError(ConfigError):
    """A work directory is locked, damaged, or belongs to another recipe."""


class VerificationError(EdgeAudioError):
    """An artefact, bundle or stored record is not what its digest or parity gate promises."""

    exit_code = 3


class BundleError(VerificationError):
    """A bundle is malformed, truncated or tampered with."""


class SignatureError(BundleError):
    """A required signature is missing, not by a trusted key, or not over this bundle."""


class ParityError(VerificationError):
    """Two implementations of the same thing differ by more than the gate."""


class BenchInvalidError(EdgeAudioError):
    """A benchmark ran but its figures must not be used."""

    exit_code = 4


class DeviceError(EdgeAudioError):
    """A device cannot be reached, was lost, or answers what is no answer."""

    exit_code = 5


class UnsupportedError(EdgeAudioError):
    """This machine lacks the engine, library or operator that was asked for."""

    exit_code = 6


class AudioDeviceError(EdgeAudioError):
    """An audio input cannot be opened or was lost."""

    exit_code = 7


def closest_match_hint(word: str, known: Iterable[str]) -> str:
    """A sentence naming the nearest known word, or all of them when none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
