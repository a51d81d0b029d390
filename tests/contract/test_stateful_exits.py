"""Early exits of the stateful form, in every format and precision: stages catch up, and answer as the windowed ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from edgeaudio_export.export import export_student
from edgeaudio_export.staged import add_exits, export_stages
from edgeaudio_export.stateful import add_stateful, export_stateful, export_stateful_stages, stateful_chain_parity

from edgeaudio.bundle import Bundle, Exits, bundle_bytes
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.pipeline.packing import make_golden
from edgeaudio.runtime import Classifier, StreamClassifier, check_bundle
from edgeaudio.runtime.stream_check import proof_stream
from edgeaudio.spec import ExitSpec, FrontendSpec, LabelSet, TaskSpec, WindowSpec
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph, stage_macs
from tests import tiny_bundle as tiny
from tests.tiny_student import CLASSES, FRAMES, N_MELS, windows, with_statistics
from tests.tolerances import STREAM_SCORE

pytestmark = pytest.mark.slow

WINDOW, STEP = WindowSpec(frames=FRAMES, hop_frames=20), 2
#: Between the confidences that a student of random weights has: some windows stop at each exit.
THRESHOLDS = (0.3, 0.3)


@functools.cache
def bundle() -> Bundle:
    """A student of random weights with two exits: whole, in stages, and both as steps of 20 ms."""
    torch.manual_seed(0)
    plain = with_statistics(DSCNN(CLASSES, n_mels=N_MELS, width=8, blocks=(1, 1, 1)))
    student = EarlyExitStudent(plain, ExitSpec(after=(0, 1))).eval()  # type: ignore[arg-type]
    for head in (*student.exit_heads, student.head):
        head.weight.data *= 4
    whole, staged = quantise_ptq(student, windows(32)), quantise_ptq(StagedGraph(student), windows(32))
    exported = export_student(student, whole, FRAMES, N_MELS)
    entries = sorted((item.manifest_entry() for item in exported), key=lambda entry: entry.name)
    payloads = {item.path: item.payload for item in exported}
    golden = make_golden(FrontendSpec(), WINDOW, entries, payloads)
    task = TaskSpec(labels=LabelSet(names=tuple(f"c{number}" for number in range(CLASSES))))
    manifest = tiny.manifest(tuple(entries), golden, window=WINDOW, task=task)
    made = Bundle.read(bundle_bytes(manifest, payloads, golden))
    chains = export_stages(student, staged, FRAMES, N_MELS)
    exits = Exits(
        after=(0, 1),
        macs_per_stage=stage_macs(student, FRAMES, N_MELS),
        chains=tuple(chain.manifest_entry(thresholds=THRESHOLDS) for chain in chains),
    )
    made = Bundle.read(
        add_exits(made, exits, {path: data for chain in chains for path, data in chain.payloads.items()})
    )
    steps = export_stateful(student, whole, FRAMES, N_MELS, STEP)
    steps += export_stateful_stages(student, staged, FRAMES, N_MELS, STEP)
    return Bundle.read(add_stateful(made, steps))


def heard(seconds: float) -> tiny.Float32:
    """Tones and noise by turns."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = np.sin(2 * np.pi * 500 * (1 + np.floor(2 * t) % 5) * t)
    mixed: tiny.Float32 = (0.2 * np.where(np.floor(t) % 2, tone, noise)).astype(np.float32)
    return mixed


def test_every_stage_on_every_engine_streams_as_its_windowed_form() -> None:
    report = check_bundle(bundle())
    report.raise_if_failed()
    streamed = [item for item in report.items if "streamed" in item.subject and "stage" in item.subject]
    assert len(streamed) == 3 * 4
    assert all(item.figure is not None for item in streamed)


def test_verify_proves_every_stage() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    for chain in stateful.chains:
        parities = stateful_chain_parity(bundle(), chain, [proof_stream(bundle())])
        assert all(parity.passed and parity.n_windows > 20 for parity in parities)


@pytest.mark.parametrize(("engine", "precision"), [("onnx", "fp32"), ("onnx", "int8"), ("litert", "int8")])
def test_a_stream_with_exits_answers_as_windows_with_exits(engine: str, precision: str) -> None:
    windowed = Classifier(bundle(), engine=engine, precision=precision, exits=True)
    stepped = Classifier(bundle(), engine=engine, precision=precision, exits=True, stateful=True)
    assert stepped.n_exits == 3
    wanted, answer = windowed(heard(6), 16_000), stepped(heard(6), 16_000)
    every = WINDOW.hop_frames // STEP
    assert answer.window_exits is not None
    assert wanted.window_exits is not None
    assert np.array_equal(answer.window_exits[::every], wanted.window_exits)
    assert np.abs(answer.window_probs[::every] - wanted.window_probs).max() <= STREAM_SCORE
    assert len(set(answer.window_exits)) > 1


def test_catching_up_is_counted() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    stepped = Classifier(bundle(), exits=True, stateful=True)
    stream = StreamClassifier(stepped)
    stream.feed(heard(6))
    stats = stream.stats
    assert stats.macs is not None
    first, *later = stateful.macs_per_stage
    # Stage 0 hears every hop, warming up included; the others no more than that, and only when they are asked.
    least, most = (
        (stats.hops + stateful.warm_up_steps) * first,
        (stats.hops + stateful.warm_up_steps) * sum(stateful.macs_per_stage),
    )
    assert least < stats.macs < most
    assert 0 < stats.catch_up_macs < stats.macs - least
    never = Classifier(bundle(), exits=True, stateful=True, thresholds=(None, None))
    stream = StreamClassifier(never)
    stream.feed(heard(6))
    assert stream.stats.macs == most
    # The only steps put off are those before the first answer.
    assert stream.stats.catch_up_macs == stateful.warm_up_steps * sum(later)


def test_always_stopping_at_the_first_exit_runs_nothing_else() -> None:
    stateful = bundle().manifest.stateful
    assert stateful is not None
    stream = StreamClassifier(Classifier(bundle(), exits=True, stateful=True, thresholds=(0.0, 0.0)))
    stream.feed(heard(3))
    assert stream.stats.macs == (stream.stats.hops + stateful.warm_up_steps) * stateful.macs_per_stage[0]
    assert stream.stats.catch_up_macs == 0
