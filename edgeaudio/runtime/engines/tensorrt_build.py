"""ONNX bytes -> a serialised TensorRT engine, with the Python API that 10 and 11 share. *Not run on hardware*."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from edgeaudio.bundle.manifest import ModelFile, TensorInfo
from edgeaudio.errors import BundleError, UnsupportedError
from edgeaudio.runtime.engines.tensors import check_tensor

logger = logging.getLogger(__name__)

#: The first release with strongly typed networks and this API.
MIN_MAJOR = 10
#: Of GPU memory that one kernel may use on the side; the whole of a small board is 4 GiB, shared with the CPU.
WORKSPACE_BYTES = 256 * 2**20
_SHOWN_ERRORS = 4
_DTYPES = {"FLOAT": "float32", "INT8": "int8", "UINT8": "uint8"}
_UNSUPPORTED = "UNSUPPORTED"


class Tensor(NamedTuple):
    """An input or output as TensorRT knows it."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: str


def tensorrt_library() -> Any:
    """NVIDIA's Python package.

    Raises:
        UnsupportedError: it is not installed, cannot load its libraries, or is older than 10.
    """
    try:
        library = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise UnsupportedError(f"engine 'tensorrt': tensorrt is installed but cannot load: {error}") from error
        raise UnsupportedError(
            "engine 'tensorrt' (not run on hardware) needs TensorRT 10 or newer: it comes with JetPack 7 "
            "(apt-get install python3-libnvinfer), elsewhere with pip install tensorrt"
        ) from error
    except (ImportError, OSError) as error:
        raise UnsupportedError(f"engine 'tensorrt': tensorrt is installed but cannot load: {error}") from error
    version = str(getattr(library, "__version__", "0"))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < MIN_MAJOR:
        raise UnsupportedError(f"engine 'tensorrt' needs TensorRT {MIN_MAJOR} or newer, this is {version}")
    return library


def make_logger(library: Any) -> Any:
    """A logger for `library` that hands on to Python's and keeps errors in `errors`."""
    severity = library.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.ERROR)
            logger.log(level, "TensorRT: %s", msg)
            if level == logging.ERROR:
                self.errors.append(" ".join(msg.split()))

    return Log()


def build_engine(library: Any, log: Any, artefact: ModelFile, payload: bytes, workspace_bytes: int) -> bytes:
    """Parse and build: seconds on a large GPU, minutes on a small one.

    Raises:
        BundleError: not an ONNX model, or its tensors are not those of the manifest; names the node.
        UnsupportedError: this TensorRT lacks an operator or cannot build it here, for want of memory say.
    """
    builder = started(library, log, library.Builder)
    typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # TensorRT 10 asks for the flag; 11 is always so and takes no notice of it.
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = library.OnnxParser(network, log)
    if not parser.parse(payload):
        raise _parse_error(library, parser, log, artefact)
    check_tensors(_network_tensors(library, network), artefact)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace_bytes)
    # On by default: it would round the factors of every float32 product to 10 bits.
    config.clear_flag(library.BuilderFlag.TF32)
    log.errors.clear()
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise build_error(library, log, artefact, "cannot build an engine")
    return bytes(serialised)


def build_error(library: Any, log: Any, artefact: ModelFile, what: str) -> UnsupportedError:
    """`UnsupportedError` with what TensorRT said of it, and what helps."""
    said = "; ".join(log.errors[-_SHOWN_ERRORS:]) or "it gave no reason"
    memory = "memory" in said.lower()
    mend = "Free GPU memory: end other programs, or the desktop on a Jetson." if memory else "Use engine 'onnx'."
    return UnsupportedError(f"{artefact.path}: TensorRT {library.__version__} {what}: {said:.600}. {mend}")


def check_tensors(given: Iterable[Tensor], artefact: ModelFile) -> None:
    """Raise `BundleError` unless inputs and outputs are those of the manifest, in any order."""
    found = {(tensor.name, tensor.is_input): tensor for tensor in given}
    wanted: dict[tuple[str, bool], TensorInfo] = {(artefact.input.name, True): artefact.input}
    wanted |= {(info.name, False): info for info in artefact.outputs}
    if found.keys() != wanted.keys():
        raise BundleError(
            f"{artefact.path}: inputs and outputs of the model are {sorted(name for name, _ in found)}, "
            f"the manifest says {sorted(name for name, _ in wanted)}"
        )
    for key, info in wanted.items():
        check_tensor("input" if key[1] else "output", found[key].shape, found[key].dtype, info, artefact)


def dtype_name(library: Any, data_type: Any) -> str:
    """float32 and the like, or TensorRT's own name for what no artefact has."""
    name = _member(library.DataType, data_type)
    return _DTYPES.get(name, name)


def started(library: Any, log: Any, kind: Any) -> Any:
    """`library.Builder` or `library.Runtime`, made. Raises UnsupportedError: no GPU, or a driver too old for it."""
    try:
        return kind(log)
    except (TypeError, RuntimeError) as error:  # So pybind11 puts it where the library gave nothing.
        said = "; ".join(log.errors[-_SHOWN_ERRORS:]) or str(error)
        raise UnsupportedError(f"TensorRT {library.__version__} does not start here: {said:.600}") from error


def _member(enumeration: Any, value: Any) -> str:
    # Not `value.name`: in the bindings of 10.3 to 10.13 that of an ErrorCode is a method of something else.
    names = (name for name, member in enumeration.__members__.items() if member == value)
    return next(names, str(value))


def _network_tensors(library: Any, network: Any) -> list[Tensor]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return [
        Tensor(tensor.name, is_input, tuple(int(size) for size in tensor.shape), dtype_name(library, tensor.dtype))
        for tensors, is_input in ((inputs, True), (outputs, False))
        for tensor in tensors
    ]


def _parse_error(library: Any, parser: Any, log: Any, artefact: ModelFile) -> BundleError | UnsupportedError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(_described(error) for error in errors[:_SHOWN_ERRORS])
    said = said or "; ".join(log.errors[-_SHOWN_ERRORS:]) or "no reason given"
    if errors and _member(library.ErrorCode, errors[0].code()).startswith(_UNSUPPORTED):
        return UnsupportedError(f"{artefact.path}: this TensorRT lacks an operator: {said:.600}")
    return BundleError(f"{artefact.path}: TensorRT refuses the model: {said:.600}")


def _described(error: Any) -> str:
    where = " ".join(
        text for text in (error.node_operator(), repr(error.node_name()) if error.node_name() else "") if text
    )
    named = f"node {error.node()} ({where}): " if where else ""
    return f"{named}{' '.join(str(error.desc()).split())}"
