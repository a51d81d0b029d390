"""Guest instructions per inference of a bundle's artefacts, on emulated ARM cores: is int8 cheaper than fp32 there?

    python benchmarks/guest_instructions.py work/esc10/bundles/esc10-fold1.eab --out guest_instructions_esc10

writes OUT.json and OUT.md. The first run sets up the emulator in the cache folder (Debian or Ubuntu; network, about
250 MB, minutes; qemu-user is installed by root or must be there). Counts are of instructions only, never of time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from guest_ratios import Measurement, Result, markdown
from numpy.typing import NDArray
from recording import command_line, write_record

from edgeaudio.bench.emulation import MIRROR, Emulator, check_spread, default_cache, install, parse_counts
from edgeaudio.bundle import Artefact, Bundle
from edgeaudio.bundle.manifest import TensorInfo
from edgeaudio.errors import BenchInvalidError, ConfigError, EdgeAudioError, ParityError
from edgeaudio.runtime.engines.tensors import dequantise, quantise
from edgeaudio.runtime.selfcheck import logit_tolerance

GUEST = Path(__file__).with_name("guest_inference.py")
XNNPACK_LINE = "Created TensorFlow Lite XNNPACK delegate for CPU"
# Between two runs of one int8 artefact on two CPUs, rounding may differ by one step of its output.
INT8_STEPS = 1


@dataclass(frozen=True)
class Options:
    """How often to run what."""

    processes: int
    warm_up: int
    inferences: int
    deadline_s: float


def main() -> int:
    """See the module docstring."""
    arguments = parse_arguments()
    try:
        bundle = Bundle.read(arguments.bundle)
        artefacts = wanted_artefacts(bundle, arguments.artefact)
        options = Options(arguments.processes, arguments.warm_up, arguments.inferences, arguments.deadline)
        measurements = []
        for cpu in arguments.cpu:
            emulator = install(arguments.cache, cpu=cpu, mirror=arguments.mirror, progress=print)
            for artefact in artefacts:
                measurement = measure(emulator, bundle, artefact, options)
                measurements.append(measurement)
                print(f"{artefact.name} on {cpu}: {measurement.median:,} ({measurement.spread:.3%})", flush=True)
        result = Result(
            command=command_line(),
            bundle=bundle.manifest.name,
            bundle_sha256=bundle.sha256,
            emulator=emulator.version,
            processes=options.processes,
            inferences=options.inferences,
            measurements=tuple(measurements),
        )
    except EdgeAudioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_record(arguments.out, markdown(result), result)
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    parser.add_argument("--cpu", nargs="+", default=["cortex-a76", "cortex-a72"])
    parser.add_argument("--artefact", nargs="+", help="names such as onnx-int8; default all")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--mirror", default=MIRROR, help="Debian mirror for the guest's files")
    parser.add_argument("--processes", type=at_least_1, default=3)
    parser.add_argument("--warm-up", type=at_least_1, default=3, help="inferences before counting")
    parser.add_argument("--inferences", type=at_least_1, default=8, help="counted per process")
    parser.add_argument("--deadline", type=float, default=600, help="seconds for one guest process")
    return parser.parse_args()


def at_least_1(text: str) -> int:
    """For argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def wanted_artefacts(bundle: Bundle, names: list[str] | None) -> list[Artefact]:
    """The named artefacts, or all; ConfigError for a name that is not there."""
    there = {artefact.name: artefact for artefact in bundle.manifest.artefacts}
    unknown = [name for name in names or [] if name not in there]
    if unknown:
        raise ConfigError(f"--artefact {unknown[0]}: {bundle.source} has {', '.join(there)}")
    return [there[name] for name in names or there]


