"""Early exits of the stateful form: a stage that a hop did not need waits, and catches up when one needs it again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import numpy as np

from edgeaudio.bundle import Bundle, Stateful, StatefulChain, StatefulStage
from edgeaudio.catalog import resolve
from edgeaudio.runtime.cascade import checked_thresholds, stage_engines, stages_info, sure
from edgeaudio.runtime.confidence import TaskKind, to_probs
from edgeaudio.runtime.engines.base import Float32, Hidden
from edgeaudio.runtime.stateful import Answer, StatefulRunner, stream_answers


class StatefulCascade:
    """The stages of a stateful chain, each on an engine of its own. Streams of one thread may share it."""

    def __init__(
        self,
        stateful: Stateful,
        chain: StatefulChain,
        payload: Callable[[StatefulStage], bytes],
        *,
        engine: str,
        kind: TaskKind,
        thresholds: Sequence[float | None],
        threads: int = 1,
    ) -> None:
        """Build one engine per stage.

        Args:
            payload: the bytes of a stage. engine: a name of `edgeaudio list engines`.
            thresholds: one for each stage but the last; None is never reached.
        Raises:
            ConfigError: another number of thresholds, a threshold below 0, or an engine of another format.
            UnsupportedError, BundleError: as the engine.
        """
        self.thresholds = checked_thresholds(thresholds, chain.name, len(chain.stages))
        self.kind: TaskKind = kind
        self.macs_per_stage = stateful.macs_per_stage
        # After so many steps nothing is left in any state of what was before.
        self.memory_steps = stateful.warm_up_steps + 1
        #: Stages that take new frames, behind the first.
        self.on_frames = [stage.stage for stage in chain.stages[1:] if stage.takes_window]
        self._chain = chain
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
        """The chain of a bundle for that engine, with the thresholds of its windowed form unless others are given.

        Raises:
            ConfigError: the bundle has no stateful stages in that format and precision; and as the constructor.
        """
        manifest, format = bundle.manifest, resolve("engines", engine).format
        chain = manifest.stateful_chain(format, precision)
        assert manifest.stateful is not None
        return cls(
            manifest.stateful,
            chain,
            bundle.payload,
            engine=engine,
            kind=manifest.task.kind,
            thresholds=manifest.exit_chain(format, precision).thresholds if thresholds is None else thresholds,
            threads=threads,
        )

    @property
    def n_exits(self) -> int:
        """The final answer included."""
        return len(self.engines)

    @property
    def info(self) -> dict[str, str]:
        """Library and version, as `Engine.info`, with the number of stages."""
        return stages_info(self.engines)

    def open(self) -> CascadeRunner:
        """A stream's own states."""
        runners = [StatefulRunner(*pair) for pair in zip(self.engines, self._chain.stages, strict=True)]
        return CascadeRunner(self, runners)


class _Waiting(NamedTuple):
    """What a stage has not heard yet: the number of the step, and its frames or what the stage before gave in it."""

    turn: int
    values: Float32 | Hidden


class CascadeRunner:
    """As `StatefulRunner`, with exits. One instance per stream and thread.

    Every hop runs stage 0 and goes on until a stage is sure. A stage that it does not reach keeps what it should have
    heard, at most a window of it, for what is older has left every state by the time an answer is read. When a hop
    reaches the stage, it hears all that first, oldest first: then its states are those of a stream without exits.
    """

    def __init__(self, cascade: StatefulCascade, runners: Sequence[StatefulRunner]) -> None:
        self._cascade = cascade
        self._runners = tuple(runners)
        self.reset()

    def reset(self) -> None:
        """Forget everything: states are zeros."""
        self._turn = self._macs = self._catch_up_macs = 0
        for runner in self._runners:
            runner.reset()
        self._waiting: list[deque[_Waiting]] = [deque(maxlen=self._cascade.memory_steps) for _ in self._runners]

    def hear(self, log_mel: Float32) -> None:
        """The next `(step_frames, n_mels)`, to which no answer is wanted."""
        self._first(log_mel)

    def answer(self, log_mel: Float32) -> Answer:
        """The next `(step_frames, n_mels)` -> the answer of the first exit that is sure, or the final one."""
        thresholds, kind = self._cascade.thresholds, self._cascade.kind

        def enough(exit: int, logits: Float32) -> bool:
            return sure(to_probs(logits, kind), kind, thresholds[exit])

        return self.answer_until(log_mel, enough)

    def answer_until(self, log_mel: Float32, enough: Callable[[int, Float32], bool]) -> Answer:
        """As `answer`, but `enough(exit, logits)` says where to stop; it is not asked about the final answer."""
        exit, logits = 0, self._first(log_mel)
        while exit < len(self._runners) - 1 and not enough(exit, logits):
            exit += 1
            logits = self._catch_up(exit)
        macs, catch_up_macs = self._macs, self._catch_up_macs
        self._macs = self._catch_up_macs = 0
        return Answer(logits, exit, macs, catch_up_macs)

    def _first(self, log_mel: Float32) -> Float32:
        hidden, logits = self._runners[0].advance(log_mel, self._turn)
        if hidden is not None:
            self._waiting[1].append(_Waiting(self._turn, hidden))
        for stage in self._cascade.on_frames:
            # A copy: frames are a view of what came in, which may be much longer.
            self._waiting[stage].append(_Waiting(self._turn, log_mel.copy()))
        self._macs += self._cascade.macs_per_stage[0]
        self._turn += 1
        return logits

    def _catch_up(self, stage: int) -> Float32:
        """Let a stage hear all that waits for it; the logits of the newest."""
        waiting, runner = self._waiting[stage], self._runners[stage]
        macs = self._cascade.macs_per_stage[stage]
        self._macs += len(waiting) * macs
        self._catch_up_macs += (len(waiting) - 1) * macs
        while waiting:
            turn, values = waiting.popleft()
            following, logits = runner.advance(values, turn)
            if following is not None:
                self._waiting[stage + 1].append(_Waiting(turn, following))
        return logits


def chain_logits(runner: CascadeRunner, stateful: Stateful, log_mel: Float32) -> Float32:
    """Logits of every exit `(n_exits, windows, classes)` of a stream that never stops early; see `stream_answers`."""

    def all_exits(new: Float32) -> list[Float32]:
        logits: list[Float32] = []

        def on(exit: int, early: Float32) -> bool:
            logits.append(early)
            return False

        final = runner.answer_until(new, on).logits
        return [*logits, final]

    return np.stack(stream_answers(runner, stateful, log_mel, all_exits)).swapaxes(0, 1)
