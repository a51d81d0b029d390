"""What a device runs works where nothing that trains is installed."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import edgeaudio

DEVICE_ROOMS = ("spec", "frontend", "bundle", "audio", "runtime", "bench")
NOT_ON_A_DEVICE = ["torch", "torchaudio", "lightning", "litert_torch", "torchao", "onnx", "transformers", "scipy"]
NOT_ON_A_DEVICE += ["matplotlib", "jax", "tensorboard", "edgeaudio_export", "cryptography"]
NOT_ON_A_DEVICE += [f"edgeaudio.{room}" for room in ("data", "teachers", "students", "distill", "compress", "pipeline")]

BLOCK = f"""
import sys
BLOCKED = {NOT_ON_A_DEVICE!r}
class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in BLOCKED):
            raise ImportError(f"{{name}} is not on this device")
sys.meta_path.insert(0, Block())
"""


def run_without_training_rooms(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCK + textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def modules_of(room: str) -> list[str]:
    """The room and all modules below it, found on disk without importing any."""
    folder = Path(edgeaudio.__file__).parent / room
    found = [f"edgeaudio.{room}"]
    for info in pkgutil.iter_modules([str(folder)]):
        found += modules_of(f"{room}/{info.name}") if info.ispkg else [f"edgeaudio.{room}.{info.name}"]
    return [name.replace("/", ".") for name in found]


def test_the_block_itself_blocks() -> None:
    assert "torch is not on this device" in run_without_training_rooms("import torch").stderr
    assert "edgeaudio.teachers" in run_without_training_rooms("import edgeaudio.teachers.base").stderr


@pytest.mark.parametrize("room", DEVICE_ROOMS)
def test_every_module_of_a_device_room_imports_without_torch(room: str) -> None:
    modules = modules_of(room)
    assert len(modules) > 1
    done = run_without_training_rooms(
        "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *modules
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", [["list"], ["doctor", "--json"], ["--help"]])
def test_verbs_of_a_device_answer_without_torch(verb: list[str]) -> None:
    code = "from edgeaudio.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    done = run_without_training_rooms(code, *verb)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_bundle_is_checked_streamed_and_timed_without_torch(tmp_path: Path) -> None:
    from tests import tiny_bundle as tiny

    bundle, pcm = tmp_path / "x.eab", tmp_path / "scene.f32"
    bundle.write_bytes(tiny.tiny_bytes())
    pcm.write_bytes(tiny.scene().astype("<f4").tobytes())
    code = """
        import io, types
        from edgeaudio.cli.main import main
        bundle, pcm = sys.argv[1:]
        assert main(["bundle", "check", bundle]) == 0
        sys.stdin = types.SimpleNamespace(buffer=open(pcm, "rb"))
        assert main(["stream", bundle, "--input", "-", "--format", "f32le", "--engine", "litert"]) == 0
        assert main(["bench", bundle, "--min-hops", "20", "--min-seconds", "0"]) in (0, 4)
        """
    done = run_without_training_rooms(code, str(bundle), str(pcm))
    assert done.returncode == 0, done.stderr
    assert '"label": "mid"' in done.stdout
