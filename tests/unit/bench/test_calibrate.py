"""IPC from a board and its emulated processor: the right quotient, kept, and refused where it would say nothing."""

from __future__ import annotations

import json
import platform
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.bench.base import BenchJob, OnProgress
from edgeaudio.bench.calibrate import calibrate, clock_mhz, fit, instruction_set
from edgeaudio.bench.devices import emulated, local
from edgeaudio.bench.devices.config import EmulatedSpec
from edgeaudio.bench.devices.emulated import EmulatedDevice
from edgeaudio.bench.emulation.ipc import Calibration, basis_of, calibration_path, keep_calibrations, read_calibrations
from edgeaudio.bench.schema import BenchResult
from edgeaudio.cli.main import main
from edgeaudio.errors import BenchInvalidError, ConfigError, UnsupportedError
from tests import bench_records as records
from tests.tiny_bundle import tiny_bundle, tiny_bytes

#: As in `records`: a Raspberry Pi 4 at its clock.
CLOCK_MHZ = clock_mhz(records.result())


def counted(*names: str, instructions: int = 900_000, **changes: Any) -> BenchResult:
    """Artefacts of `records.result()`, counted on a Cortex-A72."""
    given = records.estimated()
    estimate = given.artefacts[0].estimate
    assert estimate is not None
    estimate = estimate.model_copy(update={"instructions_per_inference": instructions})
    like = {item.artefact: item for item in records.result().artefacts}
    bare = given.artefacts[0]
    items = tuple(
        bare.model_copy(
            update={
                "artefact": name, "engine": like[name].engine, "precision": like[name].precision,
                "engine_info": like[name].engine_info, "estimate": estimate,
            }
        )
        for name in names
    )  # fmt: skip
    return records.estimated(artefacts=items, **changes)


@dataclass
class Scripted:
    """A device that answers with a record."""

    result: BenchResult
    name: str = "pi4"
    place: str | None = "pi4"
    calls: int = 0

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        self.calls += 1
        return self.result


class Player(EmulatedDevice):
    """An emulated processor that answers with a record."""

    def __init__(self, result: BenchResult, cpu: str = "cortex-a72") -> None:
        super().__init__("played", EmulatedSpec(cpu=cpu))
        self.scripted = Scripted(result)

    def bench(
        self, job: BenchJob, *, on_progress: OnProgress | None = None, interrupted: threading.Event | None = None
    ) -> BenchResult:
        return self.scripted.bench(job)


@pytest.fixture
def on_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


JOB = BenchJob(tiny_bundle("onnx-fp32"))


def test_ipc_is_instructions_over_cycles() -> None:
    measured = records.result(records.artefact("onnx-int8", seed=2), ratios=(), not_run=())
    made = fit(measured, counted("onnx-int8", "tflite-int8"))
    stage = measured.artefacts[0].stage("inference")
    assert stage is not None
    assert stage.summary is not None
    assert stage.summary.p50.value_us is not None
    assert len(made) == 1
    wanted = 900_000 / (stage.summary.p50.value_us * CLOCK_MHZ)
    assert made[0].ipc_median == pytest.approx(wanted)
    assert made[0].ipc[0] <= wanted <= made[0].ipc[1]
    assert (made[0].cpu, made[0].engine, made[0].precision) == ("cortex-a72", "onnx", "int8")
    assert (made[0].board, made[0].clock_mhz) == ("Raspberry Pi 4 Model B Rev 1.4", CLOCK_MHZ)
    assert made[0].run_ids == (measured.run_id, "20261121T130000Z-4567cdef")


def test_artefacts_of_one_engine_and_precision_share_a_fit_and_its_spread() -> None:
    fast, slow = records.artefact("onnx-int8", seed=2), records.artefact("onnx-int8-exits", scale=2.0, seed=2)
    other = records.artefact("tflite-int8", seed=2)
    measured = records.result(fast, slow, other, ratios=(), not_run=())
    made = {item.engine: item for item in fit(measured, counted("onnx-int8", "onnx-int8-exits", "tflite-int8"))}
    assert (made["onnx"].n_artefacts, made["litert"].n_artefacts) == (2, 1)
    assert made["onnx"].ipc[1] / made["onnx"].ipc[0] >= 1.9
    assert made["onnx"].spread_share == pytest.approx(2 / 3, rel=0.05)
    assert made["litert"].spread_share == 0


