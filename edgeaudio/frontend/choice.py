"""Which front-end computes log-mel: the one place where it is chosen, and the words in which it is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.frontend.native.stream import NativeStream, require_native, why_unusable
from edgeaudio.frontend.stream import Float32, FrontendStream
from edgeaudio.spec import FrontendSpec

FrontendName = Literal["numpy", "native"]
#: What may be asked for; `auto` is native where it is built and can do the spec, else numpy.
FrontendChoice = Literal["numpy", "native", "auto"]


class Frontend(Protocol):
    """Chunks of a waveform in, log-mel frames out; the same bits however the waveform is cut."""

    @property
    def name(self) -> FrontendName:
        """Which implementation this is."""
        ...

    @property
    def spec(self) -> FrontendSpec:
        """What it computes."""
        ...

    def reset(self) -> None:
        """Forget everything: the next sample is sample 0."""
        ...

    def feed(self, chunk: Float32) -> Float32:
        """`(samples,)` float32 of any length -> the frames it completes, `(frames, n_mels)` float32."""
        ...


@dataclass(frozen=True)
class FrontendTaken:
    """What `choose_frontend` settled on; `reason` says why `auto` is not native, else it is empty."""

    name: FrontendName
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    @property
    def info(self) -> dict[str, str]:
        """For reports, beside `Engine.info`."""
        return {"frontend": self.name} | ({"frontend_reason": self.reason} if self.reason else {})


def choose_frontend(spec: FrontendSpec, choice: FrontendChoice) -> FrontendTaken:
    """Settle `auto`, and check that what was asked for can run here.

    Raises:
        ConfigError: an unknown choice.
        UnsupportedError: native was asked for and is not built here, or cannot do this spec.
    """
    if choice not in get_args(FrontendChoice):
        raise ConfigError(f"front-end {choice!r} is not known. {closest_match_hint(choice, get_args(FrontendChoice))}")
    if choice == "native":
        require_native(spec)
    if choice == "auto":
        reason = why_unusable(spec)
        return FrontendTaken("native") if reason is None else FrontendTaken("numpy", reason)
    return FrontendTaken(choice)


def make_frontend(spec: FrontendSpec, choice: FrontendChoice) -> Frontend:
    """A new stream of log-mel frames; errors are those of `choose_frontend`.

    Raises:
        ConfigError: the spec cannot be streamed (`centre`, `preemphasis`).
    """
    return NativeStream(spec) if choose_frontend(spec, choice).name == "native" else FrontendStream(spec)
