"""An emulated processor as a device: what is counted there, and how estimates come of it. No emulator runs here."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.agent import AgentRequest, send_result
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.counting import NOTHING, OUTSIDE, Label, count_bundle
from edgeaudio.bench.devices import emulated, local
from edgeaudio.bench.devices.config import EmulatedSpec, spec_of
from edgeaudio.bench.devices.emulated import COUNTED_HOPS, PROCESSES, EmulatedDevice, EmulatedTransport
from edgeaudio.bench.devices.fake import Event, FakeBoard, FakeTransport
from edgeaudio.bench.devices.onboard import LOADER
from edgeaudio.bench.devices.protocol import MessageWriter
from edgeaudio.bench.emulation import CPUS, Emulator
from edgeaudio.bench.emulation.ipc import ASSUMED, Calibration, calibration_path, keep_calibrations
from edgeaudio.bench.schema import ArtefactResult, BenchOptions, BenchResult
from edgeaudio.bundle import Bundle, bundle_bytes
from edgeaudio.cli.main import main
from edgeaudio.errors import BenchInvalidError, ConfigError, UnsupportedError, VerificationError
from tests import bench_records as records
from tests.tiny_bundle import golden_entry, tiny_bundle, tiny_bytes
from tests.tiny_stateful import stateful_bundle

MARK = 900
INSTRUCTIONS = {"frontend": 50_000, "inference": 1_000_000, "decision": 7_000, "resample": 30_000}
BUNDLE = tiny_bundle("onnx-fp32", "tflite-int8")


@dataclass
class Played:
    """Plays the emulator: the agent's own counting code runs here, and this stands in for what the plugin writes.

    cost: instructions of a segment, by process and label. helped: those in which another thread worked.
    """

    folder: Path
    cost: Callable[[int, Label], int] = lambda process, label: INSTRUCTIONS.get(label.stage, 123_456)
    helped: Callable[[Label], bool] = lambda label: False
    spoil: Callable[[list[Label]], Any] = list
    change: Callable[[BenchResult], BenchResult] = lambda result: result
    requests: list[AgentRequest] = field(default_factory=list)

    def open(self, name: str, emulator: Emulator, counts: Path) -> FakeTransport:
        return FakeTransport(name, FakeBoard(self.folder / "board", lambda request: self.answer(request, counts)))

    def answer(self, request: AgentRequest, counts: Path) -> list[Event]:
        process = len(self.requests)
        self.requests.append(request)
        counted = count_bundle(
            self.bundle,
            request.artefacts,
            hops=request.counted_hops,
            options=request.options,
            device=request.device,
            run_id=request.run_id,
        )
        counts.write_text(self.plugin_lines(process, counted.labels))
        lines: list[bytes] = []
        writer = MessageWriter(lines.append)
        writer.send("segments", {"labels": self.spoil(counted.labels)})
        send_result(self.change(counted.result), writer.send)
        writer.bye()
        return [(0.1, line) for line in lines]

    def plugin_lines(self, process: int, labels: Sequence[Label]) -> str:
        own = others = 0
        lines = []
        for number, label in enumerate(labels):
            lines.append(f"mark {number % 1000} {own} {own + others}")
            own += MARK + (0 if label.stage == NOTHING else self.cost(process, label))
            others += 20_000 if self.helped(label) else 0
        return "\n".join([*lines, f"end {own + others}", ""])

    bundle: Bundle = BUNDLE


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No calibration of the user's, no emulator."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    qemu = tmp_path / "qemu"
    qemu.write_text("#!/bin/sh\necho qemu-aarch64 version 7.2.22\n")
    qemu.chmod(0o755)

    def install(cache: Path, *, cpu: str, **options: Any) -> Emulator:
        return Emulator(CPUS[cpu], str(qemu), tmp_path, (), tmp_path / "plugin.so", "")

    monkeypatch.setattr(emulated, "install", install)


def bench(tmp_path: Path, job: BenchJob | None = None, cpu: str = "cortex-a72", **played: Any) -> BenchResult:
    player = Played(tmp_path, **played)
    device = EmulatedDevice("a72", EmulatedSpec(cpu=cpu, folder=str(tmp_path / "board")), player.open)
    result = device.bench(job or BenchJob(player.bundle))
    assert len(player.requests) == PROCESSES
    assert not list((tmp_path / "board").iterdir())
    return result


def item(result: BenchResult, name: str = "onnx-fp32") -> ArtefactResult:
    return next(item for item in result.artefacts if item.artefact == name)


def test_an_estimate_has_instructions_and_no_time(tmp_path: Path) -> None:
    result = bench(tmp_path)
    assert (result.kind, result.verdict.level, result.board) == ("estimated", "valid", None)
    assert [found.artefact for found in result.artefacts] == ["onnx-fp32", "tflite-int8"]
    for found in result.artefacts:
        assert found.parity is not None
        assert found.parity.passed
        assert (found.n_hops, found.timed_s, found.stages, found.turns) == (0, 0.0, (), ())
        assert (found.load_ms, found.first_inference_ms, found.rtf_p50, found.load) == (None,) * 4
        estimate = found.estimate
        assert estimate is not None
        assert estimate.instructions_per_inference == INSTRUCTIONS["inference"]
        assert estimate.instructions_per_stage == {
            name: INSTRUCTIONS[name] for name in ("frontend", "inference", "decision")
        }
        assert (estimate.cpu, estimate.emulator) == ("cortex-a72", "qemu-aarch64 version 7.2.22")
        assert (estimate.spread_share, estimate.n_counts) == (0.0, PROCESSES * COUNTED_HOPS)


def test_the_band_is_that_of_the_table_and_assumed(tmp_path: Path) -> None:
    estimate = item(bench(tmp_path)).estimate
    assert estimate is not None
    assert (estimate.clock_mhz, estimate.ipc) == (ASSUMED["cortex-a72"].clock_mhz, ASSUMED["cortex-a72"].ipc)
    assert estimate.calibrated_on is None
    # A million instructions, at 1.5 and at 1.0 of them in each of 1500 million cycles a second.
    assert estimate.latency_ms == pytest.approx((1e6 / 1.5 / 1500e6 * 1e3, 1e6 / 1.0 / 1500e6 * 1e3))


def test_every_cpu_has_an_assumption() -> None:
    assert set(ASSUMED) == set(CPUS)
    assert all(0 < basis.ipc[0] < basis.ipc[1] and basis.calibrated_on is None for basis in ASSUMED.values())


def test_a_board_that_was_measured_takes_the_place_of_the_assumption(tmp_path: Path) -> None:
    made = Calibration(
        cpu="cortex-a72", engine="onnx", precision="fp32", board="Raspberry Pi 4", clock_mhz=1800, ipc=(1.2, 1.3),
        ipc_median=1.25, spread_share=0, n_artefacts=1, bundle_sha256="ef" * 32, run_ids=("a", "b"),
    )  # fmt: skip
    keep_calibrations([made, made.model_copy(update={"cpu": "cortex-a76"})], calibration_path())
    result = bench(tmp_path)
    measured, assumed = item(result).estimate, item(result, "tflite-int8").estimate
    assert measured is not None
    assert assumed is not None
    assert (measured.calibrated_on, measured.clock_mhz, measured.ipc) == ("Raspberry Pi 4", 1800, (1.2, 1.3))
    assert assumed.calibrated_on is None


def test_processes_that_count_differently_are_suspect(tmp_path: Path) -> None:
    def cost(process: int, label: Label) -> int:
        return 1_000_000 + 50_000 * process

    found = item(bench(tmp_path, cost=cost))
    assert found.estimate is not None
    assert found.estimate.spread_share == pytest.approx(50_000 / 1_025_000)
    assert [(reason.code, reason.level) for reason in found.verdict.reasons] == [("spread", "suspect")]


def test_hops_that_differ_alike_in_every_process_do_not_spread(tmp_path: Path) -> None:
    def cost(process: int, label: Label) -> int:
        return 1_000_000 if label.hop % 2 else 100_000

    found = item(bench(tmp_path, cost=cost)).estimate
    assert found is not None
    assert found.spread_share == 0


def test_a_hop_in_which_another_thread_worked_is_left_out(tmp_path: Path) -> None:
    def cost(process: int, label: Label) -> int:
        return 9_000_000 if label.hop == 3 else 1_000_000

    found = item(bench(tmp_path, cost=cost, helped=lambda label: label.hop == 3)).estimate
    assert found is not None
    assert found.n_counts == PROCESSES * (COUNTED_HOPS - 1)
    with pytest.raises(BenchInvalidError, match="other threads worked during inference"):
        bench(tmp_path, helped=lambda label: label.stage == "inference")


def test_what_lies_outside_the_stages_does_not_count(tmp_path: Path) -> None:
    def cost(process: int, label: Label) -> int:
        return 10**9 if label.stage == OUTSIDE else 1_000

    found = item(bench(tmp_path, cost=cost)).estimate
    assert found is not None
    # Between cleaning and the making of windows nothing was marked anew.
    assert found.instructions_per_stage == {"decision": 1_000, "frontend": 1_000, "inference": 1_000}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda labels: labels[:-2], "marks were counted"),
        (lambda labels: [label._replace(stage="frontend") for label in labels], "nobody counted what a mark costs"),
        (lambda labels: [[*label, 1] for label in labels], "not labelled"),
        (lambda labels: [[str(label.artefact), label.hop, label.stage] for label in labels], "a label that is none"),
        (lambda labels: None, "without a word on its marks"),
    ],
)
def test_marks_that_do_not_fit_are_refused(spoil: Callable[[list[Label]], Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((BenchInvalidError, VerificationError), match=said):
        bench(tmp_path, spoil=spoil)


def test_a_stateful_form_counts_its_steps_as_inference(tmp_path: Path) -> None:
    result = bench(tmp_path, bundle=stateful_bundle())
    found = item(result, "onnx-fp32-stateful").estimate
    assert found is not None
    # The step, and after it what is made of its answer.
    assert found.instructions_per_inference == 2 * INSTRUCTIONS["inference"]
    assert found.n_counts == PROCESSES * COUNTED_HOPS


def test_resampling_is_a_stage_of_its_own(tmp_path: Path) -> None:
    found = item(bench(tmp_path, BenchJob(BUNDLE, options=BenchOptions(input_rate_hz=48_000)))).estimate
    assert found is not None
    assert found.instructions_per_stage["resample"] >= INSTRUCTIONS["resample"]
    assert found.n_counts >= PROCESSES * COUNTED_HOPS


def test_what_cannot_run_there_is_listed_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = bench(tmp_path, cpu="cortex-a7")
    assert [found.artefact for found in result.artefacts] == ["tflite-int8"]
    assert [(found.artefact, "onnxruntime" in found.reason) for found in result.not_run] == [("onnx-fp32", True)]


def test_wrong_answers_are_not_counted(tmp_path: Path) -> None:
    wrong = BUNDLE.golden.logits["onnx-fp32"].copy()
    wrong[-1, 0] += 1
    golden = replace(BUNDLE.golden, logits={**BUNDLE.golden.logits, "onnx-fp32": wrong})
    manifest = BUNDLE.manifest.model_copy(update={"golden": golden_entry(golden)})
    payloads = {file.path: BUNDLE.payload(file) for file in manifest.model_files}
    (tmp_path / "wrong.eab").write_bytes(bundle_bytes(manifest, payloads, golden))
    result = bench(tmp_path, bundle=Bundle.read(tmp_path / "wrong.eab"))
    assert item(result).estimate is None
    assert {reason.code for reason in item(result).verdict.reasons} == {"parity", "too-few-samples"}
    assert item(result, "tflite-int8").verdict.level == "valid"


def test_processes_that_answer_differently_are_refused(tmp_path: Path) -> None:
    seen: list[BenchResult] = []

    def change(result: BenchResult) -> BenchResult:
        seen.append(result)
        first, *rest = result.artefacts
        assert first.parity is not None
        parity = first.parity.model_copy(update={"detail": f"process {len(seen)}"})
        return result.model_copy(update={"artefacts": (first.model_copy(update={"parity": parity}), *rest)})

    with pytest.raises(VerificationError, match="two processes answered differently"):
        bench(tmp_path, change=change)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "measured"}, "kind is 'measured', wanted 'estimated'"),
        ({"bundle_name": "another"}, "bundle_name"),
        ({"artefacts": {"timed_s": 1.0}}, "onnx-fp32: timed_s"),
        ({"artefacts": {"load_ms": 1.0}}, "onnx-fp32: load_ms"),
        ({"artefacts": {"estimate": records.estimated().artefacts[0].estimate}}, "onnx-fp32: estimate"),
    ],
)
def test_what_an_emulator_cannot_have_counted_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    def change(result: BenchResult) -> BenchResult:
        first, *rest = result.artefacts
        items = (first.model_copy(update=changes.get("artefacts", {})), *rest)
        return result.model_copy(update=changes | {"artefacts": items})

    with pytest.raises(VerificationError, match=said):
        bench(tmp_path, change=change)


def test_more_than_one_thread_is_refused(tmp_path: Path) -> None:
    device = EmulatedDevice("a72", EmulatedSpec(cpu="cortex-a72"), Played(tmp_path).open)
    with pytest.raises(ConfigError, match="one thread"):
        device.bench(BenchJob(BUNDLE, threads=4))


def test_a_device_that_is_not_set_up_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("EDGEAUDIO_CACHE", str(tmp_path / "cache"))
    device = EmulatedDevice("a72", EmulatedSpec(cpu="cortex-a72", cache=None), Played(tmp_path).open)
    with pytest.raises(UnsupportedError, match=r"devices setup a72|apt-get install"):
        device.look()


def test_only_the_agent_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(local, "ProcessChannel", lambda command, **options: started.append(list(command)))
    emulator = emulated.install(tmp_path, cpu="cortex-a72")
    transport = EmulatedTransport("a72", emulator, tmp_path / "counts.txt")
    for word in ("describe", "receive", "agent", "remove"):
        transport.start((*transport.python, "-c", LOADER, "9", word, "agent"), data=b"")
    assert [f"out={tmp_path}/counts.txt" in " ".join(command) for command in started] == [False, False, True, False]
    assert all(command[-4:-1] == [LOADER, "9", word] for command, word in zip(
        started, ("describe", "receive", "agent", "remove"), strict=True))  # fmt: skip


def test_without_a_file_the_cpu_is_enough() -> None:
    assert spec_of("emulated:cortex-a76", {}) == EmulatedSpec(cpu="cortex-a76")
    with pytest.raises(ConfigError, match="Did you mean 'cortex-a72'"):
        spec_of("emulated:cortex-a722", {})
    with pytest.raises(ConfigError, match="is a kind of device"):
        spec_of("emulated", {})


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command line gets emulated devices that are played; a bundle is in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("x.eab").write_bytes(tiny_bytes("onnx-fp32", "tflite-int8"))
    Path("devices.yaml").write_text(f"devices:\n  a72: {{kind: emulated, cpu: cortex-a72, folder: {tmp_path}/board}}\n")

    def opened(name: str, spec: EmulatedSpec) -> EmulatedDevice:
        return EmulatedDevice(name, spec, Played(tmp_path).open)

    monkeypatch.setattr(emulated, "open_emulated", opened)
    return tmp_path


def test_the_command_line_says_that_no_device_was_there(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "x.eab", "--device", "a72", "--out", "a.json"]) == 0
    shown = capsys.readouterr().out
    assert "estimated, no device" in shown
    assert "IPC assumed" in shown
    assert main(["bench", "x.eab", "--device", "a72", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "estimated"
    assert main(["bench", "compare", "a.json", "a.json", "--fail-if", "instructions>+2%"]) == 0


def test_the_devices_verbs_know_it(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "list"]) == 0
    assert "cortex-a72" in capsys.readouterr().out
    assert main(["devices", "probe", "a72", "--json"]) == 0
    board = json.loads(capsys.readouterr().out)["a72"]
    assert (board["cpu_model"], board["virtualised"], board["model"]) == ("cortex-a72, emulated", True, None)
    assert main(["devices", "doctor", "a72"]) == 0
    assert main(["devices", "setup"]) == 0
    assert main(["devices", "setup", "local"]) == 2
    assert "is not emulated" in capsys.readouterr().err


def test_a_machine_with_another_instruction_set_does_not_calibrate(
    played: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert main(["bench", "calibrate", "x.eab", "--device", "local", "--emulated", "cortex-a72"]) == 2
    assert "another instruction set (x86_64)" in capsys.readouterr().err
    assert not calibration_path().exists()