def test_what_does_not_belong_together_is_refused() -> None:
    measured = records.result()
    for first, second, said in (
        (measured, measured, "an estimate"),
        (measured, counted("onnx-int8", bundle_sha256="00" * 32), "different bundles"),
        (records.result(threads=2), counted("onnx-int8"), "one thread"),
        (records.result(records.artefact("onnx-fp32"), ratios=()), counted("onnx-int8"), "no artefact"),
    ):
        with pytest.raises(ConfigError, match=said):
            fit(first, second)


def test_without_a_clock_there_is_no_fit() -> None:
    silent = records.board(records.sample(0, "before"), records.sample(3, frequencies_mhz=()))
    with pytest.raises(UnsupportedError, match="does not tell its clock"):
        fit(records.result(board=silent), counted("onnx-int8"))


def test_a_board_is_timed_then_its_processor_counted(on_arm: None) -> None:
    board, player = Scripted(records.result()), Player(counted("onnx-int8"))
    made, measured, _ = calibrate(board, player, JOB)
    assert (len(made), measured.kind) == (1, "measured")
    assert (board.calls, player.scripted.calls) == (1, 1)


def test_another_instruction_set_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    board = Scripted(records.result())
    with pytest.raises(ConfigError, match="another instruction set"):
        calibrate(board, Player(counted("onnx-int8")), JOB)
    assert board.calls == 0


def test_another_core_and_figures_that_must_not_be_used_are_refused(on_arm: None) -> None:
    with pytest.raises(ConfigError, match="Try --emulated cortex-a72"):
        calibrate(Scripted(records.result()), Player(counted("onnx-int8"), cpu="cortex-a76"), JOB)
    player = Player(counted("onnx-int8"))
    with pytest.raises(BenchInvalidError, match="slowed itself down"):
        calibrate(Scripted(records.planted()["throttled"]), player, JOB)
    assert player.scripted.calls == 0
    with pytest.raises(ConfigError, match="is emulated too"):
        calibrate(player, player, JOB)


def test_the_verb_keeps_what_it_fits(
    on_arm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("x.eab").write_bytes(tiny_bytes("onnx-fp32"))
    board, player = Scripted(records.result(), name="local"), Player(counted("onnx-int8", "onnx-fp32"))
    monkeypatch.setattr(local, "open_local", lambda name, spec: board)
    monkeypatch.setattr(emulated, "open_emulated", lambda name, spec: player)
    arguments = ["bench", "calibrate", "x.eab", "--device", "local", "--emulated", "cortex-a72"]
    assert main(arguments) == 0
    assert "Raspberry Pi 4 Model B Rev 1.4" in capsys.readouterr().out
    kept = read_calibrations(calibration_path())
    assert [(item.engine, item.precision) for item in kept] == [("onnx", "fp32"), ("onnx", "int8")]
    assert main([*arguments, "--out", "mine.json", "--json"]) == 0
    assert [item["precision"] for item in json.loads(capsys.readouterr().out)] == ["fp32", "int8"]
    assert read_calibrations(Path("mine.json")) == kept


@pytest.mark.parametrize(
    ("machine", "bits", "wanted"),
    [("aarch64", 64, "aarch64"), ("aarch64", 32, "armv7l"), ("armv7l", 32, "armv7l"), ("x86_64", 64, "x86_64")],
)
def test_the_system_and_not_the_kernel_is_the_instruction_set(machine: str, bits: int, wanted: str) -> None:
    assert instruction_set(machine, bits) == wanted


def test_a_new_fit_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new/ipc.json"
    assert read_calibrations(path) == ()
    first = fit(records.result(), counted("onnx-int8", "tflite-int8"))
    keep_calibrations(first, path)
    again = fit(records.result(), counted("onnx-int8", instructions=1_800_000))
    keep_calibrations(again, path)
    kept: dict[str, Calibration] = {item.engine: item for item in read_calibrations(path)}
    assert len(kept) == 2
    assert kept["onnx"] == again[0]
    assert basis_of("cortex-a72", "onnx", "int8", read_calibrations(path)).calibrated_on == again[0].board
    assert basis_of("cortex-a72", "onnx", "fp32", read_calibrations(path)).calibrated_on is None
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"ipc\.json"):
        read_calibrations(path)
