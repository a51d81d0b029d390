"""`edgeaudio bundle check` in the guest: front-ends, every artefact in every form, streams against windows."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeaudio.bundle import Bundle, Golden, bundle_bytes
from tests import tiny_bundle as tiny
from tests.arm.guest import CPU_32, CPUS, CPUS_64, DEADLINE_S, Answer, ask, engines_of, frontends_of
from tests.tiny_early_exits import cascade_bytes
from tests.tiny_exits import exits_bytes
from tests.tiny_stateful import stateful_bundle, stateful_bytes

pytestmark = [pytest.mark.arm, pytest.mark.timeout(DEADLINE_S + 100)]

VARIABLE = "EDGEAUDIO_BUNDLE"
FORMS = [f"{file}-{precision}{form}" for file in ("onnx", "tflite") for precision in ("fp32", "int8")
         for form in ("", "-stateful")]  # fmt: skip
STREAMED = "streamed against windows"


@functools.cache
def sound() -> Mapping[str, bytes]:
    """Bundles in which nothing is wrong; one of the user's own among them."""
    made = {"stateful": stateful_bytes(), "exits": exits_bytes(), "student": cascade_bytes()}
    given = os.environ.get(VARIABLE)
    return made | ({"given": Path(given).read_bytes()} if given else {})


def with_golden(bundle: Bundle, golden: Golden) -> bytes:
    manifest = bundle.manifest.model_copy(update={"golden": tiny.golden_entry(golden)})
    return bundle_bytes(manifest, {file.path: bundle.payload(file) for file in manifest.model_files}, golden)


@functools.cache
def planted() -> Mapping[str, bytes]:
    """Subject of the check that must fail -> a bundle whose one fault it is."""
    bundle = stateful_bundle()
    golden = bundle.golden
    made = {}
    for name in FORMS:
        wrong = golden.logits[name].copy()
        wrong[-1, 0] += 2 if "int8" in name else 0.01
        made[name] = with_golden(bundle, dataclasses.replace(golden, logits={**golden.logits, name: wrong}))
    wrong_log_mel = dataclasses.replace(golden, log_mel=golden.log_mel + np.float32(1e-3))
    logits = {name: np.stack([tiny.linear(window) for window in wrong_log_mel.log_mel]) for name in golden.logits}
    made["frontend"] = with_golden(bundle, dataclasses.replace(wrong_log_mel, logits=logits))
    made[STREAMED] = stateful_bytes(slip=1)
    return made


@functools.cache
def checks(cpu: str | None, folder: Path) -> Mapping[str, Answer]:
    """What `bundle check --json` says of every bundle, in one process."""
    names, asked = [], []
    for kind, bundles in (("sound", sound()), ("planted", planted())):
        for name, data in bundles.items():
            path = folder / f"{kind}-{name}.eab"
            path.write_bytes(data)
            engines = [part for engine in ("onnx", "litert") for part in ("--engine", engine)]
            asked.append(["bundle", "check", str(path), *engines, "--json"])
            names.append(f"{kind}-{name}")
    answers = ask(cpu, asked)
    if cpu in CPUS_64:
        # Without it LiteRT would run other kernels than on a board.
        assert "Created TensorFlow Lite XNNPACK delegate for CPU" in answers.err
    return dict(zip(names, answers.of_verbs, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", ["stateful", "exits", "student", "given"])
def test_every_form_of_a_bundle_gives_its_golden_answers(cpu: str, name: str, folder: Path) -> None:
    if name == "given" and not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no bundle")
    answer = checks(cpu, folder)[f"sound-{name}"]
    assert answer.code == 0, answer.err
    here = [(item["subject"], item["engine"]) for item in checks(None, folder)[f"sound-{name}"].json["items"]]
    items = answer.json["items"]
    frontends = [("frontend", frontend) for frontend in frontends_of(cpu)]
    assert [(item["subject"], item["engine"]) for item in items if item["subject"] == "frontend"] == frontends
    models = [(item["subject"], item["engine"]) for item in items if item["status"] == "passed"][len(frontends) :]
    assert models == [pair for pair in here if pair[1] in engines_of(cpu)]


@pytest.mark.parametrize("cpu", CPUS)
def test_the_library_that_answered_is_named(cpu: str, folder: Path) -> None:
    items = checks(cpu, folder)["sound-stateful"].json["items"]
    libraries = {item["library"].partition(" ")[0] for item in items if item["subject"] != "frontend"}
    if cpu == CPU_32:
        assert libraries == {"", "tflite-runtime"}
        assert all("onnxruntime" in item["reason"] for item in items if item["status"] == "not run")
        assert {item["engine"] for item in items if item["status"] == "not run"} == {"onnx"}
    else:
        assert libraries == {"onnxruntime", "ai-edge-litert"}


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("name", [*FORMS, "frontend", STREAMED])
def test_one_planted_fault_fails(cpu: str, name: str, folder: Path) -> None:
    answer = checks(cpu, folder)[f"planted-{name}"]
    subjects = {item["subject"] for item in answer.json["items"] if item["status"] == "failed"}
    if cpu == CPU_32 and name.startswith("onnx"):
        # No onnxruntime there: what was not replayed cannot be found, and is not called passed.
        assert subjects == set()
        assert {item["status"] for item in answer.json["items"] if item["subject"] == name} == {"not run"}
        return
    assert answer.code == 3
    assert any(name in subject for subject in subjects)
    if name in FORMS:
        assert subjects == {name}
