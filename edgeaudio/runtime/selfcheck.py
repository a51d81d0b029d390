"""`edgeaudio bundle check`: replay a bundle's golden vectors on the machine it stands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgeaudio.bundle import Bundle, ExitChain, ModelFile, StatefulArtefact, StatefulChain
from edgeaudio.catalog import ENGINES, resolve
from edgeaudio.errors import ParityError, UnsupportedError, VerificationError
from edgeaudio.frontend.choice import FrontendName, choose_frontend, make_frontend
from edgeaudio.frontend.reference import PARITY_GATE_LN, parity_gap_ln
from edgeaudio.runtime.cascade import Cascade
from edgeaudio.runtime.engines.base import Engine, Float32
from edgeaudio.runtime.stateful import StatefulRunner, stream_logits
from edgeaudio.runtime.stateful_cascade import StatefulCascade, chain_logits
from edgeaudio.runtime.stream_check import both_ways, chain_both_ways, proof_stream, stream_tolerance

# Bound on |logit - golden logit|. float32: other CPUs order their sums differently.
LOGIT_TOLERANCE_FP32 = 1e-3
# int8 output: one step where a rounding tips over, and one more where it does so twice on the way.
LOGIT_TOLERANCE_INT8_STEPS = 2
# int8 inside but float output, with no step to count: this share of the spread of the golden logits.
LOGIT_TOLERANCE_INT8_SPREAD = 0.05
# tflite-runtime runs int8 by kernels of its own, which round otherwise than XNNPACK in every layer: measured on three
# students under armv7, up to 3 steps on golden windows and 5 on 180 others.
_LOGIT_TOLERANCE_STEPS_OF = {"tflite-runtime": 6}


@dataclass(frozen=True)
class CheckItem:
    """One replay: `subject` ("frontend", an artefact or a stage of a chain) on `engine`.

    figure: largest difference to the golden vectors; gate: its bound; both in `unit`. None when not run. library: what
    answered, such as "onnxruntime 1.23.0".
    """

    subject: str
    engine: str
    status: Literal["passed", "failed", "not run"]
    unit: str = ""
    figure: float | None = None
    gate: float | None = None
    argmax_agreement: float | None = None
    reason: str = ""
    library: str = ""

    def __str__(self) -> str:
        measured = "" if self.figure is None else f": {self.figure:.2e} {self.unit}, gate {self.gate:.2e}"
        measured += f", by {self.library}" if self.library else ""
        return f"{self.subject} on {self.engine} {self.status}{measured}{': ' + self.reason if self.reason else ''}"


@dataclass(frozen=True)
class CheckReport:
    """All replays of one bundle. What could not run here is listed as "not run", never left out."""

    bundle: str
    sha256: str
    items: tuple[CheckItem, ...]

    @property
    def failed(self) -> tuple[CheckItem, ...]:
        """The replays above their gate, or that broke."""
        return tuple(item for item in self.items if item.status == "failed")

    @property
    def not_run(self) -> tuple[CheckItem, ...]:
        """The replays that this machine could not do."""
        return tuple(item for item in self.items if item.status == "not run")

    @property
    def complete(self) -> bool:
        """Whether everything was replayed and passed."""
        return not self.failed and not self.not_run

    def raise_if_failed(self) -> None:
        """Raise unless all that ran has passed and at least one artefact ran.

        Raises:
            ParityError: naming each failed artefact with its figure and gate.
            UnsupportedError: no artefact could run on this machine.
        """
        if self.failed:
            raise ParityError(f"bundle {self.bundle!r}: " + "; ".join(map(str, self.failed)))
        if not any(item.status == "passed" for item in self.items if item.subject != "frontend"):
            raise UnsupportedError(f"bundle {self.bundle!r}: no artefact ran: " + "; ".join(map(str, self.not_run)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        items = [vars(item) for item in self.items]
        return {"bundle": self.bundle, "sha256": self.sha256, "complete": self.complete, "items": items}


def check_bundle(
    bundle: Bundle, engines: Iterable[str] | None = None, frontends: Iterable[FrontendName] | None = None
) -> CheckReport:
    """Replay the golden vectors through the front-ends and each artefact and chain on each engine of its format.

    Stateful artefacts are also streamed beside the windowed form of theirs, which they must equal.

    Args:
        engines: names of `edgeaudio list engines`; None is all of them.
        frontends: None is all that can run here; native is a choice, so that where it is not built nothing is missing.
    Raises:
        ConfigError: an engine name is unknown.
        UnsupportedError: the native front-end was asked for and cannot run here.
    """
    names = list(ENGINES) if engines is None else list(engines)
    classes = {name: resolve("engines", name) for name in names}
    if frontends is None:
        frontends = dict.fromkeys(("numpy", choose_frontend(bundle.manifest.frontend, "auto").name))
    items = [_check_frontend(bundle, name) for name in frontends]
    for artefact in bundle.manifest.artefacts:
        able = {name: engine for name, engine in classes.items() if engine.format == artefact.format}
        items += [_check_artefact(bundle, artefact, name, engine) for name, engine in able.items()]
        if not able:
            items.append(_no_engine(artefact.name, artefact.format, names))
    for chain in bundle.manifest.exits.chains if bundle.manifest.exits else ():
        format = chain.stages[0].format
        fitting = [name for name, engine in classes.items() if engine.format == format]
        for name in fitting:
            items += _check_chain(bundle, chain, name)
        if not fitting:
            items.append(_no_engine(chain_subject(chain), format, names))
    stateful = bundle.manifest.stateful
    for stepped in stateful.artefacts if stateful else ():
        able = {name: engine for name, engine in classes.items() if engine.format == stepped.format}
        for name, engine in able.items():
            items += _check_stateful(bundle, stepped, name, engine)
        if not able:
            items.append(_no_engine(stepped.name, stepped.format, names))
    for stepped_chain in stateful.chains if stateful else ():
        format = stepped_chain.stages[0].format
        fitting = [name for name, engine in classes.items() if engine.format == format]
        for name in fitting:
            items += _check_stateful_chain(bundle, stepped_chain, name)
        if not fitting:
            items.append(_no_engine(chain_subject(stepped_chain), format, names))
    return CheckReport(bundle.manifest.name, bundle.sha256, tuple(items))


def chain_subject(chain: ExitChain | StatefulChain) -> str:
    """What a chain is called where none of its stages could be replayed."""
    return f"{'stateful ' if isinstance(chain, StatefulChain) else ''}stages of {chain.name}"


def streamed_subject(artefact: StatefulArtefact) -> str:
    """What the second replay of a stateful artefact is called; the first has its name."""
    return f"{artefact.name}, streamed against windows,"


def _no_engine(subject: str, format: str, names: list[str]) -> CheckItem:
    return CheckItem(subject, "(none)", "not run", reason=f"none of the engines {names} runs {format}")


def _check_frontend(bundle: Bundle, name: FrontendName) -> CheckItem:
    spec, golden = bundle.manifest.frontend, bundle.golden
    stream = make_frontend(spec, name)
    gap_ln = 0.0
    for waveform, log_mel in zip(golden.waveform, golden.log_mel, strict=True):
        stream.reset()
        gap_ln = max(gap_ln, parity_gap_ln(stream.feed(waveform), log_mel, spec))
    status: Literal["passed", "failed"] = "passed" if gap_ln <= PARITY_GATE_LN else "failed"
    return CheckItem("frontend", name, status, "ln", gap_ln, PARITY_GATE_LN)


def _check_artefact(bundle: Bundle, artefact: ModelFile, name: str, engine_class: Any) -> CheckItem:
    try:
        engine: Engine = engine_class(artefact, bundle.payload(artefact), threads=1)
        logits = np.stack([engine.run(log_mel) for log_mel in bundle.golden.log_mel])
    except UnsupportedError as error:
        return CheckItem(artefact.name, name, "not run", reason=str(error))
    except VerificationError as error:
        return CheckItem(artefact.name, name, "failed", reason=str(error))
    return _compare(artefact, name, engine.info, logits, bundle.golden.logits[artefact.name])


def _check_chain(bundle: Bundle, chain: ExitChain, name: str) -> list[CheckItem]:
    """One item per stage: each takes what the stage before left here, as on a device."""
    try:
        cascade = Cascade.of_bundle(bundle, engine=name, precision=chain.stages[0].precision)
        logits = cascade.logits(bundle.golden.log_mel)
    except UnsupportedError as error:
        return [CheckItem(chain_subject(chain), name, "not run", reason=str(error))]
    except VerificationError as error:
        return [CheckItem(chain_subject(chain), name, "failed", reason=str(error))]
    golden, info = bundle.golden.logits, cascade.info
    return [_compare(stage, name, info, logits[stage.stage], golden[stage.name]) for stage in chain.stages]


def _check_stateful(bundle: Bundle, artefact: StatefulArtefact, name: str, engine_class: Any) -> list[CheckItem]:
    """Two items: the golden windows from a fresh start, and a stream against the windows in it."""
    stateful = bundle.manifest.stateful
    assert stateful is not None
    try:
        engine: Engine = engine_class(artefact, bundle.payload(artefact), threads=1)
        runner = StatefulRunner(engine, artefact)
        logits = np.concatenate([stream_logits(runner, stateful, log_mel) for log_mel in bundle.golden.log_mel])
        streamed, windowed = both_ways(bundle, artefact, engine_class, proof_stream(bundle))
    except UnsupportedError as error:
        return [CheckItem(artefact.name, name, "not run", reason=str(error))]
    except VerificationError as error:
        return [CheckItem(artefact.name, name, "failed", reason=str(error))]
    golden = _compare(artefact, name, engine.info, logits, bundle.golden.logits[artefact.name])
    return [golden, _streamed(artefact, name, engine.info, streamed, windowed)]


def _check_stateful_chain(bundle: Bundle, chain: StatefulChain, name: str) -> list[CheckItem]:
    """As `_check_stateful`, for each stage; the stream stops at changing exits, so that stages catch up."""
    stateful = bundle.manifest.stateful
    assert stateful is not None
    try:
        cascade = StatefulCascade.of_bundle(bundle, engine=name, precision=chain.stages[0].precision)
        runner, golden = cascade.open(), bundle.golden
        logits = np.concatenate([chain_logits(runner, stateful, log_mel) for log_mel in golden.log_mel], axis=1)
        pairs = chain_both_ways(bundle, chain, name, proof_stream(bundle))
    except UnsupportedError as error:
        return [CheckItem(chain_subject(chain), name, "not run", reason=str(error))]
    except VerificationError as error:
        return [CheckItem(chain_subject(chain), name, "failed", reason=str(error))]
    items = []
    for stage, answers, pair in zip(chain.stages, logits, pairs, strict=True):
        items.append(_compare(stage, name, cascade.info, answers, golden.logits[stage.name]))
        items.append(_streamed(stage, name, cascade.info, *pair))
    return items


def _streamed(
    artefact: StatefulArtefact, name: str, info: Mapping[str, str], streamed: Float32, windowed: Float32
) -> CheckItem:
    item = _compare(artefact, name, info, streamed, windowed, gate=stream_tolerance(artefact, windowed))
    return replace(item, subject=streamed_subject(artefact))


def _compare(
    artefact: ModelFile,
    name: str,
    info: Mapping[str, str],
    logits: Float32,
    golden: Float32,
    *,
    gate: float | None = None,
) -> CheckItem:
    gate = logit_tolerance(artefact, golden, info["library"]) if gate is None else gate
    figure = float(np.abs(logits - golden).max())
    same_top = logits.argmax(axis=1) == golden.argmax(axis=1)
    # Where the wanted logits themselves nearly tie, another top class within the gate is no fault.
    clear = _top_margin(golden) > gate
    passed = figure <= gate and bool(same_top[clear].all())
    return CheckItem(
        subject=artefact.name,
        engine=name,
        status="passed" if passed else "failed",
        unit="logit",
        figure=figure,
        gate=gate,
        argmax_agreement=float(same_top.mean()),
        reason="" if passed or figure > gate else "another top class than it should be",
        library=f"{info['library']} {info['version']}",
    )


def logit_tolerance(artefact: ModelFile, golden: Float32, library: str = "") -> float:
    """Largest |difference| in logits that `artefact` may show against its golden logits `(n, classes)`.

    Args:
        library: what runs it, as in `Engine.info`; by default none that has a bound of its own.
    """
    if artefact.precision == "fp32":
        return LOGIT_TOLERANCE_FP32
    scale = artefact.outputs[-1].scale
    if scale is not None:
        steps = _LOGIT_TOLERANCE_STEPS_OF.get(library, LOGIT_TOLERANCE_INT8_STEPS)
        # The float form of a step count: half a step more would let the next step in, a thousandth only rounding.
        return (steps + 1e-3) * scale
    return LOGIT_TOLERANCE_INT8_SPREAD * float(golden.max() - golden.min())


def _top_margin(logits: Float32) -> Float32:
    """`(n, classes)` -> `(n,)`: how far the best class is above the second; infinite where there is one class."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf, np.float32)
    ordered = np.sort(logits, axis=1)
    margin: Float32 = ordered[:, -1] - ordered[:, -2]
    return margin
