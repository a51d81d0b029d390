"""The first GPU, through CUDA's driver library and ctypes: memory, a stream, nothing else. *Not run on hardware*.

Not NVIDIA's `cuda-python`: libcuda.so.1 lies wherever a GPU works and its symbols carry versions, whereas a package
must be found for the CUDA of each JetPack. Prototypes are those of cuda.h; a C compiler took them with 12.6 and 13.0.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeaudio.errors import UnsupportedError

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2
NO_DEVICE = 100
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_STREAM_NON_BLOCKING = 1
_EVENT_DEFAULT = 0
_NAME_BYTES = 256

_DevicePointer = c_uint64
_Context = _Stream = _Event = c_void_p
PROTOTYPES: dict[str, list[Any]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(_Context), c_int],
    "cuCtxSetCurrent": [_Context],
    "cuMemAlloc_v2": [POINTER(_DevicePointer), c_size_t],
    "cuMemFree_v2": [_DevicePointer],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemFreeHost": [c_void_p],
    "cuMemcpyHtoDAsync_v2": [_DevicePointer, c_void_p, c_size_t, _Stream],
    "cuMemcpyDtoHAsync_v2": [c_void_p, _DevicePointer, c_size_t, _Stream],
    "cuStreamCreate": [POINTER(_Stream), c_uint],
    "cuStreamSynchronize": [_Stream],
    "cuStreamDestroy_v2": [_Stream],
    "cuEventCreate": [POINTER(_Event), c_uint],
    "cuEventRecord": [_Event, _Stream],
    # Not cuEventElapsedTime_v2, which CUDA 12.8 brought and older drivers lack.
    "cuEventElapsedTime": [POINTER(c_float), _Event, _Event],
    "cuEventDestroy_v2": [_Event],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
}


class CudaError(UnsupportedError):
    """A call of the driver failed; `code` is its CUresult."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call} failed with {name} ({code})")
        self.code = code


class Gpu:
    """The first GPU that the driver shows (CUDA_VISIBLE_DEVICES chooses), with its primary context."""

    def __init__(self) -> None:
        """Raises UnsupportedError: no driver, or no GPU."""
        self._library = _load()
        try:
            for name, arguments in PROTOTYPES.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = arguments, c_int
        except AttributeError as error:
            raise UnsupportedError(
                f"{LIBRARY} is too old for engine 'tensorrt': {error}. Update the driver."
            ) from error
        count = c_int()
        try:
            self.call("cuInit", 0)
            self.call("cuDeviceGetCount", ctypes.byref(count))
        except CudaError as error:
            raise UnsupportedError(f"engine 'tensorrt' needs an NVIDIA GPU that works: {error}") from error
        if not count.value:
            raise UnsupportedError("engine 'tensorrt' needs an NVIDIA GPU: the driver shows none")
        device, self._context = c_int(), _Context()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        # The primary context is the one that TensorRT's own CUDA runtime uses. It is kept while the process lives.
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.name = self._device_name(device)
        major, minor = (
            self._attribute(which, device) for which in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR)
        )
        self.compute_capability = f"{major}.{minor}"
        version = c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        #: The CUDA release that the driver knows, such as 12.6.
        self.driver = f"{version.value // 1000}.{version.value % 1000 // 10}"

    def call(self, name: str, *arguments: Any) -> None:
        """Call the driver.

        Raises:
            CudaError: it did not answer CUDA_SUCCESS.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(name, code, self._error_name(code))

    def activate(self) -> None:
        """Make the context current in this thread; every other call needs that."""
        self.call("cuCtxSetCurrent", self._context)

    def _error_name(self, code: int) -> str:
        text = c_char_p()
        known = self._library.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
        return text.value.decode() if known and text.value else "an unknown error"

    def _device_name(self, device: c_int) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGetName", text, _NAME_BYTES, device)
        return text.value.decode(errors="replace")

    def _attribute(self, which: int, device: c_int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value


@functools.cache
def first_gpu() -> Gpu:
    """The GPU, found once per process. Raises UnsupportedError: no driver, or no GPU."""
    return Gpu()


def is_there() -> bool:
    """Whether the driver's library loads; whether it finds a GPU is not asked."""
    try:
        _load()
    except UnsupportedError:
        return False
    return True


