"""A student of random weights with two exits: whole, in stages, and both as steps; converted as a recipe does it."""

from __future__ import annotations

import functools

import numpy as np
import torch
from edgeaudio_export.export import export_student
from edgeaudio_export.staged import add_exits, export_stages
from edgeaudio_export.stateful import add_stateful, export_stateful, export_stateful_stages

from edgeaudio.bundle import Bundle, Exits, bundle_bytes
from edgeaudio.compress.ptq import quantise_ptq
from edgeaudio.pipeline.packing import make_golden
from edgeaudio.spec import ExitSpec, FrontendSpec, LabelSet, TaskSpec, WindowSpec
from edgeaudio.students.dscnn import DSCNN
from edgeaudio.students.exits import EarlyExitStudent, StagedGraph, stage_macs
from tests import tiny_bundle as tiny
from tests.tiny_student import CLASSES, FRAMES, N_MELS, windows, with_statistics

WINDOW, STEP = WindowSpec(frames=FRAMES, hop_frames=20), 2
#: Between the confidences that a student of random weights has: some windows stop at each exit.
THRESHOLDS = (0.3, 0.3)


@functools.cache
def cascade_bytes() -> bytes:
    """See the module docstring; steps are of 20 ms."""
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
    return add_stateful(made, steps)


@functools.cache
def cascade_bundle() -> Bundle:
    """`cascade_bytes`, read."""
    return Bundle.read(cascade_bytes())


def heard(seconds: float) -> tiny.Float32:
    """Tones and noise by turns."""
    t = np.arange(round(seconds * 16_000)) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(t))
    tone = np.sin(2 * np.pi * 500 * (1 + np.floor(2 * t) % 5) * t)
    mixed: tiny.Float32 = (0.2 * np.where(np.floor(t) % 2, tone, noise)).astype(np.float32)
    return mixed
