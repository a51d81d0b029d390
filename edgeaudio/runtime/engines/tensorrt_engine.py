"""TensorRT artefacts on an NVIDIA GPU: an engine built on this device, kept in its cache. *Not run on hardware*.

What holds it up without one: docs/decisions/0008-tensorrt.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeaudio.bundle.manifest import ModelFile
from edgeaudio.errors import ConfigError, UnsupportedError, VerificationError
from edgeaudio.runtime.engines import tensorrt_build
from edgeaudio.runtime.engines.base import Float32, GpuTimes, Hidden
from edgeaudio.runtime.engines.cuda_driver import Buffer, CudaError, Event, Stream, first_gpu
from edgeaudio.runtime.engines.tensors import check_hidden, check_log_mel, check_logits, takes_hidden

if TYPE_CHECKING:
    from edgeaudio.bundle import Bundle
    from edgeaudio.runtime.engines.tensorrt_cache import EngineCache, EngineKey

logger = logging.getLogger(__name__)

# Part of the cache's key: another way to build makes other engines.
_RECIPE = "strongly typed, no TF32, workspace {workspace_bytes}"


class Built(NamedTuple):
    """One engine: the model file it is of, how it came to be (see `TensorRTEngine.info`), what its build took."""

    name: str
    cache: str
    build_s: str


class _Loaded(NamedTuple):
    """TensorRT's engine and how it came to be."""

    engine: Any
    build_s: float
    cache: str


