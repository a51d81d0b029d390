"""A `tensorrt` package that computes: its "engine" is the ONNX file, run by onnxruntime when the stream is waited for.

It has the names that edgeaudio calls and no others; `test_tensorrt_engine.py` holds them against the record of
NVIDIA's own bindings (`tensorrt_api.json`). Where the real thing answers None, False or raises, so does this.
"""

from __future__ import annotations

import enum
import hashlib
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tests.fake_cuda import ILLEGAL_ADDRESS, SUCCESS, FakeDriver

_MAGIC = b"fake engine "


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Severity, msg: str) -> None:
        raise AssertionError("the real one prints to stderr; a subclass must override this")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 7


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 5


class _ErrorCode:
    def __init__(self, number: int) -> None:
        self._number = number

    def name(self) -> str:
        """As in the bindings of 10.3: not the member's name."""
        return "a capsule's"


class ErrorCode:
    """An enumeration of pybind11, whose members were not given names of their own."""

    MODEL_DESERIALIZE_FAILED, INVALID_NODE, UNSUPPORTED_NODE = map(_ErrorCode, (3, 6, 8))
    __members__: ClassVar = {
        "MODEL_DESERIALIZE_FAILED": MODEL_DESERIALIZE_FAILED,
        "INVALID_NODE": INVALID_NODE,
        "UNSUPPORTED_NODE": UNSUPPORTED_NODE,
    }


