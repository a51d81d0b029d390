"""Labelled clips and what the host made of them: a device must make the same, or its speed is of no interest."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeaudio.audio.resample import resample
from edgeaudio.audio.source import pcm16_to_float
from edgeaudio.bench.labelled_files import balanced, labelled_files
from edgeaudio.bench.schema import AccuracyCheck
from edgeaudio.bench.subjects import BundleSubject, Subject
from edgeaudio.errors import AudioFileError, ConfigError, UnsupportedError
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.spec.fs import atomic_write
from edgeaudio.spec.limits import CLIPS_FILE_BYTES, check_limit

logger = logging.getLogger(__name__)

# A clip may get another class than on the host only where the host's two best were closer than this in probability:
# sums in another order tip a near tie, and in int8 a rounding does.
MARGIN = {"fp32": 0.01, "int8": 0.05}
#: What the host runs in place of an engine that only a device has.
_REFERENCE = {"tensorrt": "tensorrt-reference"}


class Answers(NamedTuple):
    """Class `(n,)` of each clip, and how far its probability was above the second best `(n,)`."""

    classes: NDArray[np.int64]
    margins: Float32


@dataclass(frozen=True)
class AccuracyClips:
    """`waveforms`: int16 `(samples,)` each, at `sample_rate`; `labels`: of each. `answers`: artefact -> the host's."""

    source: str
    sample_rate: int
    labels: tuple[str, ...]
    waveforms: tuple[NDArray[np.int16], ...]
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @classmethod
    def from_dataset(cls, root: Path, n: int, seed: int, *, sample_rate: int = 16_000) -> AccuracyClips:
        """`n` clips of a folder in ESC-50's layout or with a folder for each class, as many of each class as can be.

        The same folder, `n` and `seed` give the same clips. Fewer where it has fewer.

        Raises:
            ConfigError: n below 1. DataError: no labelled audio there, or none that can be decoded.
        """
        if n < 1:
            raise ConfigError(f"{n} clips for accuracy: wanted at least 1")
        chosen = balanced(labelled_files(root), np.random.default_rng(seed))[:n]
        waveforms = tuple(_decoded(path, sample_rate) for _, path in chosen)
        return cls(root.name, sample_rate, tuple(label for label, _ in chosen), waveforms)

    def answered(self, subjects: Sequence[BundleSubject], threads: int = 1) -> AccuracyClips:
        """With what this machine makes of the clips; what it cannot run is left out, and says so in the log.

        Raises:
            ConfigError: a label that the bundle has not.
        """
        answers = dict(self.answers)
        for subject in subjects:
            engine = _REFERENCE.get(subject.engine, subject.engine)
            try:
                classifier = Classifier(
                    subject.bundle, threads=threads, **subject.classifier_options | {"engine": engine}
                )
            except UnsupportedError as error:
                logger.warning("%s has no answers to compare with: %s", subject.name, error)
                continue
            self.targets(classifier)
            answers[subject.name] = self.classified(classifier)
        return replace(self, answers=answers)

    def check(self, subject: Subject, classifier: Classifier) -> AccuracyCheck:
        """Classify all clips and compare.

        Raises:
            ConfigError: a label that the bundle has not.
        """
        targets, here = self.targets(classifier), self.classified(classifier).classes
        host = self.answers.get(subject.name)
        n = len(self.labels)
        told: dict[str, Any] = {"n_clips": n, "n_correct": int((here == targets).sum()), "clips_sha256": self.sha256}
        if host is None:
            detail = f"the host could not run {subject.name}: there is nothing to compare with"
            return AccuracyCheck(passed=False, n_correct_on_host=0, n_same=0, detail=detail, **told)
        gate = MARGIN[subject.precision]
        other = here != host.classes
        passed = bool((host.margins[other] < gate).all())
        detail = f"{int(other.sum())} of {n} clips of {self.source} got another class than on the host"
        if other.any():
            detail += (
                f", whose two best were up to {float(host.margins[other].max()):.3f} apart; allowed below {gate:g}"
            )
        return AccuracyCheck(
            passed=passed,
            n_correct_on_host=int((host.classes == targets).sum()),
            n_same=n - int(other.sum()),
            detail=detail,
            **told,
        )

    def targets(self, classifier: Classifier) -> NDArray[np.int64]:
        """`(n,)`: the bundle's number of each clip's label."""
        names = classifier.labels.names
        unknown = sorted(set(self.labels) - set(names))
        if unknown:
            raise ConfigError(
                f"clips of {self.source}: the bundle has no label {unknown!r:.200}; it has {names!r:.200}"
            )
        return np.array([names.index(label) for label in self.labels], np.int64)

    def classified(self, classifier: Classifier) -> Answers:
        """What a classifier makes of all clips."""
        probs = np.stack([classifier(pcm16_to_float(wave), self.sample_rate).probs for wave in self.waveforms])
        ordered = np.sort(probs, axis=1)
        margins = ordered[:, -1] - ordered[:, -2] if probs.shape[1] > 1 else np.ones(len(probs), np.float32)
        return Answers(probs.argmax(axis=1).astype(np.int64), margins.astype(np.float32))

    def loudest(self, n_samples: int, sample_rate: int) -> list[Float32]:
        """Of each clip the `n_samples` at `sample_rate` that hold most power; shorter clips end in zeros."""
        found = []
        for waveform in self.waveforms:
            whole = resample(pcm16_to_float(waveform), self.sample_rate, sample_rate)
            whole = np.pad(whole, (0, max(0, n_samples - len(whole))))
            power = np.concatenate([[0.0], np.cumsum(np.square(whole, dtype=np.float64))])
            start = int((power[n_samples:] - power[:-n_samples]).argmax())
            found.append(whole[start : start + n_samples])
        return found

    @property
    def duration_s(self) -> float:
        """Of all clips together."""
        return sum(map(len, self.waveforms)) / self.sample_rate

    @property
    def sha256(self) -> str:
        """Of sound, rate and labels, whoever has answered."""
        digest = hashlib.sha256(f"{self.sample_rate} {list(self.labels)}".encode())
        for waveform in self.waveforms:
            digest.update(f" {len(waveform)} ".encode() + waveform.astype("<i2").tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """To a file of its own."""
        atomic_write(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """One `.npz`, without pickles."""
        buffer = io.BytesIO()
        lengths = np.array([len(waveform) for waveform in self.waveforms], np.int64)
        np.savez_compressed(
            buffer,
            source=np.array(self.source),
            sample_rate=np.array(self.sample_rate),
            labels=np.array(self.labels),
            lengths=lengths,
            samples=np.concatenate(self.waveforms),
            artefacts=np.array(list(self.answers), dtype=np.str_),
            classes=np.array([answer.classes for answer in self.answers.values()], np.int64),
            margins=np.array([answer.margins for answer in self.answers.values()], np.float32),
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> AccuracyClips:
        """What `write` wrote.

        Raises:
            ConfigError: missing, damaged, or of another kind. LimitError: larger than `edgeaudio.spec.limits` allows.
        """
        try:
            check_limit(f"{path}: bytes", path.stat().st_size, CLIPS_FILE_BYTES)
            with np.load(path, allow_pickle=False) as stored:
                fields = {name: stored[name] for name in stored.files}
            waveforms = np.split(fields["samples"].astype(np.int16, casting="no"), np.cumsum(fields["lengths"])[:-1])
            labels = tuple(str(label) for label in fields["labels"])
            n, rows = len(labels), zip(fields["artefacts"], fields["classes"], fields["margins"], strict=True)
            answers = {str(name): Answers(classes.astype(np.int64), margins) for name, classes, margins in rows}
            clips = cls(str(fields["source"]), int(fields["sample_rate"]), labels, tuple(waveforms), answers)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: not a file of clips for accuracy ({error!s:.200}). Make it again.") from error
        sizes = {n, len(waveforms), *(len(part) for answer in answers.values() for part in answer)}
        if sizes != {n} or not n or int(fields["lengths"].sum()) != len(fields["samples"]):
            raise ConfigError(f"{path}: not a file of clips for accuracy (counts differ). Make it again.")
        return clips


def _decoded(path: Path, sample_rate: int) -> NDArray[np.int16]:
    # Only a host makes clips: a device need not be able to decode any.
    from edgeaudio.audio.files import decode_file

    decoded = decode_file(path)
    waveform = resample(decoded.waveform, decoded.sample_rate, sample_rate)
    if not len(waveform):
        raise AudioFileError(f"{path}: too short for {sample_rate} Hz", reason="empty")
    return np.rint(waveform * 32768).clip(-32768, 32767).astype(np.int16)
