"""Verbs on a real bundle and real files; results on stdout, everything else on stderr."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from edgeaudio.bench import harness
from edgeaudio.bench.governor import performance_governor
from edgeaudio.bundle import Golden, write_bundle
from edgeaudio.cli.main import main
from edgeaudio.frontend.native.stream import EXTENSION
from tests import tiny_bundle as tiny
from tests.boards import recorded_board
from tests.frontends import FRONTENDS
from tests.records import decided
from tests.tiny_chained import chained_bytes


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "tiny.eab"
    path.write_bytes(tiny.tiny_bytes())
    return str(path)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    root = tmp_path / "sounds"
    for label in ("low", "high"):
        (root / label).mkdir(parents=True)
        for i in range(3):
            sf.write(root / label / f"{i}.wav", tiny.noise_band(label, 8_000, seed=i), 16_000)
    # One clip in the wrong folder: two thirds of "high" can be right.
    sf.write(root / "high" / "0.wav", tiny.noise_band("low", 8_000, seed=9), 16_000)
    return root


def result(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main([*arguments, "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main([*arguments]) == code
    return capsys.readouterr().out


def test_bundle_show_gives_all_of_the_manifest(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = result(capsys, "bundle", "show", bundle)
    assert shown["name"] == "tiny"
    assert [item["name"] for item in shown["artefacts"]] == ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-int8"]
    page = text(capsys, "bundle", "show", bundle)
    assert "tflite-int8" in page
    assert shown["sha256"] in page


def test_bundle_check_passes_what_is_whole(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = result(capsys, "bundle", "check", bundle)
    assert report["complete"] is True
    assert "passed" in text(capsys, "bundle", "check", bundle, "--engine", "onnx")


def test_a_damaged_bundle_is_exit_code_3(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(bundle).read_bytes())
    data[len(data) // 2] ^= 1
    Path(bundle).write_bytes(data)
    assert main(["bundle", "check", bundle]) == 3
    assert capsys.readouterr().err.startswith(f"error: {bundle}")


@pytest.fixture
def wrong_bundle(tmp_path: Path) -> str:
    """Whole, but its golden answers are not those of its model."""
    whole = tiny.tiny_bundle("onnx-fp32")
    wrong = Golden(whole.golden.waveform, whole.golden.log_mel, {"onnx-fp32": whole.golden.logits["onnx-fp32"] + 1})
    payload = {artefact.path: whole.payload(artefact) for artefact in whole.manifest.artefacts}
    write_bundle(tmp_path / "wrong.eab", tiny.manifest(whole.manifest.artefacts, wrong), payload, wrong)
    return str(tmp_path / "wrong.eab")


def test_an_answer_outside_its_gate_is_exit_code_3(wrong_bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = result(capsys, "bundle", "check", wrong_bundle, code=3)
    assert report["complete"] is False
    assert "failed" in text(capsys, "bundle", "check", wrong_bundle, code=3)


def test_eval_counts_clips(bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "eval", bundle, str(sounds))
    assert (found["n_clips"], found["n_correct"]) == (6, 5)
    assert found["by_label"] == {"low": 1.0, "high": pytest.approx(2 / 3)}
    assert found["artefact"] == "onnx-fp32"
    assert "accuracy" in text(capsys, "eval", bundle, str(sounds), "--engine", "litert", "--precision", "int8")


def test_eval_lists_what_it_cannot_decode(bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sounds / "low" / "broken.wav").write_bytes(b"RIFF")
    found = result(capsys, "eval", bundle, str(sounds))
    assert found["n_clips"] == 6
    assert list(found["skipped"]) == ["low/broken.wav"]


def test_eval_refuses_labels_that_the_bundle_lacks(
    bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sounds / "low").rename(sounds / "lowe")
    assert main(["eval", bundle, str(sounds)]) == 2
    assert "the bundle has no label 'lowe'. Did you mean 'low'?" in capsys.readouterr().err


def test_asking_for_a_missing_artefact_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.eab"
    path.write_bytes(tiny.tiny_bytes("onnx-fp32"))
    assert main(["stream", str(path), "--input", "x.wav", "--precision", "int8"]) == 2
    assert "it has: onnx-fp32" in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_exit_code_6(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeaudio import catalog

    monkeypatch.setitem(catalog.ENGINES, "onnx", "edgeaudio_missing_package.engine:Engine")
    assert main(["stream", bundle, "--input", "x.wav"]) == 6
    assert "edgeaudio doctor" in capsys.readouterr().err


def test_stream_prints_one_json_object_per_event(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000, subtype="FLOAT")
    assert main(["stream", bundle, "--input", str(tmp_path / "scene.wav")]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [event["label"] for event in events if event["event"] == "end"] == ["low", "high", "mid"]
    assert "heard 2.00 s (32000 samples at 16000 Hz)" in captured.err


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_the_front_end_is_chosen_and_reported(
    frontend: str, bundle: str, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert result(capsys, "eval", bundle, str(sounds), "--frontend", frontend)["engine"]["frontend"] == frontend
    sf.write(tmp_path / "scene.wav", tiny.scene(), 16_000, subtype="FLOAT")
    assert main(["stream", bundle, "--input", str(tmp_path / "scene.wav"), "--frontend", frontend]) == 0
    assert capsys.readouterr().err.endswith(f"log-mel by {frontend}\n")
    few = ("--artefact", "onnx-fp32", "--min-hops", "1", "--min-seconds", "0", "--frontend", frontend)
    assert main(["bench", bundle, *few]) in (0, 4)
    assert f"log-mel by {frontend}" in capsys.readouterr().out


def test_the_governor_is_left_alone_unless_the_option_is_given(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = recorded_board("x86-laptop", tmp_path)
    governor = root / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    held = functools.partial(performance_governor, root=root, folder=tmp_path / "journal")
    monkeypatch.setattr(harness, "performance_governor", held)
    few = ("--artefact", "onnx-fp32", "--min-hops", "1", "--min-seconds", "0", "--json")
    assert main(["bench", bundle, *few]) in (0, 4)
    assert not (tmp_path / "journal").exists()
    assert main(["bench", bundle, *few, "--set-performance", "--idle", "0.01"]) in (0, 4)
    assert (tmp_path / "journal").exists()
    assert governor.read_text() == "powersave\n"
    governor.with_name("scaling_available_governors").write_text("powersave\n")
    assert main(["bench", bundle, *few, "--set-performance"]) == 6
    assert "policy0/scaling_governor offers only powersave" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["stream", "eval", "bench"])
def test_a_native_front_end_that_is_not_built_is_exit_code_6(
    verb: str, bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    arguments = {"stream": ["--input", str(sounds / "low" / "0.wav")], "eval": [str(sounds)], "bench": []}[verb]
    assert main([verb, bundle, *arguments, "--frontend", "native"]) == 6
    assert "apt install gcc python3-dev" in capsys.readouterr().err
    assert main([verb, bundle, *arguments, "--frontend", "nativ"]) == 2
    assert "native" in capsys.readouterr().err


def test_auto_says_why_it_took_numpy(
    bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, EXTENSION, None)
    assert main(["stream", bundle, "--input", str(sounds / "low" / "0.wav")]) == 0
    assert "log-mel by numpy (edgeaudio.frontend.native._logmel is not built here" in capsys.readouterr().err


@pytest.mark.parametrize("chunk_samples", [1, 333, 100_000])
def test_stream_hears_the_same_in_raw_pcm_of_any_chunk(
    bundle: str, tmp_path: Path, chunk_samples: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = tiny.scene()[:14_000]
    sf.write(tmp_path / "scene.wav", waveform, 16_000, subtype="FLOAT")
    assert main(["stream", bundle, "--input", str(tmp_path / "scene.wav")]) == 0
    from_file = decided(capsys.readouterr().out)
    stdin = SimpleNamespace(buffer=io.BytesIO(waveform.astype("<f4").tobytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    chunk = ["--chunk-samples", str(chunk_samples)]
    assert main(["stream", bundle, "--input", "-", "--format", "f32le", *chunk]) == 0
    assert decided(capsys.readouterr().out) == from_file != []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "absent.wav"], 2, "absent.wav"),
        (["--input", "a.wav", "--sample-rate", "8000"], 2, "knows its own"),
        (["--input", "-", "--format", "s16l"], 2, "Did you mean 's16le'?"),
        (["--input", "-", "--sample-rate", "1"], 2, "1"),
        (["--input", "a.wav", "--engine", "onxx"], 2, "Did you mean 'onnx'?"),
    ],
)
def test_stream_refuses_what_it_cannot_hear(
    bundle: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    assert main(["stream", bundle, *arguments]) == code
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_a_stream_with_a_summary_and_130(bundle: str) -> None:
    code = "import sys; from edgeaudio.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "stream", bundle, "--input", "-", "--chunk-samples", "160"]
    pcm = (tiny.noise_band("low", 8_000) * 32_767).astype("<i2").tobytes()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(pcm)
        process.stdin.flush()
        # The start of the event is out while the input is still open: nothing is held back.
        assert json.loads(process.stdout.readline())["event"] == "start"
        process.send_signal(signal.SIGINT)
        assert json.loads(process.stdout.readline())["event"] == "end"
        assert process.wait() == 130
        messages = process.stderr.read().decode().splitlines()
    assert messages[0].startswith("heard 0.")
    assert messages[1:] == ["interrupted"]


def test_data_synth_then_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "synth")
    options = ["--clips-per-class", "2", "--folds", "2"]
    assert result(capsys, "data", "synth", "--out", out, *options)["folder"] == out
    found = result(capsys, "data", "inspect", out, "--kind", "synth")
    assert set(found["clips_per_class"].values()) == {2}
    assert found["skipped"] == []
    assert "clips_per_class" in text(capsys, "data", "inspect", out, "--kind", "synth")


def test_doctor_tells_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "doctor")
    assert found["engines"] == {"litert": True, "onnx": True, "tensorrt": False, "tensorrt-reference": True}
    assert found["machine"]["free_disk_bytes"] > 0
    assert "engine onnx" in text(capsys, "doctor")


def test_bench_times_and_judges(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--min-hops", "20", "--min-seconds", "0", "--artefact", "onnx-fp32"]
    code = main(["bench", bundle, *few, "--out", str(tmp_path / "bench.json"), "--json"])
    found = json.loads(capsys.readouterr().out)
    # A busy machine may rightly make it invalid; then the exit code must say so too.
    assert code == (4 if found["verdict"]["level"] == "invalid" else 0)
    assert found["artefacts"][0]["n_hops"] >= 20
    assert json.loads((tmp_path / "bench.json").read_bytes())["bundle_name"] == "tiny"


def test_bench_takes_forms_baselines_clips_and_runs_in_real_time(
    bundle: str, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(bundle).write_bytes(chained_bytes())
    (tmp_path / "other.tflite").write_bytes(tiny.tflite_model())
    few = ["--min-hops", "20", "--min-seconds", "0", "--form", "stateful", "--form", "windowed"]
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # Another one could not be given back.
    extra = [
        "--baseline",
        str(tmp_path / "other.tflite"),
        "--clips",
        str(sounds),
        "--n-clips",
        "5",
        "--affinity",
        "0",
        "--nice",
        str(nice),
    ]
    main(["bench", bundle, *few, *extra, "--pace", "0.2", "--cold-starts", "1", "--sounds", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    items = {item["artefact"]: item for item in found["artefacts"]}
    assert list(items) == ["onnx-fp32", "onnx-fp32-stateful", "other.tflite"]
    for name in ("onnx-fp32", "onnx-fp32-stateful"):
        # One clip lies in the wrong folder.
        assert (items[name]["accuracy"]["n_clips"], items[name]["accuracy"]["n_correct"]) == (5, 4)
        assert items[name]["sound_to_event"]["n_sounds"] == 1
    for item in items.values():
        assert item["paced"]["n_hops"] >= 1
        assert len(item["cold_start"]["to_first_answer_ms"]) == 1
    assert {ratio["baseline"] for ratio in found["ratios"]} == {"other.tflite", "onnx-fp32"}
    assert found["environment"]["affinity"] == [0]
    assert found["options"]["nice"] == found["environment"]["nice"] == nice


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--form", "statefull"], "--form 'statefull' is not known. Did you mean 'stateful'?"),
        (["--form", "foreign"], "--form 'foreign' is not known."),
        (["--artefact", "onnx-int9"], "artefacts ['onnx-int9'] of bundle 'tiny': wanted each once of"),
        (["--form", "stateful"], "has no artefact in form stateful; it has: windowed"),
        (["--affinity", "one"], "--affinity 'one': wanted cores, such as 2,3 or 0-1"),
        (["--affinity", "0,1000-1001"], "affinity (0, 1000, 1001): not all are cores of this machine"),
        (["--baseline", "x.engine"], "'x.engine': an engine that TensorRT has built runs only on the GPU"),
        (["--baseline", "none.onnx"], "none.onnx: cannot be read: No such file or directory"),
        (["--clips", "nowhere"], "nowhere: no labelled audio"),
    ],
)
def test_bench_says_what_is_wrong_with_an_option(
    options: list[str], said: str, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", bundle, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("error: ") == 1


def test_bundle_build_fills_the_cache_ahead_of_time(
    tensorrt_bundle: str, capsys: pytest.CaptureFixture[str], fake_tensorrt: Any
) -> None:
    assert text(capsys, "bundle", "build", tensorrt_bundle).splitlines() == [
        f"tensorrt-{precision}: built, there was none, built in 0.0 s" for precision in ("fp32", "int8")
    ]
    assert "tensorrt-int8: was there already, built in 0.0 s" in text(capsys, "bundle", "build", tensorrt_bundle)
    assert fake_tensorrt.builds == 2


def test_an_invalid_benchmark_is_exit_code_4(wrong_bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "bench", wrong_bundle, "--min-seconds", "0", code=4)
    assert found["verdict"]["level"] == "invalid"
    assert main(["bench", wrong_bundle, "--min-seconds", "0"]) == 4
    captured = capsys.readouterr()
    assert "onnx-fp32" in captured.out
    assert "must not be used; each artefact says why" in captured.err


def test_tag_shows_the_strongest_tags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeaudio.teachers import mn04, tagging

    heard: dict[str, Any] = {}

    def fake_tag(teacher: Any, waveform: Any, sample_rate: int, top_k: int) -> list[tagging.Tag]:
        heard.update(teacher=teacher, n=len(waveform), rate=sample_rate, top=top_k)
        return [tagging.Tag("Dog", "/m/0bt9lr", 0.9), tagging.Tag("Other", None, 0.1)]

    monkeypatch.setattr(tagging, "tag", fake_tag)
    monkeypatch.setattr(mn04.MN04Teacher, "load", lambda weights: ("loaded", weights))
    sf.write(tmp_path / "dog.wav", np.full(800, 0.1), 8_000)
    arguments = ["tag", "--weights", "w.pt", "--top", "2", str(tmp_path / "dog.wav")]
    assert result(capsys, *arguments)["tags"][0] == {"label": "Dog", "mid": "/m/0bt9lr", "prob": 0.9}
    assert heard == {"teacher": ("loaded", Path("w.pt")), "n": 800, "rate": 8_000, "top": 2}
    assert "Dog" in text(capsys, *arguments)
    assert main(["tag", "--teacher", "wide-cnn", str(tmp_path / "dog.wav")]) == 2


@pytest.fixture
def tensorrt_bundle(tmp_path: Path) -> str:
    path = tmp_path / "gpu.eab"
    path.write_bytes(tiny.tiny_bytes("onnx-fp32", "tensorrt-fp32", "tensorrt-int8"))
    return str(path)


@pytest.mark.parametrize("verb", ["stream", "bench", "eval"])
def test_the_help_says_that_tensorrt_was_not_run_on_hardware(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = " ".join(text(capsys, verb, "--help").replace("│", " ").split())
    assert "tensorrt" in page
    assert "not run on hardware" in page


def test_doctor_says_that_tensorrt_was_not_run_on_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert "engine tensorrt (not run on hardware)" in text(capsys, "doctor")
    assert {"tensorrt", "tensorrt-reference"} <= result(capsys, "doctor")["engines"].keys()


def test_a_stream_runs_on_tensorrt(
    tensorrt_bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str], fake_tensorrt: Any
) -> None:
    wav = str(sounds / "high" / "1.wav")
    command = ["stream", tensorrt_bundle, "--input", wav, "--precision", "int8", "--engine"]
    events = text(capsys, *command, "tensorrt")
    assert '"label":"high"' in events.replace(" ", "")
    assert decided(events) == decided(text(capsys, *command, "tensorrt-reference"))
    assert fake_tensorrt.builds == 1


def test_a_stream_without_tensorrt_is_unsupported_in_one_line(
    tensorrt_bundle: str, sounds: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    wav = str(sounds / "high" / "1.wav")
    assert main(["stream", tensorrt_bundle, "--input", wav, "--engine", "tensorrt"]) == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert "engine 'tensorrt' (not run on hardware) needs TensorRT 10 or newer" in captured.err


def test_a_bench_of_tensorrt_times_its_artefacts(
    tensorrt_bundle: str, capsys: pytest.CaptureFixture[str], fake_tensorrt: Any
) -> None:
    quick = ["--min-hops", "20", "--min-seconds", "0"]
    # Few hops make an invalid measurement, exit code 4; what ran is shown all the same.
    main(["bench", tensorrt_bundle, "--engine", "tensorrt", *quick, "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [item["artefact"] for item in shown["artefacts"]] == ["tensorrt-fp32", "tensorrt-int8"]
    assert {item["engine_info"]["cache"] for item in shown["artefacts"]} == {"hit"}
    assert all("not run on hardware" in item["engine_info"]["note"] for item in shown["artefacts"])
    main(["bench", tensorrt_bundle, "--engine", "tensorrt", *quick])
    assert "not run on hardware" in " ".join(capsys.readouterr().out.split())