def _load() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise UnsupportedError(
            f"engine 'tensorrt' needs an NVIDIA GPU and its driver: {LIBRARY} cannot be loaded ({error})"
        ) from error


class Stream:
    """A queue of copies and kernels; not the default one, which waits for all others."""

    def __init__(self, gpu: Gpu) -> None:
        handle = _Stream()
        gpu.call("cuStreamCreate", ctypes.byref(handle), _STREAM_NON_BLOCKING)
        self._gpu = gpu
        #: What TensorRT wants: the handle as a number.
        self.handle = int(handle.value or 0)
        self._release = weakref.finalize(self, _release, gpu, [("cuStreamDestroy_v2", self.handle)])

    def synchronise(self) -> None:
        """Wait until all that was queued is done; raises CudaError where any of it failed."""
        self._gpu.call("cuStreamSynchronize", self.handle)


class Event:
    """A moment in a stream, by the GPU's own clock."""

    def __init__(self, gpu: Gpu) -> None:
        handle = _Event()
        gpu.call("cuEventCreate", ctypes.byref(handle), _EVENT_DEFAULT)
        self._gpu = gpu
        self._handle = int(handle.value or 0)
        self._release = weakref.finalize(self, _release, gpu, [("cuEventDestroy_v2", self._handle)])

    def record(self, stream: Stream) -> None:
        """Queue it: it is when all before it is done."""
        self._gpu.call("cuEventRecord", self._handle, stream.handle)

    def until_us(self, later: Event) -> float:
        """Microseconds to `later`, in steps of about half a one; both must be over: synchronise their stream first."""
        elapsed_ms = c_float()
        self._gpu.call("cuEventElapsedTime", ctypes.byref(elapsed_ms), self._handle, later._handle)
        return 1e3 * elapsed_ms.value


class Buffer:
    """One tensor twice: in page-locked host memory, which copies without a detour, and on the GPU."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: str) -> None:
        """Raises CudaError: out of memory."""
        self._gpu = gpu
        self.n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        host, device = c_void_p(), _DevicePointer()
        gpu.call("cuMemHostAlloc", ctypes.byref(host), self.n_bytes, 0)
        self._release = weakref.finalize(self, _release, gpu, [("cuMemFreeHost", host)])
        gpu.call("cuMemAlloc_v2", ctypes.byref(device), self.n_bytes)
        self._release.detach()
        self._release = weakref.finalize(self, _release, gpu, [("cuMemFree_v2", device), ("cuMemFreeHost", host)])
        #: Address on the GPU.
        self.address = int(device.value)
        self._host = int(host.value or 0)
        raw = memoryview((ctypes.c_uint8 * self.n_bytes).from_address(self._host))
        #: The host side; freed with this object, so it must not leave the engine uncopied.
        self.values: NDArray[Any] = np.frombuffer(raw, dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Queue a copy to the GPU."""
        self._gpu.call("cuMemcpyHtoDAsync_v2", self.address, self._host, self.n_bytes, stream.handle)

    def download(self, stream: Stream) -> None:
        """Queue a copy from the GPU; `values` hold it after `Stream.synchronise`."""
        self._gpu.call("cuMemcpyDtoHAsync_v2", self._host, self.address, self.n_bytes, stream.handle)


def _release(gpu: Gpu, calls: list[tuple[str, Any]]) -> None:
    # At the end of a process the driver may be gone before us, and then has freed all itself.
    for name, argument in calls:
        try:
            gpu.activate()
            gpu.call(name, argument)
        except CudaError:
            continue
