"""A model file that belongs to no bundle, timed beside one: read, given an input that fits, run as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeaudio.bench.foreign_inputs import Array, Input
from edgeaudio.errors import ConfigError, VerificationError
from edgeaudio.runtime.engines.litert_engine import interpreter_info, litert_library, open_interpreter
from edgeaudio.runtime.engines.onnx_engine import open_session, session_info
from edgeaudio.spec.limits import MODEL_FILE_BYTES, check_limit

_FORMATS = {".onnx": "onnx", ".tflite": "tflite"}
_ENGINES = {"onnx": "onnx", "tflite": "litert"}
_BUILT_ENGINES = (".engine", ".plan", ".trt")
_NAME_CHARACTERS = 128
_ONNX_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind})": kind for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
}


@dataclass(frozen=True)
class ForeignModel:
    """`name` is the file's, by which results call it."""

    name: str
    payload: bytes

    def __post_init__(self) -> None:
        ending = Path(self.name).suffix.lower()
        if ending in _BUILT_ENGINES:
            raise ConfigError(
                f"{self.name!r:.200}: an engine that TensorRT has built runs only on the GPU, driver and release that "
                "built it, and is native code. Give the .onnx that it was made from, or a bundle with tensorrt."
            )
        if ending not in _FORMATS:
            raise ConfigError(f"{self.name!r:.200}: wanted a model file that ends in {' or '.join(_FORMATS)}")
        if len(self.name) > _NAME_CHARACTERS or "/" in self.name or not self.name.isprintable():
            raise ConfigError(
                f"{self.name!r:.200}: wanted a plain file name of at most {_NAME_CHARACTERS} printable characters"
            )

    @classmethod
    def read(cls, path: Path) -> ForeignModel:
        """The file at `path`.

        Raises:
            ConfigError: no such file, one of another kind, or a name that cannot be printed.
            LimitError: larger than `edgeaudio.spec.limits` allows.
        """
        model = cls(path.name, b"")
        try:
            check_limit(f"{path}: bytes", path.stat().st_size, MODEL_FILE_BYTES)
            return cls(model.name, path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error

    @property
    def format(self) -> str:
        """ "onnx" or "tflite"."""
        return _FORMATS[Path(self.name).suffix.lower()]

    @property
    def engine(self) -> str:
        """What runs it, as `edgeaudio list engines` calls it."""
        return _ENGINES[self.format]

    @property
    def sha256(self) -> str:
        """Hex digest of its bytes."""
        return hashlib.sha256(self.payload).hexdigest()


class ForeignRun(Protocol):
    """A foreign file, loaded."""

    inputs: tuple[Input, ...]
    #: The module that it runs on.
    library: str

    def prepare(self, given: Sequence[Array]) -> None:
        """Be told once of which shapes the inputs will be."""

    def run(self, given: Sequence[Array]) -> list[Array]:
        """All inputs in order -> all outputs."""
        ...

    @property
    def info(self) -> dict[str, str]:
        """As `Engine.info`."""
        ...


def open_foreign(model: ForeignModel, threads: int) -> ForeignRun:
    """Load it with the settings that the engines have.

    Raises:
        UnsupportedError: the library is not installed, or lacks an operator.
        VerificationError: not a model of its format.
    """
    return (_OnnxFile if model.format == "onnx" else _TfliteFile)(model, threads)


class _OnnxFile:
    library = "onnxruntime"

    def __init__(self, model: ForeignModel, threads: int) -> None:
        self._session = open_session(model.name, model.payload, threads)
        self._threads = threads
        self.inputs = tuple(
            Input(
                tensor.name,
                tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape),
                _ONNX_DTYPES.get(tensor.type, tensor.type),
            )
            for tensor in self._session.get_inputs()
        )
        self._names = [given.name for given in self.inputs]

    def prepare(self, given: Sequence[Array]) -> None:
        """Sessions take any shape that fits."""

    def run(self, given: Sequence[Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(None, dict(zip(self._names, given, strict=True)))
        return outputs

    @property
    def info(self) -> dict[str, str]:
        return {"engine": "onnx", **session_info(self._session), "threads": str(self._threads)}


class _TfliteFile:
    def __init__(self, model: ForeignModel, threads: int) -> None:
        self._interpreter = open_interpreter(model.name, model.payload, threads)
        self.library: str = litert_library()[1].__name__
        self._threads = threads
        details = self._interpreter.get_input_details()
        self.inputs = tuple(
            Input(
                one["name"],
                # Without a signature of its own a tensor has the shape that it has.
                tuple(int(size) if size > 0 else None for size in (*one.get("shape_signature", ()),) or one["shape"]),
                np.dtype(one["dtype"]).name,
            )
            for one in details
        )
        self._given = [one["index"] for one in details]
        self._answers = [one["index"] for one in self._interpreter.get_output_details()]

    def prepare(self, given: Sequence[Array]) -> None:
        if any(None in one.shape for one in self.inputs):
            for number, values in zip(self._given, given, strict=True):
                self._interpreter.resize_tensor_input(number, values.shape)
            self._interpreter.allocate_tensors()

    def run(self, given: Sequence[Array]) -> list[Array]:
        interpreter = self._interpreter
        for number, values in zip(self._given, given, strict=True):
            interpreter.set_tensor(number, values)
        interpreter.invoke()
        return [interpreter.get_tensor(number) for number in self._answers]

    @property
    def info(self) -> dict[str, str]:
        return {"engine": "litert", **interpreter_info(self._interpreter), "threads": str(self._threads)}


def run_foreign(name: str, run: ForeignRun, given: Sequence[Array]) -> list[Array]:
    """As `run.run`, with whatever the library raises as a VerificationError that names the file."""
    try:
        return run.run(given)
    except Exception as error:  # The libraries' errors share no base but Exception.
        raise VerificationError(f"{name}: does not run with the input that was made for it: {error!s:.300}") from error