def measure(emulator: Emulator, bundle: Bundle, artefact: Artefact, options: Options) -> Measurement:
    """Run one artefact on one CPU model in fresh processes and check what came out.

    Raises:
        UnsupportedError: the guest failed or did not end in time.
        ParityError: it computes something else than the bundle promises.
        BenchInvalidError: it ran without XNNPACK, or the counts cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        folder = Path(name)
        request = prepare(folder, bundle, artefact, options)
        answers, pairs = zip(*runs(emulator, folder, artefact, options), strict=True)
        operators = answers[0]["operators"] or optimised_operators(Path(request["optimised"]))
    gap, tolerance = compare(bundle, artefact, answers[0])
    empty, conversion, *_ = pairs[0]
    measurement = Measurement(
        artefact=artefact.name,
        cpu=emulator.cpu.name,
        size_bytes=artefact.size_bytes,
        instructions=tuple(count for process in pairs for count in process[2:]),
        marker_instructions=empty,
        input_conversion=conversion - empty if artefact.input.dtype == "int8" else 0,
        max_abs_logit_diff=gap,
        tolerance=tolerance,
        operators=Counter(operators),
        whole_delegate=answers[0]["whole_delegate"],
        packages=answers[0]["packages"],
    )
    check_spread(f"{artefact.name} on {emulator.cpu.name}", measurement.instructions)
    return measurement


def prepare(folder: Path, bundle: Bundle, artefact: Artefact, options: Options) -> dict[str, Any]:
    """Put the verified model and the golden windows where the guest reads them; what it is asked."""
    (folder / "model").write_bytes(bundle.payload(artefact))
    np.save(folder / "log_mel.npy", bundle.golden.log_mel[:, None])
    quantised = artefact.input.dtype == "int8"
    request = {
        "format": artefact.format,
        "model": str(folder / "model"),
        "log_mel": str(folder / "log_mel.npy"),
        "optimised": str(folder / "optimised.onnx"),
        "scale": artefact.input.scale if quantised else None,
        "zero_point": artefact.input.zero_point if quantised else None,
        "warm_up": options.warm_up,
        "inferences": options.inferences,
    }
    (folder / "request.json").write_text(json.dumps(request))
    return request


def runs(
    emulator: Emulator, folder: Path, artefact: Artefact, options: Options
) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The guest's answer and the counts of each process."""
    counts, answer = folder / "counts.txt", folder / "answer.json"
    name = f"{artefact.name} on {emulator.cpu.name}"
    for _ in range(options.processes):
        request = folder / "request.json"
        said = emulator.run(name, GUEST, request, answer, counts=counts, deadline_s=options.deadline_s)
        if artefact.format == "tflite" and XNNPACK_LINE not in said.err:
            raise BenchInvalidError(f"{name}: LiteRT did not use XNNPACK; is /sys/devices/system/cpu in the cache?")
        yield json.loads(answer.read_text()), parse_counts(counts.read_text(), name)


def optimised_operators(graph: Path) -> list[str]:
    """The kernels of onnxruntime's optimised graph."""
    import onnx

    return [node.op_type for node in onnx.load(graph).graph.node]


def compare(bundle: Bundle, artefact: Artefact, answer: dict[str, Any]) -> tuple[float, float]:
    """Largest |logit - golden logit| of the guest, and its bound.

    Raises:
        ParityError: above the bound, or the guest's input was not what the runtime would give.
    """
    golden, info = bundle.golden.logits[artefact.name], artefact.outputs[-1]
    if answer["windows_sha256"] != hashlib.sha256(engine_input(bundle, artefact).tobytes()).hexdigest():
        raise ParityError(f"{artefact.name}: the guest quantised its input otherwise than edgeaudio's runtime")
    logits = np.array(answer["outputs"], info.dtype)
    if info.dtype == "int8":
        logits = dequantise(logits, *scale_of(info))
    gap = float(np.abs(logits - golden).max())
    step = output_step(bundle, artefact)
    tolerance = logit_tolerance(artefact, golden) if step is None else (INT8_STEPS + 1e-3) * step
    if not gap <= tolerance:
        raise ParityError(
            f"{artefact.name}: logits are {gap:.3g} from the golden ones in the guest, gate {tolerance:.3g}"
        )
    return gap, tolerance


def engine_input(bundle: Bundle, artefact: Artefact) -> NDArray[Any]:
    """`(n, 1, frames, n_mels)`: the golden windows in the type that the artefact takes."""
    log_mel = bundle.golden.log_mel[:, None]
    return quantise(log_mel, *scale_of(artefact.input)) if artefact.input.dtype == "int8" else log_mel


def scale_of(info: TensorInfo) -> tuple[float, int]:
    """Scale and zero point of an int8 tensor."""
    if info.scale is None or info.zero_point is None:
        raise ConfigError(f"{info.name}: is int8 without scale and zero_point in the manifest; export the bundle anew")
    return info.scale, info.zero_point


def output_step(bundle: Bundle, artefact: Artefact) -> float | None:
    """One quantisation step of the logits; None where they are float all the way."""
    if artefact.precision == "fp32" or artefact.format == "tflite":
        return artefact.outputs[-1].scale
    import onnx

    graph = onnx.load_from_string(bundle.payload(artefact)).graph
    constants = {item.name: item for item in graph.initializer}
    last = next(node for node in graph.node if graph.output[-1].name in node.output)
    if last.op_type != "DequantizeLinear":
        return artefact.outputs[-1].scale
    return float(onnx.numpy_helper.to_array(constants[last.input[1]]))


if __name__ == "__main__":
    sys.exit(main())
