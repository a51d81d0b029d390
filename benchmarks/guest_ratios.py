"""What guest_instructions.py counted: the result with its ratios, as a table. Pure; starts nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import computed_field

from edgeaudio.bench.emulation import LABEL
from edgeaudio.bench.emulation.counts import spread
from edgeaudio.spec import Spec

#: int8 over fp32, instructions per inference: what we want, and what we would like.
BAR, STRETCH = 0.5, 0.35


class Measurement(Spec):
    """One artefact on one CPU model.

    instructions: per inference, all inferences of all processes. marker_instructions: counted between two markers
    with nothing between them; not subtracted. input_conversion: float32 log-mel to the artefact's int8 input as the
    runtime does it, in NumPy; not part of `instructions`; 0 where the artefact takes float32. operators: kernels per
    inference (ONNX: of the optimised graph). whole_delegate: one XNNPACK delegate runs all of it; None for ONNX.
    """

    artefact: str
    cpu: str
    size_bytes: int
    instructions: tuple[int, ...]
    marker_instructions: int
    input_conversion: int
    max_abs_logit_diff: float
    tolerance: float
    operators: Mapping[str, int]
    whole_delegate: bool | None
    packages: Mapping[str, str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def median(self) -> int:
        """Instructions per inference."""
        return int(statistics.median(self.instructions))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return spread(self.instructions)


class Ratio(Spec):
    """int8 over fp32 of one format on one CPU model."""

    format: str
    cpu: str
    fp32: int
    int8: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float:
        """Below 1 where int8 needs fewer instructions."""
        return self.int8 / self.fp32

    @property
    def verdict(self) -> str:
        """Which of the two bars it meets."""
        if self.value <= STRETCH:
            return f"within {STRETCH} (stretch)"
        return f"within {BAR}" if self.value <= BAR else f"above {BAR}"


class Result(Spec):
    """All measurements of one bundle."""

    label: str = LABEL
    command: str
    bundle: str
    bundle_sha256: str
    emulator: str
    processes: int
    inferences: int
    measurements: tuple[Measurement, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratios(self) -> list[Ratio]:
        """One for each format and CPU that has both precisions, in the order measured."""
        medians = {(item.artefact, item.cpu): item.median for item in self.measurements}
        return [
            Ratio(format=name.removesuffix("-int8"), cpu=cpu, fp32=medians[fp32, cpu], int8=int8)
            for (name, cpu), int8 in medians.items()
            if name.endswith("-int8") and (fp32 := name.replace("-int8", "-fp32"), cpu) in medians
        ]


def markdown(result: Result) -> str:
    """The result for people."""
    lines = [
        f"# Guest instructions per inference: {result.bundle}",
        "",
        f"    {result.command}",
        "",
        f"**{result.label}.** {result.emulator}, user mode, one thread; {result.processes} processes of "
        f"{result.inferences} inferences each after warm-up, median over all; spread is (largest - smallest) / median. "
        f"Bundle {result.bundle_sha256[:12]}. Instructions are not time: no caches, no memory, no clock.",
        "",
        "| format | CPU model | fp32 | int8 | int8 / fp32 | bar |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {r.format} | {r.cpu} | {r.fp32:,} | {r.int8:,} | **{r.value:.3f}** | {r.verdict} |"
            for r in result.ratios
        ),
        "",
        "| artefact | CPU model | instructions | spread | + input to int8 | file, bytes | largest logit difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, result.measurements),
        "",
        "The last column is against the bundle's golden logits, with its gate. What turns the input to int8 is the "
        "runtime's NumPy; it is not in the counts and ratios. Kernels per inference, as the engine runs them:",
        "",
        *_operator_lines(result.measurements),
        "",
        f"Packages in the guest: {_pairs(_all_packages(result.measurements))}.",
        "",
    ]
    return "\n".join(lines)


def _row(item: Measurement) -> str:
    conversion = f"{item.input_conversion:,}" if item.input_conversion else ""
    return (
        f"| {item.artefact} | {item.cpu} | {item.median:,} | {item.spread:.3%} | {conversion} | "
        f"{item.size_bytes:,} | {item.max_abs_logit_diff:.2g} ({item.tolerance:.2g}) |"
    )


def _operator_lines(measurements: Sequence[Measurement]) -> list[str]:
    where = {None: "", True: ", all in one XNNPACK delegate", False: ", NOT all in one XNNPACK delegate"}
    lines = [
        f"- {item.artefact}, {item.cpu}{where[item.whole_delegate]}: {_pairs(item.operators, ' × ')}"
        for item in measurements
    ]
    return [line for index, line in enumerate(lines) if line not in lines[:index]]


def _all_packages(measurements: Sequence[Measurement]) -> dict[str, str]:
    return {name: text for item in measurements for name, text in item.packages.items()}


def _pairs(items: Mapping[str, object], separator: str = " ") -> str:
    return ", ".join(f"{name}{separator}{value}" for name, value in sorted(items.items()))
