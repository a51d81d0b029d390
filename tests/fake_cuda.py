"""A CUDA driver without a GPU: the functions of libcuda that edgeaudio calls, behind the real C calling convention.

Prototypes are written from cuda.h, not taken from the product, so that a wrong one there breaks tests. Device memory
is host memory under other addresses; copies and kernels wait in their stream until it is synchronised, as on a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import traceback
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_CONTEXT, ILLEGAL_ADDRESS, NOT_READY = (
    0,
    1,
    2,
    100,
    201,
    700,
    600,
)
NAMES = {
    INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    INVALID_CONTEXT: b"CUDA_ERROR_INVALID_CONTEXT",
    ILLEGAL_ADDRESS: b"CUDA_ERROR_ILLEGAL_ADDRESS",
    NOT_READY: b"CUDA_ERROR_NOT_READY",
}
CONTEXT = 0xC0DE
FIRST_DEVICE_ADDRESS = 0x7F00_0000_0000
POINTER = ctypes.POINTER


class _Function(ctypes._CFuncPtr):  # type: ignore[name-defined,misc]
    """What `CDLL` makes of a symbol: an address and no prototype, until the caller declares one."""

    _flags_ = 0x1  # FUNCFLAG_CDECL
    _restype_ = c_int


class FakeDriver:
    """One GPU. Change its attributes before the product looks at it."""

    def __init__(self) -> None:
        self.gpu, self.capability, self.devices, self.cuda = "Orin (fake)", (8, 7), 1, 12060
        self.memory_left = 1 << 30
        self.init_code = SUCCESS
        #: What the next synchronisation answers.
        self.sync_code = SUCCESS
        #: Python errors inside a call: tests must find none.
        self.faults: list[str] = []
        self.calls: list[str] = []
        self._device: dict[int, ctypes.Array[c_char]] = {}
        self._host: dict[int, ctypes.Array[c_char]] = {}
        self._streams: dict[int, list[Callable[[], int]]] = {}
        self._events: dict[int, float | None] = {}
        #: By the GPU's clock, in milliseconds; copies take a tenth of one, kernels what they say.
        self.clock_ms = 0.0
        self._addresses = itertools.count(FIRST_DEVICE_ADDRESS, 1 << 32)
        self._handles = itertools.count(0x51, 1)
        self._current = threading.local()
        self._closures: dict[str, Any] = {}
        self.library = self._library()

    @property
    def allocations(self) -> int:
        """Buffers, streams and events that were not given back."""
        return len(self._device) + len(self._host) + len(self._streams) + len(self._events)

    def device_bytes(self, address: int, size: int) -> ctypes.Array[c_char]:
        """Memory of the GPU; KeyError for an address that is none."""
        buffer = self._device[address]
        assert size <= len(buffer)
        return buffer

    def queue(self, stream: int, work: Callable[[], int]) -> None:
        """Do `work` when the stream is synchronised; it answers a CUresult."""
        self._streams[stream].append(work)

    def _library(self) -> Any:
        prototypes: dict[str, tuple[Callable[..., int], list[Any]]] = {
            "cuInit": (lambda flags: self.init_code, [c_uint]),
            "cuDriverGetVersion": (lambda out: _put(out, self.cuda), [POINTER(c_int)]),
            "cuDeviceGetCount": (lambda out: _put(out, self.devices), [POINTER(c_int)]),
            "cuDeviceGet": (lambda out, ordinal: _put(out, ordinal), [POINTER(c_int), c_int]),
            "cuDeviceGetName": (self._get_name, [c_void_p, c_int, c_int]),
            "cuDeviceGetAttribute": (self._get_attribute, [POINTER(c_int), c_int, c_int]),
            "cuDevicePrimaryCtxRetain": (lambda out, device: _put(out, CONTEXT), [POINTER(c_void_p), c_int]),
            "cuCtxSetCurrent": (self._set_current, [c_void_p]),
            "cuMemAlloc_v2": (self._alloc, [POINTER(c_ulonglong), c_size_t]),
            "cuMemFree_v2": (self._free, [c_ulonglong]),
            "cuMemHostAlloc": (self._host_alloc, [POINTER(c_void_p), c_size_t, c_uint]),
            "cuMemFreeHost": (self._free_host, [c_void_p]),
            "cuMemcpyHtoDAsync_v2": (self._upload, [c_ulonglong, c_void_p, c_size_t, c_void_p]),
            "cuMemcpyDtoHAsync_v2": (self._download, [c_void_p, c_ulonglong, c_size_t, c_void_p]),
            "cuStreamCreate": (self._create_stream, [POINTER(c_void_p), c_uint]),
            "cuStreamSynchronize": (self._synchronise, [c_void_p]),
            "cuStreamDestroy_v2": (self._destroy_stream, [c_void_p]),
            "cuEventCreate": (self._create_event, [POINTER(c_void_p), c_uint]),
            "cuEventRecord": (self._record_event, [c_void_p, c_void_p]),
            "cuEventElapsedTime": (self._elapsed, [POINTER(c_float), c_void_p, c_void_p]),
            "cuEventDestroy_v2": (self._destroy_event, [c_void_p]),
            "cuGetErrorName": (self._error_name, [c_int, POINTER(c_char_p)]),
        }
        functions = {}
        for name, (function, arguments) in prototypes.items():
            self._closures[name] = CFUNCTYPE(c_int, *arguments)(self._guarded(name, function))
            functions[name] = _Function(ctypes.cast(self._closures[name], c_void_p).value)
        return type("Library", (), functions)()

    def _guarded(self, name: str, function: Callable[..., int]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            try:
                return function(*arguments)
            except Exception:  # noqa: BLE001
                # ctypes would print it and answer 0.
                self.faults.append(traceback.format_exc())
                return INVALID_VALUE

        return call

    def _ready(self) -> bool:
        return getattr(self._current, "context", None) == CONTEXT

    def _set_current(self, context: int) -> int:
        self._current.context = context
        return SUCCESS if context == CONTEXT else INVALID_VALUE

    def _get_name(self, out: int, size: int, device: int) -> int:
        text = self.gpu.encode()[: size - 1] + b"\0"
        ctypes.memmove(out, text, len(text))
        return SUCCESS

    def _get_attribute(self, out: Any, which: int, device: int) -> int:
        return _put(out, {75: self.capability[0], 76: self.capability[1]}[which])

    def _alloc(self, out: Any, size: int) -> int:
        if not self._ready():
            return INVALID_CONTEXT
        if size > self.memory_left:
            return OUT_OF_MEMORY
        self.memory_left -= size
        address = next(self._addresses)
        self._device[address] = (c_char * size)()
        return _put(out, address)

    def _free(self, address: int) -> int:
        self.memory_left += len(self._device.pop(address))
        return SUCCESS if self._ready() else INVALID_CONTEXT

    def _host_alloc(self, out: Any, size: int, flags: int) -> int:
        if not self._ready():
            return INVALID_CONTEXT
        buffer = (c_char * size)()
        self._host[ctypes.addressof(buffer)] = buffer
        return _put(out, ctypes.addressof(buffer))

    def _free_host(self, address: int) -> int:
        del self._host[address]
        return SUCCESS if self._ready() else INVALID_CONTEXT

    def _upload(self, device: int, host: int, size: int, stream: int) -> int:
        if not self._ready():
            return INVALID_CONTEXT
        target, source = self.device_bytes(device, size), self._host[host]
        self.queue(stream, lambda: self._copy(ctypes.addressof(target), ctypes.addressof(source), size))
        return SUCCESS

    def _download(self, host: int, device: int, size: int, stream: int) -> int:
        if not self._ready():
            return INVALID_CONTEXT
        target, source = self._host[host], self.device_bytes(device, size)
        self.queue(stream, lambda: self._copy(ctypes.addressof(target), ctypes.addressof(source), size))
        return SUCCESS

    def _create_stream(self, out: Any, flags: int) -> int:
        if not self._ready() or flags != 1:
            return INVALID_CONTEXT if flags == 1 else INVALID_VALUE
        handle = next(self._handles)
        self._streams[handle] = []
        return _put(out, handle)

    def _synchronise(self, stream: int) -> int:
        queued, self._streams[stream] = self._streams[stream], []
        code, self.sync_code = self.sync_code, SUCCESS
        for work in queued:
            code = code or work()
        return code

    def _destroy_stream(self, stream: int) -> int:
        del self._streams[stream]
        return SUCCESS

    def _create_event(self, out: Any, flags: int) -> int:
        if not self._ready() or flags != 0:
            return INVALID_CONTEXT if flags == 0 else INVALID_VALUE
        handle = next(self._handles)
        self._events[handle] = None
        return _put(out, handle)

    def _record_event(self, event: int, stream: int) -> int:
        if event not in self._events:
            return INVALID_VALUE
        self._events[event] = None

        def happen() -> int:
            self._events[event] = self.clock_ms
            return SUCCESS

        self.queue(stream, happen)
        return SUCCESS

    def _elapsed(self, out: Any, start: int, end: int) -> int:
        begun, ended = self._events[start], self._events[end]
        if begun is None or ended is None:
            return NOT_READY
        return _put(out, ended - begun)

    def _destroy_event(self, event: int) -> int:
        del self._events[event]
        return SUCCESS

    def _copy(self, target: int, source: int, size: int) -> int:
        self.clock_ms += 0.1
        ctypes.memmove(target, source, size)
        return SUCCESS

    def _error_name(self, code: int, out: Any) -> int:
        if code not in NAMES:
            return INVALID_VALUE
        out[0] = NAMES[code]
        return SUCCESS


def _put(out: Any, value: float) -> int:
    out[0] = value
    return SUCCESS
