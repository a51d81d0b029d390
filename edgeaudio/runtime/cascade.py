"""`Cascade`: the stages of a student with early exits, or students one after the other, until one is sure enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

import numpy as np

from edgeaudio.bundle import Bundle, ExitChain, ModelFile, StageArtefact
from edgeaudio.catalog import resolve
from edgeaudio.errors import ConfigError
from edgeaudio.runtime.confidence import TaskKind, confidence, to_probs
from edgeaudio.runtime.engines.base import Engine, Float32, Hidden

StageFile = TypeVar("StageFile", bound=ModelFile)


class ExitAnswer(NamedTuple):
    """Logits and probabilities `(classes,)` float32, and the number of the exit that gave them (the last is final)."""

    logits: Float32
    probs: Float32
    exit: int


class Cascade:
    """Runs stage after stage on one engine. One instance per thread.

    A window stops at the first exit whose confidence (`runtime.confidence`) is at least its threshold; a threshold
    of None, or above 1, is never reached.
    """

    def __init__(
        self,
        chain: ExitChain,
        payload: Callable[[StageArtefact], bytes],
        *,
        engine: str,
        kind: TaskKind,
        threads: int = 1,
        thresholds: Sequence[float | None] | None = None,
    ) -> None:
        """Build one engine per stage.

        Args:
            payload: the bytes of a stage. engine: a name of `edgeaudio list engines`.
            thresholds: instead of the chain's own; one for each stage but the last.
        Raises:
            ConfigError: another number of thresholds, a threshold below 0, or an engine of another format.
            UnsupportedError, BundleError: as the engine.
        """
        given = chain.thresholds if thresholds is None else thresholds
        self.thresholds = checked_thresholds(given, chain.name, len(chain.stages))
        self._kind: TaskKind = kind
        self._takes_window = [stage.takes_window for stage in chain.stages]
        #: One for each stage, in order.
        self.engines = stage_engines(chain.name, chain.stages, payload, engine=engine, threads=threads)

    @classmethod
    def of_bundle(
        cls,
        bundle: Bundle,
        *,
        engine: str,
        precision: str,
        threads: int = 1,
        thresholds: Sequence[float | None] | None = None,
    ) -> Self:
        """The chain of a bundle for that engine.

        Raises:
            ConfigError: the bundle has no early exits in that format and precision; and as the constructor.
        """
        chain = bundle.manifest.exit_chain(resolve("engines", engine).format, precision)
        kind = bundle.manifest.task.kind
        return cls(chain, bundle.payload, engine=engine, kind=kind, threads=threads, thresholds=thresholds)

    @property
    def n_exits(self) -> int:
        """The final answer included."""
        return len(self.engines)

    @property
    def info(self) -> dict[str, str]:
        """Library and version, as `Engine.info`, with the number of stages."""
        return stages_info(self.engines)

    def run(self, log_mel: Float32) -> ExitAnswer:
        """`(frames, n_mels)` float32 -> the answer of the first exit that is sure, or the final one."""
        for number, logits in enumerate(self._answers(log_mel)):
            probs = to_probs(logits, self._kind)
            if number == len(self.thresholds) or sure(probs, self._kind, self.thresholds[number]):
                break
        return ExitAnswer(logits, probs, number)

    def run_all(self, log_mel: Float32) -> Float32:
        """`(frames, n_mels)` float32 -> logits of every exit `(n_exits, classes)`, never stopping."""
        return np.stack(list(self._answers(log_mel)))

    def logits(self, windows: Float32) -> Float32:
        """`(n, frames, n_mels)` -> logits of every exit `(n_exits, n, classes)`, what calibration takes."""
        return np.stack([self.run_all(window) for window in windows], axis=1)

    def _answers(self, log_mel: Float32) -> Iterator[Float32]:
        """Logits of exit after exit, each computed when it is asked for."""
        hidden: Hidden | None = None
        for stage, takes_window in zip(self.engines, self._takes_window, strict=True):
            values = log_mel if takes_window else hidden
            assert values is not None  # The manifest has checked that the stage before leaves what this one takes.
            hidden, logits = stage.run_stage(values)
            yield logits


def checked_thresholds(thresholds: Sequence[float | None], name: str, n_stages: int) -> tuple[float | None, ...]:
    """Raise ConfigError unless there is one for each stage but the last of chain `name`, none below 0."""
    if len(thresholds) != n_stages - 1:
        raise ConfigError(f"{len(thresholds)} exit thresholds, {name} has {n_stages - 1} exits")
    for number, threshold in enumerate(thresholds):
        if threshold is not None and not threshold >= 0:  # NaN too.
            raise ConfigError(f"threshold of exit {number} is {threshold}, wanted at least 0, or None for never")
    return tuple(thresholds)


def sure(probs: Float32, kind: TaskKind, threshold: float | None) -> bool:
    """Whether an exit may stop at these probabilities `(classes,)`."""
    return threshold is not None and bool(confidence(probs, kind) >= threshold)


def stage_engines(
    name: str, stages: Sequence[StageFile], payload: Callable[[StageFile], bytes], *, engine: str, threads: int
) -> tuple[Engine, ...]:
    """One engine for each stage of the chain `name`.

    Raises:
        ConfigError: an unknown engine, or one of another format than the chain.
        UnsupportedError, BundleError: as the engine.
    """
    engine_class = resolve("engines", engine)
    if engine_class.format != stages[0].format:
        raise ConfigError(f"engine {engine!r} runs {engine_class.format}, the chain is {name}")
    return tuple(engine_class(stage, payload(stage), threads=threads) for stage in stages)


def stages_info(engines: Sequence[Engine]) -> dict[str, str]:
    """What the stages say of themselves, each different saying once, and how many they are."""
    said = [engine.info for engine in engines]
    keys = dict.fromkeys(key for info in said for key in info)
    joined = {key: "; ".join(dict.fromkeys(info[key] for info in said if key in info)) for key in keys}
    return joined | {"stages": str(len(engines))}
