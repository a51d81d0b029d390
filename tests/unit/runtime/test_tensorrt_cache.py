"""The cache of built engines: found again, never trusted blindly, built once by two at a time."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.errors import ConfigError
from edgeaudio.runtime.engines import tensorrt_cache
from edgeaudio.runtime.engines.tensorrt_cache import EngineCache, EngineKey, default_folder
from edgeaudio.runtime.engines.tensorrt_engine import TensorRTEngine
from tests import tiny_bundle as tiny
from tests.fake_tensorrt import Fake
from tests.test_project import ROOT

PAYLOADS = {precision: tiny.all_payloads()["tensorrt", precision] for precision in ("fp32", "int8")}
KEY = EngineKey(gpu="Orin", compute_capability="8.7", tensorrt="10.3.0", artefact="ab" * 32, settings="x")


def build(precision: str = "int8", **options: Any) -> TensorRTEngine:
    payload = PAYLOADS[precision]
    return TensorRTEngine(tiny.artefact("tensorrt", precision, payload), payload, **options)


def answer(engine: TensorRTEngine) -> tiny.Float32:
    return engine.run(np.random.default_rng(0).uniform(-2, 3, tiny.INPUT_SHAPE[1:]).astype(np.float32))


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.glob(f"*{ending}"))


@pytest.fixture
def folder(fake_tensorrt: Fake) -> Path:
    """The cache with one entry."""
    build()
    return default_folder()


def test_the_folder_is_chosen_by_the_variable_or_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAUDIO_CACHE", "/some/where")
    assert default_folder() == Path("/some/where/tensorrt")
    monkeypatch.setenv("EDGEAUDIO_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == Path("/home/someone/.cache/edgeaudio/tensorrt")


def test_an_engine_is_built_once(fake_tensorrt: Fake) -> None:
    first, second = build(), build()
    assert fake_tensorrt.builds == 1
    assert (first.info["cache"], second.info["cache"]) == ("built, there was none", "hit")
    assert first.info["build_s"] == second.info["build_s"]
    assert np.array_equal(answer(first), answer(second))


def test_the_entry_is_private(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 3
    (record,) = files(folder, ".json")
    assert json.loads(record.read_text())["gpu"] == "Orin (fake)"


@pytest.mark.parametrize(
    "change",
    [
        lambda fake: setattr(fake, "version", "10.16.2"),
        lambda fake: setattr(fake.driver, "gpu", "Orin Nano"),
        lambda fake: setattr(fake.driver, "capability", (11, 0)),
    ],
    ids=["another TensorRT", "another GPU", "another architecture"],
)
def test_an_engine_for_something_else_is_not_used(
    fake_tensorrt: Fake, folder: Path, change: Callable[[Fake], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeaudio.runtime.engines import cuda_driver

    change(fake_tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module())
    cuda_driver.first_gpu.cache_clear()
    assert build().info["cache"] == "built, there was none"
    assert len(files(folder, ".engine")) == 2


def test_another_artefact_or_setting_is_another_engine(fake_tensorrt: Fake, folder: Path) -> None:
    build("fp32")
    build(workspace_bytes=1 << 20)
    assert len(files(folder, ".engine")) == fake_tensorrt.builds == 3


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_record(folder: Path, **changes: Any) -> None:
    (path,) = files(folder, ".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def link_away(folder: Path) -> None:
    (engine,) = files(folder, ".engine")
    engine.rename(folder.parent / "elsewhere")
    engine.symlink_to(folder.parent / "elsewhere")


def link_twice(folder: Path) -> None:
    (engine,) = files(folder, ".engine")
    os.link(engine, folder.parent / "second")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda folder: flip(files(folder, ".engine")[0]), "not those that were written"),
    "a cut engine": (lambda folder: os.truncate(files(folder, ".engine")[0], 10), "not those that were written"),
    "an empty engine": (lambda folder: os.truncate(files(folder, ".engine")[0], 0), "not those that were written"),
    "no engine": (lambda folder: files(folder, ".engine")[0].unlink(), "there was none"),
    "no record": (lambda folder: files(folder, ".json")[0].unlink(), "there was none"),
    "a cut record": (lambda folder: os.truncate(files(folder, ".json")[0], 20), "its record is damaged"),
    "a record that is a list": (lambda folder: files(folder, ".json")[0].write_text("[]"), "its record is damaged"),
    "a record for another GPU": (lambda folder: edit_record(folder, gpu="A100"), "not those that were written"),
    "a record with more in it": (lambda folder: edit_record(folder, note="x"), "not those that were written"),
    "a build time that is none": (lambda folder: edit_record(folder, build_s="long"), "its record is damaged"),
    "an engine that others may read": (lambda folder: files(folder, ".engine")[0].chmod(0o644), "is not private"),
    "a record that others may write": (lambda folder: files(folder, ".json")[0].chmod(0o622), "is not private"),
    "a link to an engine": (link_away, "Too many levels of symbolic links"),
    "an engine with a second name": (link_twice, "is no ordinary file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_anew_and_mended(
    fake_tensorrt: Fake, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    harm, reason = DAMAGE[damage]
    harm(folder)
    with caplog.at_level(logging.WARNING):
        engine = build()
    assert fake_tensorrt.builds == 2
    assert engine.info["cache"].startswith("built, ")
    assert reason in engine.info["cache"]
    assert reason == "there was none" or reason in caplog.text
    assert np.isfinite(answer(engine)).all()
    assert build().info["cache"] == "hit"
    assert fake_tensorrt.builds == 2


def test_the_engine_of_another_key_is_not_taken_for_ones_own(fake_tensorrt: Fake, folder: Path) -> None:
    (own,) = files(folder, ".engine")
    build("fp32")
    (other,) = set(files(folder, ".engine")) - {own}
    own.write_bytes(other.read_bytes())
    own.with_suffix(".json").write_bytes(other.with_suffix(".json").read_bytes())
    assert build().info["cache"] == "built, its bytes are not those that were written"


def test_an_engine_that_tensorrt_no_longer_takes_is_built_anew(fake_tensorrt: Fake, folder: Path) -> None:
    real, answers = fake_tensorrt.unplan, iter([False, True])
    fake_tensorrt.unplan = lambda serialised: real(serialised) if next(answers) else None  # type: ignore[method-assign]
    reason = "Serialization assertion stdVersionRead == kVERSION failed"
    assert build().info["cache"] == f"built, TensorRT did not take the one that was there: {reason}"


def test_a_folder_of_another_user_is_refused(
    fake_tensorrt: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_cache.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match=rf"belongs to user {os.getuid()}, .* Set EDGEAUDIO_CACHE to a folder"):
        build()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_refused(fake_tensorrt: Fake, folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="may be written by others, and engines are native code"):
        build()


def test_a_link_to_a_folder_or_a_file_is_refused(fake_tensorrt: Fake, folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(ConfigError, match="is no plain folder"):
        build(cache_folder=link)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is no plain folder"):
        build(cache_folder=tmp_path / "file")


def test_without_a_place_for_a_cache_it_runs_all_the_same(fake_tensorrt: Fake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    engine = build(cache_folder=tmp_path / "file" / "cache")
    assert engine.info["cache"].startswith("none: ")
    assert np.isfinite(answer(engine)).all()


def test_a_full_disk_costs_the_entry_alone(fake_tensorrt: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorrt_cache, "atomic_write", full)
    engine = build()
    assert engine.info["cache"] == "built, not kept: [Errno 28] No space left on device"
    assert files(default_folder(), ".engine") == []


def test_a_kill_between_engine_and_record_leaves_nothing_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, real = EngineCache(tmp_path / "cache"), tensorrt_cache.atomic_write
    cache.store(KEY, b"old", 1.0)

    def killed(path: Path, data: bytes, mode: int | None = None) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        real(path, data, mode)

    monkeypatch.setattr(tensorrt_cache, "atomic_write", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.store(KEY, b"new", 1.0)
    assert cache.load(KEY) == (None, None, "its bytes are not those that were written")


def test_the_oldest_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_cache, "MAX_ENTRIES", 3)
    cache = EngineCache(tmp_path / "cache")
    for number in range(5):
        key = EngineKey("Orin", "8.7", "10.3.0", f"{number:064x}", "x")
        with cache.building(key):
            cache.store(key, bytes([number]), 1.0)
        os.utime(cache.folder / f"{key.stem}.json", ns=(number, number))
    left = [json.loads(path.read_text())["artefact"] for path in files(cache.folder, ".json")]
    assert sorted(left) == [f"{number:064x}" for number in (2, 3, 4)]
    assert len(list(cache.folder.iterdir())) == 9


def test_whoever_waits_for_the_lock_finds_the_engine(tmp_path: Path) -> None:
    cache, order = EngineCache(tmp_path / "cache"), []
    held = threading.Event()

    def first() -> None:
        with cache.building(KEY):
            held.set()
            time.sleep(0.3)
            cache.store(KEY, b"engine", 2.0)
            order.append("built")

    worker = threading.Thread(target=first)
    worker.start()
    held.wait()
    with EngineCache(tmp_path / "cache").building(KEY):
        order.append("waited")
        assert cache.load(KEY) == (b"engine", 2.0, "found")
    worker.join()
    assert order == ["built", "waited"]


def test_who_has_waited_too_long_builds_beside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path / "cache")
    with cache.building(KEY), caplog.at_level(logging.WARNING), cache.building(KEY, timeout_s=0.15):
        pass
    assert "building beside it" in caplog.text


def test_two_processes_build_one_engine(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from tests import tiny_bundle as tiny
        from tests.fake_cuda import FakeDriver
        from tests.fake_tensorrt import Fake
        from edgeaudio.runtime.engines import cuda_driver
        from edgeaudio.runtime.engines.tensorrt_engine import TensorRTEngine
        fake = Fake(FakeDriver())
        fake.build_delay_s, fake.build_record = 1.0, Path(sys.argv[1])
        sys.modules["tensorrt"] = fake.module()
        cuda_driver._load = lambda: fake.driver.library
        payload = tiny.all_payloads()["tensorrt", "int8"]
        print("ready", flush=True)
        sys.stdin.readline()
        engine = TensorRTEngine(tiny.artefact("tensorrt", "int8", payload), payload)
        print(engine.info["cache"])
        """
    )
    environment = os.environ | {"EDGEAUDIO_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code, str(tmp_path / "builds")]
    processes = [subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(text.strip() for text in answers) == ["built, there was none", "hit"]
    assert (tmp_path / "builds").read_text() == "built\n"
