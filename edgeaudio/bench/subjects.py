"""What is timed, behind one face; and the artefacts of a bundle in each of their forms."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgeaudio.bench.hop import Stages, live_stages
from edgeaudio.bench.schema import BenchOptions, Form, ParityCheck
from edgeaudio.bundle import Bundle, ExitChain, Manifest, ModelFile, StatefulArtefact, StatefulChain
from edgeaudio.catalog import ENGINES, resolve
from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.runtime.selfcheck import CheckReport, chain_subject, streamed_subject

FORMS: tuple[Form, ...] = ("windowed", "stateful", "exits", "stateful-exits")


@dataclass(frozen=True)
class Loaded:
    """A subject that is ready to run.

    infer: one inference, outside the stages' stream. classifier: None for a foreign file.
    """

    stages: Stages
    infer: Callable[[], object]
    info: Callable[[], dict[str, str]]
    classifier: Classifier | None = None


class Subject(Protocol):
    """Something that can be timed; what the record says of it, and how to get it running."""

    @property
    def name(self) -> str:
        """Unique in a run."""
        ...

    @property
    def form(self) -> Form:
        """How it is run."""
        ...

    @property
    def engine(self) -> str:
        """What runs it."""
        ...

    @property
    def precision(self) -> str:
        """`fp32`, `int8`, or `unknown`."""
        ...

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        ...

    @property
    def sha256(self) -> str:
        """Of its file, or of the digests of its files."""
        ...

    @property
    def hop_samples(self) -> int:
        """Between two answers, at the bundle's rate."""
        ...

    def parity(self, check: CheckReport) -> ParityCheck | None:
        """What the self-check found; None where there is nothing to replay.

        Raises:
            UnsupportedError: it could not run.
        """
        ...

    def load(self, options: BenchOptions, threads: int, input_rate_hz: int) -> Loaded:
        """Raises UnsupportedError: it cannot run here."""
        ...


@dataclass(frozen=True)
class BundleSubject:
    """An artefact in one form. `files` are its one model file, or the stages of its exits."""

    bundle: Bundle
    form: Form
    engine: str
    files: tuple[ModelFile, ...]

    @property
    def name(self) -> str:
        """`onnx-int8`, `onnx-int8-stateful-exits` and the like."""
        return f"{self.windowed_name}{'' if self.form == 'windowed' else f'-{self.form}'}"

    @property
    def windowed_name(self) -> str:
        """The same artefact over windows."""
        return f"{self.files[0].format}-{self.precision}"

    @property
    def precision(self) -> str:
        """See `Subject.precision`."""
        return self.files[0].precision

    @property
    def size_bytes(self) -> int:
        """See `Subject.size_bytes`."""
        return sum(file.size_bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """See `Subject.sha256`."""
        digests = [file.sha256 for file in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def stateful(self) -> bool:
        """Whether it takes steps."""
        return self.form in ("stateful", "stateful-exits")

    @property
    def exits(self) -> bool:
        """Whether it may stop early."""
        return self.form in ("exits", "stateful-exits")

    @property
    def hop_samples(self) -> int:
        """See `Subject.hop_samples`."""
        manifest = self.bundle.manifest
        frames = manifest.stateful.step_frames if self.stateful and manifest.stateful else manifest.window.hop_frames
        return frames * manifest.frontend.hop_length

    def parity(self, check: CheckReport) -> ParityCheck:
        """See `Subject.parity`."""
        wanted = {"frontend", *(name for file in self.files for name in _replays(file))}
        chain = _chain(self.bundle.manifest, self)
        also = {chain_subject(chain)} if chain else set()
        items = [item for item in check.items if item.subject in wanted | also]
        items = [item for item in items if item.subject == "frontend" or item.engine == self.engine]
        for item in items:
            if item.status == "not run":
                raise UnsupportedError(item.reason)
        passed = {item.subject for item in items if item.status == "passed"} == wanted and len(items) == len(wanted)
        return ParityCheck(passed=passed, n_vectors=len(self.bundle.golden), detail="; ".join(map(str, items)))

    def load(self, options: BenchOptions, threads: int, input_rate_hz: int) -> Loaded:
        """See `Subject.load`."""
        classifier = Classifier(self.bundle, threads=threads, frontend=options.frontend, **self.classifier_options)
        window = self.bundle.golden.log_mel[0]
        infer: Callable[[], object]
        if self.stateful:
            infer = functools.partial(classifier.open_stepper().answer, window[: classifier.hop_frames])
        else:
            infer = functools.partial(classifier.score, window)
        return Loaded(live_stages(classifier, input_rate_hz), infer, lambda: classifier.engine_info, classifier)

    @property
    def classifier_options(self) -> dict[str, Any]:
        """What tells `Classifier` this one from the others of its bundle."""
        return {"engine": self.engine, "precision": self.precision, "exits": self.exits, "stateful": self.stateful}


def _replays(file: ModelFile) -> tuple[str, ...]:
    return (file.name, streamed_subject(file)) if isinstance(file, StatefulArtefact) else (file.name,)


def _chain(manifest: Manifest, subject: BundleSubject) -> ExitChain | StatefulChain | None:
    if not subject.exits:
        return None
    find = manifest.stateful_chain if subject.stateful else manifest.exit_chain
    return find(subject.files[0].format, subject.precision)


def bundle_subjects(bundle: Bundle, engine: str | None = None, forms: Sequence[Form] = ()) -> list[BundleSubject]:
    """All that the bundle has, form by form.

    Args:
        engine: only what this one runs; None is the first engine of each format. forms: only these; empty: all.
    Raises:
        ConfigError: it has none of that kind, or an unknown engine.
        UnsupportedError: no engine at all runs one of the formats.
    """
    format = None if engine is None else resolve("engines", engine).format
    found = [
        BundleSubject(bundle, form, engine or _engine_for(files[0]), tuple(files))
        for form, files in _files(bundle.manifest)
        if format in (None, files[0].format)
    ]
    if not found:
        has = ", ".join(item.name for item in bundle.manifest.artefacts)
        raise ConfigError(
            f"bundle {bundle.manifest.name!r} has no {format} artefact for engine {engine!r}; it has: {has}"
        )
    chosen = [subject for subject in found if not forms or subject.form in forms]
    if not chosen:
        has = ", ".join(dict.fromkeys(subject.form for subject in found))
        raise ConfigError(f"bundle {bundle.manifest.name!r} has no artefact in form {', '.join(forms)}; it has: {has}")
    return chosen


def _files(manifest: Manifest) -> Iterator[tuple[Form, Sequence[ModelFile]]]:
    stateful, exits = manifest.stateful, manifest.exits
    yield from (("windowed", [artefact]) for artefact in manifest.artefacts)
    yield from (("stateful", [artefact]) for artefact in (stateful.artefacts if stateful else ()))
    yield from (("exits", chain.stages) for chain in (exits.chains if exits else ()))
    yield from (("stateful-exits", chain.stages) for chain in (stateful.chains if stateful else ()))


def _engine_for(file: ModelFile) -> str:
    for name in ENGINES:
        if resolve("engines", name).format == file.format:
            return name
    raise UnsupportedError(f"no engine runs {file.name}; engines: {', '.join(ENGINES)}")
