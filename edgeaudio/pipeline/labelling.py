"""Fill and read label stores: what the student hears, what the teacher says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeaudio.data.datasets import Clip, DecodeCache, clip_digest
from edgeaudio.data.windows import MAX_SOURCES, AugmentSpec, Float32, TrainingWindow, WindowMaker
from edgeaudio.distill.module import WindowSet
from edgeaudio.spec import FrontendSpec, TaskSpec, WindowSpec, digest_json
from edgeaudio.students.frontend import LogMel
from edgeaudio.teachers.base import Teacher
from edgeaudio.teachers.label_schema import StoreField, StoreKey, StoreSchema, content_key
from edgeaudio.teachers.label_store import LabelStore

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

LABEL_BATCH = 64


class ClipWindows:
    """`ClipSource` over decoded clips of a dataset; `task` None for unlabelled ones."""

    def __init__(self, cache: DecodeCache, clips: Sequence[Clip], task: TaskSpec | None) -> None:
        self.cache, self.clips = cache, clips
        self.sample_rate = cache.sample_rate
        n_classes = len(task.labels) if task else 0
        uniform = 1 / n_classes if task and task.kind == "single_label" else 0
        self.silence_target: Float32 = np.full(n_classes, uniform, dtype=np.float32)
        self._targets = np.zeros((len(clips), n_classes), dtype=np.float32)
        if task:
            for row, clip in enumerate(clips):
                self._targets[row, list(clip.labels)] = 1

    def __len__(self) -> int:
        return len(self.clips)

    def waveform(self, index: int) -> Float32:
        """`(samples,)`, read-only."""
        return self.cache.get(self.clips[index])

    def target(self, index: int) -> Float32:
        """`(classes,)`."""
        target: Float32 = self._targets[index]
        return target


class LabelPlan:
    """Which windows are made from which clips: its digest is part of the store's key."""

    def __init__(
        self,
        cache: DecodeCache,
        clips: Sequence[Clip],
        task: TaskSpec | None,
        *,
        augment: AugmentSpec,
        window: WindowSpec,
        frontend: FrontendSpec,
        count: int,
        seed: int,
    ) -> None:
        self.count = count
        self.maker = WindowMaker(ClipWindows(cache, clips, task), augment, window, frontend, seed)
        self.n_classes = len(task.labels) if task else 0
        self.frontend, self.window = frontend, window
        inputs: dict[str, Any] = {
            "clips": [[clip_digest(clip), list(clip.labels)] for clip in clips],
            "augment": augment.model_dump(mode="json"),
            "window": window.model_dump(mode="json"),
            "sample_rate": cache.sample_rate,
            "seed": seed,
            "classes": self.n_classes,
        }
        if task is not None and task.kind == "multi_label":
            inputs["kind"] = task.kind  # it decides the target of silence
        self.digest = digest_json(inputs)


def store_schema(plan: LabelPlan, teacher: Teacher | None) -> StoreSchema:
    """Fields of a store: float16 halves the disk and is finer than the teacher's own spread."""
    fields = [
        StoreField("log_mel", "float16", (plan.window.frames, plan.frontend.n_mels)),
        StoreField("silent", "uint8"),
        StoreField("source_clips", "int32", (MAX_SOURCES,)),
        StoreField("source_shares", "float32", (MAX_SOURCES,)),
    ]
    if plan.n_classes:
        fields.append(StoreField("target", "float32", (plan.n_classes,)))
    if teacher is not None:
        fields.append(StoreField("embedding", "float16", (teacher.embedding_dim,)))
        fields.append(StoreField("foundation_logits", "float16", (len(teacher.labels),)))
    return StoreSchema(tuple(fields))


def fill_store(path: Path, plan: LabelPlan, teacher: Teacher | None, progress: Progress, title: str) -> None:
    """Label what is still missing in the store at `path`; a killed call goes on where it was.

    `teacher` None stores windows and labels alone, for training a teacher.
    """
    key = StoreKey(teacher=teacher.digest if teacher else "none", frontend=plan.frontend.digest(), plan=plan.digest)
    student_ears = LogMel(plan.frontend)
    with LabelStore.open(path, store_schema(plan, teacher), key) as store:
        while store.next_index < plan.count:
            first = store.next_index
            # Batches start at multiples of their size, so that a resumed run computes the same batches.
            last = min(plan.count, first - first % LABEL_BATCH + LABEL_BATCH)
            batch_first = first - first % LABEL_BATCH
            windows = [plan.maker.make(index) for index in range(batch_first, last)]
            heard = plan.maker.teacher_waveforms(windows)
            with torch.no_grad():
                fields = {"log_mel": student_ears(torch.from_numpy(plan.maker.student_waveforms(windows))).numpy()}
                if teacher is not None:
                    embedding, logits = teacher.embed(torch.from_numpy(heard))
                    fields |= {"embedding": embedding.numpy(), "foundation_logits": logits.numpy()}
            for row in range(first - batch_first, last - batch_first):
                record: dict[str, NDArray[np.generic]] = {name: values[row] for name, values in fields.items()}
                record["silent"] = np.uint8(windows[row].silent)  # type: ignore[assignment]
                record["source_clips"], record["source_shares"] = _sources(windows[row])
                if plan.n_classes:
                    record["target"] = windows[row].target
                store.append(batch_first + row, content_key(heard[row].tobytes()), **record)
            progress(title, store.next_index, plan.count)


def _sources(window: TrainingWindow) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Clips in the window and their shares, filled up with (-1, 0)."""
    clips, shares = np.full(MAX_SOURCES, -1, np.int32), np.zeros(MAX_SOURCES, np.float32)
    for position, (clip, share) in enumerate(window.sources):
        clips[position], shares[position] = clip, share
    return clips, shares


Fields = dict[str, NDArray[Any]]


def read_store(path: Path, task_logits: Callable[[Fields], Float32] | None) -> WindowSet:
    """The windows of a filled store; `task_logits(fields)` adds what the teacher says of the task."""
    store = LabelStore.open_read(path)
    names = {field.name for field in store.schema.fields}
    fields = {name: store.read(name) for name in names}
    taught = None
    if task_logits is not None:
        taught = task_logits(fields)
    return WindowSet(
        log_mel=fields["log_mel"],
        silent=fields["silent"].astype(bool),
        target=fields.get("target"),
        teacher_logits=taught,
        embedding=fields.get("embedding"),
        foundation_logits=fields.get("foundation_logits"),
    )


def joined(parts: Sequence[WindowSet]) -> WindowSet:
    """The windows of several stores as one set; a field that one of them lacks is left out."""
    columns: dict[str, Any] = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if any(value is None for value in values) else np.concatenate(values)
    return WindowSet(**columns)


def split_held_out(windows: WindowSet, held_out: int) -> tuple[WindowSet, WindowSet]:
    """(for training, held out): the last `held_out` windows only draw the learning curve."""

    def part(rows: slice) -> WindowSet:
        parts: dict[str, Any] = {
            name: None if values is None else values[rows] for name, values in vars(windows).items()
        }
        return WindowSet(**parts)

    return part(slice(None, -held_out)), part(slice(-held_out, None))
