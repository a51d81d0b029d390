"""A foreign file with the face of an artefact, so that it is timed beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeaudio.bench.foreign import ForeignModel, open_foreign, run_foreign
from edgeaudio.bench.foreign_inputs import ForeignInputs, Input
from edgeaudio.bench.hop import Stages
from edgeaudio.bench.schema import BenchOptions, Form, StageName
from edgeaudio.bench.subjects import Loaded
from edgeaudio.bundle import Bundle
from edgeaudio.runtime.classifier import ScoredWindow
from edgeaudio.runtime.engines.base import Float32
from edgeaudio.runtime.selfcheck import CheckReport

_LEFT_OUT: dict[StageName, str] = {
    "resample": "not in path: a foreign file is fed at the bundle's rate",
    "frontend": "not in path: if the file holds one, it is in inference",
    "decision": "not in path: a foreign file decides nothing",
}


@dataclass(frozen=True)
class ForeignSubject:
    """A foreign file, run once for each hop of the bundle's windows."""

    model: ForeignModel
    bundle: Bundle
    form: Form = "foreign"
    precision: str = "unknown"

    @property
    def name(self) -> str:
        """The file's."""
        return self.model.name

    @property
    def engine(self) -> str:
        """See `Subject.engine`."""
        return self.model.engine

    @property
    def size_bytes(self) -> int:
        """See `Subject.size_bytes`."""
        return len(self.model.payload)

    @property
    def sha256(self) -> str:
        """See `Subject.sha256`."""
        return self.model.sha256

    @property
    def hop_samples(self) -> int:
        """See `Subject.hop_samples`."""
        return self.bundle.manifest.window.hop_samples(self.bundle.manifest.frontend)

    def parity(self, check: CheckReport) -> None:
        """A foreign file has no golden vectors."""

    def load(self, options: BenchOptions, threads: int, input_rate_hz: int) -> Loaded:
        """See `Subject.load`."""
        run = open_foreign(self.model, threads)
        inputs = self.inputs(run.inputs)
        run.prepare(inputs.values)
        nothing = ScoredWindow(0, np.zeros(0, np.float32))

        def windows(samples: Float32) -> Sequence[Any]:
            inputs.hear(samples)
            return (inputs.values,)

        def score(values: Any) -> ScoredWindow:
            run.run(values)
            return nothing

        stages = Stages(
            clean=lambda chunk: chunk,
            resample=None,
            windows=windows,
            score=score,
            decide=lambda window: None,
            left_out=_LEFT_OUT,
        )
        return Loaded(
            stages=stages,
            infer=lambda: run_foreign(self.name, run, inputs.values),
            info=lambda: run.info | {"input": inputs.description},
        )

    def inputs(self, wanted: Sequence[Input]) -> ForeignInputs:
        """What it is given: of the golden audio as much as the bundle hears at once."""
        manifest = self.bundle.manifest
        window_samples = manifest.window.n_samples(manifest.frontend)
        return ForeignInputs(wanted, manifest.frontend.sample_rate, window_samples)
