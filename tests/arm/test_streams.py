"""`edgeaudio stream` in the guest decides what it decides here, and its front-end in C gives the same bits."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.frontend.native.stream import NativeStream
from tests import tiny_bundle as tiny
from tests.arm.guest import CPU_32, CPUS, CPUS_64, DEADLINE_S, ask, emulator, require_native
from tests.records import decided
from tests.tiny_early_exits import cascade_bytes, heard
from tests.tiny_stateful import stateful_bytes
from tests.tolerances import ARM_SCORE_FP32, ARM_SCORE_INT8

pytestmark = [pytest.mark.arm, pytest.mark.timeout(DEADLINE_S + 100)]

#: Name -> options; all decide by several windows each.
ENGINES = {
    f"{engine}-{precision}": ["--engine", engine, "--precision", precision]
    for engine in ("onnx", "litert")
    for precision in ("fp32", "int8")
}
FORMS = {
    "windowed": ["--frontend", "native"],
    "numpy": ["--frontend", "numpy"],
    "stateful": ["--stateful", "--frontend", "native"],
    "exits": ["--exits", "--frontend", "native"],
    "stateful-exits": ["--exits", "--stateful", "--frontend", "native"],
}
CASES = [f"{engine} {form}" for engine in ENGINES for form in FORMS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles and sounds that are streamed: those with exits are of a student, the others made by hand."""
    made = tmp_path_factory.mktemp("streams")
    (made / "hand.eab").write_bytes(stateful_bytes())
    (made / "student.eab").write_bytes(cascade_bytes())
    sf.write(made / "hand.wav", tiny.scene(), 16_000, subtype="FLOAT")
    sf.write(made / "student.wav", heard(4), 16_000, subtype="FLOAT")
    return made


def verb(folder: Path, case: str) -> list[str]:
    engine, form = case.split()
    which = "student" if "exits" in form else "hand"
    # Of random weights: no class of it reaches the usual threshold.
    decision = ["--threshold", "0.2"] if which == "student" else []
    paths = [str(folder / f"{which}.eab"), "--input", str(folder / f"{which}.wav")]
    return ["stream", *paths, *ENGINES[engine], *FORMS[form], *decision]


@functools.cache
def streams(cpu: str | None, folder: Path) -> Mapping[str, list[dict[str, Any]]]:
    """Case -> the records that it printed."""
    able = [case for case in CASES if cpu != CPU_32 or case.startswith("litert")]
    answers = ask(cpu, [verb(folder, case) for case in able]).of_verbs
    assert [answer.code for answer in answers] == [0] * len(able), [answer.err for answer in answers if answer.code]
    return {case: decided(answer.out) for case, answer in zip(able, answers, strict=True)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cpu", CPUS)
def test_a_stream_decides_in_the_guest_as_here(cpu: str, case: str, folder: Path) -> None:
    if "numpy" not in case:
        require_native(cpu)
    if cpu == CPU_32 and case.startswith("onnx"):
        pytest.skip("onnxruntime has no wheel for 32-bit ARM")
    there, here = streams(cpu, folder)[case], streams(None, folder)[case]
    assert len(here) >= 4
    scores = [np.array([record.pop("score") for record in map(dict.copy, side)]) for side in (there, here)]
    assert [without_score(record) for record in there] == [without_score(record) for record in here]
    assert np.abs(scores[0] - scores[1]).max() <= (ARM_SCORE_INT8 if "int8" in case else ARM_SCORE_FP32)


def without_score(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "score"}


@pytest.mark.parametrize("cpu", CPUS)
def test_the_front_end_in_c_gives_the_same_bits(cpu: str, tmp_path: Path) -> None:
    require_native(cpu)
    program, sound = tmp_path / "log_mel.py", tmp_path / "scene.npy"
    np.save(sound, tiny.scene())
    program.write_text(
        "import hashlib, sys, numpy\n"
        "from edgeaudio.frontend.native.stream import NativeStream\n"
        "from edgeaudio.spec import FrontendSpec\n"
        "print(hashlib.sha256(NativeStream(FrontendSpec()).feed(numpy.load(sys.argv[1])).tobytes()).hexdigest())\n"
    )
    here = hashlib.sha256(NativeStream(tiny.FRONTEND).feed(tiny.scene()).tobytes()).hexdigest()
    assert emulator(cpu).run("log-mel", program, sound, deadline_s=DEADLINE_S).out.strip() == here


@pytest.mark.parametrize("cpu", CPUS)
def test_what_runs_there_is_a_copy_without_what_trains(cpu: str) -> None:
    (doctor,) = ask(cpu, [["doctor", "--json"]]).of_verbs
    machine, engines = doctor.json["machine"], doctor.json["engines"]
    assert machine["architecture"] == ("armv7l" if cpu == CPU_32 else "aarch64")
    assert machine["cpu_flags"]["asimddp"] == (cpu == "cortex-a76")
    assert engines["litert"]
    assert engines["onnx"] == (cpu in CPUS_64)
    program = "import edgeaudio, importlib.util as u; print(edgeaudio.__file__, u.find_spec('edgeaudio.students'))"
    said = emulator(cpu).run("which edgeaudio", "-P", "-c", program, deadline_s=DEADLINE_S).out.split()
    assert said == [str(emulator(cpu).packages[0] / "edgeaudio/__init__.py"), "None"]


@pytest.mark.parametrize("cpu", CPUS)
def test_bench_runs_there(cpu: str, folder: Path) -> None:
    asked = ["bench", str(folder / "hand.eab"), "--min-hops", "20", "--min-seconds", "0", "--json"]
    (bench,) = ask(cpu, [asked]).of_verbs
    # What an emulator measures may be invalid; that it measures is what counts.
    assert bench.code in (0, 4), bench.err
    timed = {item["engine"] for item in bench.json["artefacts"]}
    assert timed == ({"litert"} if cpu == CPU_32 else {"onnx", "litert"})