class IHostMemory(bytearray):
    """Bytes through the buffer protocol, as the real one; read-only use."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ParserError:
    def __init__(self, code: _ErrorCode, desc: str, node: int, operator: str, name: str) -> None:
        self._facts = (code, desc, node, operator, name)

    def code(self) -> _ErrorCode:
        return self._facts[0]

    def desc(self) -> str:
        return self._facts[1]

    def node(self) -> int:
        return self._facts[2]

    def node_operator(self) -> str:
        return self._facts[3]

    def node_name(self) -> str:
        return self._facts[4]


class Fake:
    """What one fake installation does; `module()` is its package."""

    def __init__(self, driver: FakeDriver, version: str = "10.3.0") -> None:
        self.driver, self.version = driver, version
        #: Said through the logger when building fails, None where it works.
        self.build_failure: str | None = None
        self.build_delay_s = 0.0
        #: What a window takes on the GPU's clock.
        self.kernels_ms = 0.5
        self.builds = 0
        #: Appended to at every build, for tests with several processes.
        self.build_record: Path | None = None
        #: The first ONNX node of this kind is refused with this code.
        self.refused: tuple[str, _ErrorCode] | None = None
        self.starts = self.deserialises = self.has_room = self.executes = self.takes_addresses = True
        self.flags: list[int] = []
        self.settings: dict[str, Any] = {}

    def module(self) -> ModuleType:
        fake = self

        class INetworkDefinition:
            def __init__(self, flags: int) -> None:
                self._payload = b""
                self._tensors: tuple[list[Any], list[Any]] = ([], [])
                # TensorRT 11 is always strongly typed, 10 where it is told.
                self._typed = fake.major >= 11 or bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)

            num_inputs = property(lambda self: len(self._tensors[0]))
            num_outputs = property(lambda self: len(self._tensors[1]))

            def get_input(self, index: int) -> Any:
                return self._tensors[0][index]

            def get_output(self, index: int) -> Any:
                return self._tensors[1][index]

        class IBuilderConfig:
            def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
                assert isinstance(pool, MemoryPoolType)
                fake.settings["workspace"] = pool_size

            def clear_flag(self, flag: BuilderFlag) -> None:
                fake.settings["cleared"] = flag

        class Builder:
            def __init__(self, logger: ILogger) -> None:
                assert isinstance(logger, ILogger)
                assert logger._ready  # pybind11 refuses a subclass whose base was not initialised.
                self._logger = logger
                fake.start(logger)

            def create_network(self, flags: int = 0) -> INetworkDefinition:
                fake.flags.append(flags)
                return INetworkDefinition(flags)

            def create_builder_config(self) -> IBuilderConfig:
                return IBuilderConfig()

            def build_serialized_network(self, network: Any, config: Any) -> IHostMemory | None:
                fake.note_build()
                if not network._typed and b"QuantizeLinear" in network._payload:
                    self._logger.log(Severity.ERROR, "explicit quantisation without strong typing")
                    return None
                if fake.build_failure is not None:
                    self._logger.log(Severity.ERROR, fake.build_failure)
                    return None
                return IHostMemory(fake.plan(network._payload))

        class OnnxParser:
            def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
                self._network, self._errors = network, list[ParserError]()

            num_errors = property(lambda self: len(self._errors))

            def get_error(self, index: int) -> ParserError:
                return self._errors[index]

            def parse(self, model: bytes) -> bool:
                self._errors = fake.parse_errors(model)
                if not self._errors:
                    self._network._payload = model
                    self._network._tensors = fake.tensors(model)
                return not self._errors

        class IExecutionContext:
            def __init__(self, payload: bytes, tensors: tuple[list[Any], list[Any]]) -> None:
                self._session, self._tensors = _session(payload), tensors
                self._addresses: dict[str, int] = {}

            def set_tensor_address(self, name: str, memory: int) -> bool:
                assert isinstance(memory, int)
                self._addresses[name] = memory
                return fake.takes_addresses

            def execute_async_v3(self, stream_handle: int) -> bool:
                assert set(self._addresses) == {tensor.name for tensors in self._tensors for tensor in tensors}
                if fake.executes:
                    fake.driver.queue(stream_handle, self._work)
                return fake.executes

            def _work(self) -> int:
                inputs, outputs = self._tensors
                fake.driver.clock_ms += fake.kernels_ms
                try:
                    given = {tensor.name: tensor.read(fake.driver, self._addresses[tensor.name]) for tensor in inputs}
                    answers = self._session.run([tensor.name for tensor in outputs], given)
                    for tensor, answer in zip(outputs, answers, strict=True):
                        tensor.write(fake.driver, self._addresses[tensor.name], answer)
                except KeyError:
                    return ILLEGAL_ADDRESS
                return SUCCESS

        class ICudaEngine:
            def __init__(self, payload: bytes) -> None:
                self._payload, self._tensors = payload, fake.tensors(payload)
                inputs, outputs = self._tensors
                # No order is promised; this one is not the file's.
                self._all = {tensor.name: tensor for tensor in [*outputs, *inputs]}

            num_io_tensors = property(lambda self: len(self._all))

            def get_tensor_name(self, index: int) -> str:
                return list(self._all)[index]

            def get_tensor_mode(self, name: str) -> TensorIOMode:
                return TensorIOMode.INPUT if self._all[name] in self._tensors[0] else TensorIOMode.OUTPUT

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return self._all[name].shape  # type: ignore[no-any-return]

            def get_tensor_dtype(self, name: str) -> DataType:
                return self._all[name].dtype  # type: ignore[no-any-return]

            def create_execution_context(self) -> IExecutionContext | None:
                return IExecutionContext(self._payload, self._tensors) if fake.has_room else None

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                assert isinstance(logger, ILogger)
                self._logger = logger
                fake.start(logger)

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                payload = fake.unplan(serialized_engine) if fake.deserialises else None
                if payload is None:
                    self._logger.log(Severity.ERROR, "Serialization assertion stdVersionRead == kVERSION failed")
                    return None
                return ICudaEngine(payload)

        module = ModuleType("tensorrt")
        own = [INetworkDefinition, IBuilderConfig, Builder, OnnxParser, IExecutionContext, ICudaEngine, Runtime]
        shared = [ILogger, NetworkDefinitionCreationFlag, MemoryPoolType, BuilderFlag, TensorIOMode, DataType]
        for item in [*own, *shared, ErrorCode, ParserError, IHostMemory]:
            setattr(module, item.__name__, item)
        module.__version__ = self.version  # type: ignore[attr-defined]
        return module

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def start(self, logger: ILogger) -> None:
        """What makers of Builder and Runtime do first; the error is the one on record."""
        if not self.starts:
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def note_build(self) -> None:
        self.builds += 1
        time.sleep(self.build_delay_s)
        if self.build_record is not None:
            with self.build_record.open("a") as stream:
                stream.write("built\n")

    def plan(self, payload: bytes) -> bytes:
        """Bound to GPU and version, and checked when it is read, as the real one."""
        facts = {"gpu": self.driver.capability, "version": self.version, "sha": hashlib.sha256(payload).hexdigest()}
        return _MAGIC + json.dumps(facts).encode() + b"\n" + payload

    def unplan(self, serialised: bytes) -> bytes | None:
        head, _, payload = bytes(serialised).partition(b"\n")
        return payload if self.plan(payload).partition(b"\n")[0] == head else None

    def parse_errors(self, model: bytes) -> list[ParserError]:
        import onnx

        try:
            nodes = onnx.load_from_string(model).graph.node
        except Exception:  # noqa: BLE001
            nodes = []
        if not nodes:
            return [ParserError(ErrorCode.MODEL_DESERIALIZE_FAILED, "Failed to parse the ONNX model.", -1, "", "")]
        for index, node in enumerate(nodes):
            if self.refused is not None and node.op_type == self.refused[0]:
                return [
                    ParserError(self.refused[1], "Assertion failed: it is not liked", index, node.op_type, node.name)
                ]
        return []

    def tensors(self, payload: bytes) -> tuple[list[Any], list[Any]]:
        session = _session(payload)
        return [FakeTensor(item) for item in session.get_inputs()], [FakeTensor(item) for item in session.get_outputs()]


class FakeTensor:
    """An input or output, and its way in and out of the GPU's memory."""

    def __init__(self, item: Any) -> None:
        kinds = {
            "tensor(float)": (DataType.FLOAT, np.float32),
            "tensor(int8)": (DataType.INT8, np.int8),
            "tensor(uint8)": (DataType.UINT8, np.uint8),
        }
        self.name, self.shape = item.name, tuple(item.shape)
        self.dtype, self._numpy = kinds[item.type]

    def read(self, driver: FakeDriver, address: int) -> Any:
        size = int(np.prod(self.shape)) * np.dtype(self._numpy).itemsize
        return np.frombuffer(driver.device_bytes(address, size), self._numpy).reshape(self.shape).copy()

    def write(self, driver: FakeDriver, address: int, values: Any) -> None:
        raw = values.tobytes()
        driver.device_bytes(address, len(raw))[: len(raw)] = raw


def _session(payload: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(bytes(payload), options, providers=["CPUExecutionProvider"])