class TensorRTEngine:
    """Runs a TensorRT artefact on the first GPU. One instance per thread."""

    format = "tensorrt"

    def __init__(
        self,
        artefact: ModelFile,
        payload: bytes,
        *,
        threads: int = 1,
        cache_folder: Path | None = None,
        workspace_bytes: int = tensorrt_build.WORKSPACE_BYTES,
    ) -> None:
        """Build the engine from verified bytes, or take the one built from the same bytes before.

        Args:
            threads: of the CPU, which has nothing to compute here; only recorded.
            cache_folder: of this user alone; None is `$EDGEAUDIO_CACHE/tensorrt` or `~/.cache/edgeaudio/tensorrt`.
            workspace_bytes: of GPU memory that one kernel may use on the side.
        Raises:
            ConfigError: no threads, or a cache folder that others could write engines into.
            UnsupportedError: no TensorRT from 10 on, no GPU, too little memory, or an operator that is lacking.
            BundleError: not an ONNX model, or its tensors are not those of the manifest.
        """
        if threads < 1:
            raise ConfigError(f"threads is {threads}, wanted at least 1")
        self._artefact, self._threads = artefact, threads
        self._library = tensorrt_build.tensorrt_library()
        self._gpu = first_gpu()
        self._gpu.activate()
        self._log = tensorrt_build.make_logger(self._library)
        self._runtime = tensorrt_build.started(self._library, self._log, self._library.Runtime)
        self._loaded = self._load(payload, cache_folder, workspace_bytes)
        try:
            self._stream = Stream(self._gpu)
            self._buffers = {
                info.name: Buffer(self._gpu, info.shape, info.dtype) for info in (artefact.input, *artefact.outputs)
            }
        except CudaError as error:
            raise UnsupportedError(f"{artefact.path}: no GPU memory for its inputs and outputs: {error}") from error
        self._context = self._execution_context()
        # Before the copies there, the kernels, the copies back, and behind them; none where nobody asked for a clock.
        self._events: tuple[Event, ...] = ()
        self._clocked = False

    def run(self, log_mel: Float32) -> Float32:
        """See `Engine.run`."""
        return self._forward(check_log_mel(log_mel, self._artefact))[1]

    def run_stage(self, values: Float32 | Hidden) -> tuple[Hidden | None, Float32]:
        """See `Engine.run_stage`."""
        if takes_hidden(self._artefact):
            return self._forward(check_hidden(values, self._artefact))
        return self._forward(check_log_mel(values, self._artefact))

    def start_clock(self) -> None:
        """From now on let the GPU note when it does what; that costs a window four calls of the driver."""
        self._gpu.activate()
        self._events = tuple(Event(self._gpu) for _ in range(4))

    def take_gpu_us(self) -> GpuTimes:
        """Of the last window, once; 0 where none ran since, or without `start_clock`."""
        if not self._clocked:
            return GpuTimes()
        self._clocked = False
        self._gpu.activate()
        there, kernels, back = (first.until_us(second) for first, second in itertools.pairwise(self._events))
        return GpuTimes(kernels, there + back)

    @property
    def info(self) -> dict[str, str]:
        """See `Engine.info`; `cache` says whether the engine was built now, `build_s` how long that took then."""
        return {
            "engine": "tensorrt",
            "library": "tensorrt",
            "version": str(self._library.__version__),
            "provider": "TensorRT",
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "driver": self._gpu.driver,
            "threads": str(self._threads),
            "build_s": f"{self._loaded.build_s:.1f}",
            "cache": self._loaded.cache,
            "note": "this engine was not run on hardware by its makers",
        }

    @staticmethod
    def import_library() -> None:
        """See `Engine.import_library`."""
        tensorrt_build.tensorrt_library()

    def _forward(self, given: Hidden) -> tuple[Hidden | None, Float32]:
        artefact, buffers = self._artefact, self._buffers
        np.copyto(buffers[artefact.input.name].values, given)
        outputs = [buffers[info.name] for info in artefact.outputs]
        try:
            # Each thread has a current context of its own.
            self._gpu.activate()
            self._note(0)
            buffers[artefact.input.name].upload(self._stream)
            self._note(1)
            if not self._context.execute_async_v3(self._stream.handle):
                raise VerificationError(f"{artefact.path}: TensorRT failed to run it: {self._said()}")
            self._note(2)
            for output in outputs:
                output.download(self._stream)
            self._note(3)
            self._stream.synchronise()
        except CudaError as error:
            raise VerificationError(f"{artefact.path}: the GPU failed to run it: {error}") from error
        self._clocked = bool(self._events)
        hidden = outputs[0].values.copy() if len(outputs) > 1 else None
        return hidden, check_logits(outputs[-1].values, artefact)

    def _note(self, number: int) -> None:
        if self._events:
            self._events[number].record(self._stream)

    def _execution_context(self) -> Any:
        context = self._loaded.engine.create_execution_context()
        if context is None:
            raise tensorrt_build.build_error(self._library, self._log, self._artefact, "has no room to run the engine")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.address):
                raise VerificationError(f"{self._artefact.path}: TensorRT takes no memory for {name!r}: {self._said()}")
        return context

    def _load(self, payload: bytes, folder: Path | None, workspace_bytes: int) -> _Loaded:
        from edgeaudio.runtime.engines.tensorrt_cache import EngineCache, EngineKey, default_folder

        key = EngineKey(
            gpu=self._gpu.name,
            compute_capability=self._gpu.compute_capability,
            tensorrt=str(self._library.__version__),
            artefact=hashlib.sha256(payload).hexdigest(),
            settings=_RECIPE.format(workspace_bytes=workspace_bytes),
        )
        try:
            cache = EngineCache(folder or default_folder())
            waiting = cache.building(key)
        except OSError as error:
            return self._built(payload, workspace_bytes, None, key, f"none: {error}")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(waiting)
            except OSError as error:
                logger.warning("no lock in the engine cache: %s", error)
            kept = cache.load(key)
            engine = self._deserialised(kept.engine) if kept.engine is not None else None
            if engine is not None and kept.build_s is not None:
                return _Loaded(engine, kept.build_s, "hit")
            reason = kept.reason
            if kept.engine is not None:
                reason = f"TensorRT did not take the one that was there: {self._said()}"
            return self._built(payload, workspace_bytes, cache, key, f"built, {reason}")

    def _built(
        self, payload: bytes, workspace_bytes: int, cache: EngineCache | None, key: EngineKey, how: str
    ) -> _Loaded:
        logger.info("building a TensorRT engine for %s on %s; this takes a while", self._artefact.name, self._gpu.name)
        start = time.monotonic()
        serialised = tensorrt_build.build_engine(self._library, self._log, self._artefact, payload, workspace_bytes)
        build_s = time.monotonic() - start
        engine = self._deserialised(serialised)
        if engine is None:
            raise tensorrt_build.build_error(self._library, self._log, self._artefact, "cannot load what it has built")
        if cache is not None:
            try:
                cache.store(key, serialised, build_s)
            except OSError as error:
                logger.warning("the engine for %s is not kept: %s", self._artefact.name, error)
                how = f"built, not kept: {error}"
        return _Loaded(engine, build_s, how)

    def _deserialised(self, serialised: bytes) -> Any:
        """TensorRT's engine with the manifest's tensors, or None where TensorRT does not take the bytes."""
        self._log.errors.clear()
        engine = self._runtime.deserialize_cuda_engine(serialised)
        if engine is not None:
            tensorrt_build.check_tensors(self._engine_tensors(engine), self._artefact)
        return engine

    def _engine_tensors(self, engine: Any) -> list[tensorrt_build.Tensor]:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return [
            tensorrt_build.Tensor(
                name,
                engine.get_tensor_mode(name) == self._library.TensorIOMode.INPUT,
                tuple(int(size) for size in engine.get_tensor_shape(name)),
                tensorrt_build.dtype_name(self._library, engine.get_tensor_dtype(name)),
            )
            for name in names
        ]

    def _said(self) -> str:
        return "; ".join(self._log.errors[-2:]) or "it gave no reason"


def build_ahead(bundle: Bundle) -> Iterator[Built]:
    """Build the engines of a bundle into the cache, one by one, so that the first start on this device need not.

    Raises:
        ConfigError: the bundle has no TensorRT artefact. UnsupportedError, BundleError: as the engine.
    """
    files = [file for file in bundle.manifest.model_files if file.format == TensorRTEngine.format]
    if not files:
        has = ", ".join(artefact.name for artefact in bundle.manifest.artefacts)
        raise ConfigError(f"bundle {bundle.manifest.name!r} has no tensorrt artefact; it has: {has}")
    for file in files:
        info = TensorRTEngine(file, bundle.payload(file)).info
        yield Built(file.name, info["cache"], info["build_s"])
