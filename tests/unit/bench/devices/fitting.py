"""Records made by hand, made to fit a job: what a board of it could have said."""

from __future__ import annotations

from typing import Any

from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices.recompute import subjects_of
from edgeaudio.bench.schema import ArtefactResult, BenchResult


def fitted(result: BenchResult, job: BenchJob, device: str) -> BenchResult:
    """`result` as one of `job`; what was not asked for, and what is derived from others, is left out."""
    manifest = job.bundle.manifest
    changes: dict[str, Any] = {
        "bundle_name": manifest.name,
        "bundle_sha256": job.bundle.sha256,
        "options": job.options,
        "threads": job.threads,
        "hop_ms": manifest.window.hop_s(manifest.frontend) * 1e3,
        "window_ms": manifest.window.duration_s(manifest.frontend) * 1e3,
        "environment": result.environment.model_copy(update={"device": device}),
        "artefacts": tuple(_fitted(item, job) for item in result.artefacts),
        "not_run": (),
        "ratios": (),
    }
    return result.model_copy(update=changes)


def _fitted(item: ArtefactResult, job: BenchJob) -> ArtefactResult:
    subject = subjects_of(job)[item.artefact]
    rate_hz = job.bundle.manifest.frontend.sample_rate
    known: dict[str, Any] = {"hop_ms": 1e3 * subject.hop_samples / rate_hz}
    known |= {name: getattr(subject, name) for name in ("engine", "precision", "size_bytes", "sha256")}
    return item.model_copy(update=known | dict.fromkeys(("accuracy", "paced", "cold_start", "sound_to_event")))
