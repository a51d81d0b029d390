"""How long a run may take follows from what it measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeaudio.bench.accuracy import AccuracyClips
from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices.remote import default_deadline_s
from edgeaudio.bench.marked_sounds import MarkedSounds
from edgeaudio.bench.schema import BenchOptions
from edgeaudio.bundle import Bundle
from tests import tiny_bundle as tiny


def test_whatever_is_asked_for_beside_has_its_time() -> None:
    bundle = Bundle.read(tiny.tiny_bytes())
    job = BenchJob(bundle, artefacts=["onnx-fp32"])
    least_s = default_deadline_s(job)
    waveforms = (np.zeros(80_000, np.int16),) * 40
    clips = AccuracyClips("zeros", 16_000, (tiny.LABELS[0],) * 40, waveforms)
    hop_s = bundle.manifest.window.hop_s(bundle.manifest.frontend)
    assert default_deadline_s(replace(job, clips=clips)) >= least_s + 200 / hop_s * 0.1
    assert default_deadline_s(replace(job, artefacts="all")) > least_s
    for options in (
        BenchOptions(paced_s=60),
        BenchOptions(min_seconds=60),
        BenchOptions(idle_s=60),
    ):
        assert default_deadline_s(replace(job, options=options)) >= least_s + 50
    assert default_deadline_s(replace(job, options=BenchOptions(cold_starts=3))) > least_s


def test_every_artefact_takes_the_time_over_which_power_is_read() -> None:
    job = BenchJob(tiny.tiny_bundle("onnx-fp32", "onnx-int8", "tflite-int8"))
    longer = replace(job, options=BenchOptions(idle_s=1_000))
    assert default_deadline_s(longer) - default_deadline_s(job) == 4 * 1_000


def test_marked_sounds_have_the_time_that_their_stream_takes() -> None:
    job = BenchJob(tiny.tiny_bundle("onnx-fp32", "tflite-int8"))
    rate = job.bundle.manifest.frontend.sample_rate
    played_s = sum(len(audio.waveform) / rate for audio in MarkedSounds(job.bundle, rate).lots(50))
    longer = replace(job, options=BenchOptions(marked_sounds=50))
    # Each artefact hears all of them, after it has been asked without a clock which events they make.
    assert default_deadline_s(longer) - default_deadline_s(job) >= 2 * 2 * played_s
