"""What is in a dataset, and what is wrong with it: `edgeaudio data inspect`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgeaudio.data.clips import Clip, Dataset, clip_digest, label_counts
from edgeaudio.data.decode_cache import MAX_CLIP_S, Progress
from edgeaudio.data.decode_pool import DecodeFacts, DecodeFailure, DecodeRequest, decode_all
from edgeaudio.errors import AudioFileError

# Below this a 16-bit recording has about 5 bits left: nothing to learn from.
NEAR_SILENT_DB = -60.0


def inspect_dataset(
    dataset: Dataset,
    *,
    workers: int = 2,
    max_clip_s: float = MAX_CLIP_S,
    file_timeout_s: float = 60.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decode every clip and count; the result is ready for JSON.

    Duplicates are groups of clips with identical files; those with different labels, or in
    different folds or splits (which would leak test into training), are named as such.
    """
    requests = [DecodeRequest(clip.path, max_clip_s) for clip in dataset.clips]
    facts: dict[str, DecodeFacts] = {}
    skipped: list[dict[str, str]] = []
    for done, (i, result) in enumerate(decode_all(requests, workers=workers, timeout_s=file_timeout_s), start=1):
        clip = dataset.clips[i]
        if isinstance(result, DecodeFailure):
            skipped.append({"clip": clip.id, "reason": result.reason, "message": result.message})
        else:
            facts[clip.id] = result
        if progress is not None:
            progress(done, len(requests))
    return {
        "name": dataset.name,
        "licence": dataset.licence,
        "task": dataset.task.kind,
        "clips": len(dataset.clips),
        "clips_per_class": label_counts(dataset.clips, dataset.task),
        "clips_per_fold": {
            str(fold): label_counts([clip for clip in dataset.clips if clip.fold == fold], dataset.task)
            for fold in dataset.folds()
        },
        "clips_per_split": dict(sorted(Counter(clip.split for clip in dataset.clips if clip.split).items())),
        "duration_s": _spread([fact.duration_s for fact in facts.values()]),
        "sample_rates": _counts(str(fact.sample_rate) for fact in facts.values()),
        "channels": _counts(str(fact.channels) for fact in facts.values()),
        "formats": _counts(fact.format for fact in facts.values()),
        "skipped": sorted(skipped, key=lambda item: item["clip"]),
        "near_silent": sorted(
            clip_id for clip_id, fact in facts.items() if 20 * math.log10(fact.rms + 1e-12) < NEAR_SILENT_DB
        ),
        "duplicates": _duplicates(dataset.clips),
    }


def _counts(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "total": round(math.fsum(values), 3),
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def _duplicates(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        try:
            groups.setdefault(clip_digest(clip), []).append(clip)
        except AudioFileError:
            continue  # Unreadable: among the skipped.
    return [
        {
            "clips": sorted(clip.id for clip in group),
            "labels_differ": len({clip.labels for clip in group}) > 1,
            "leaks": len({(clip.fold, clip.split) for clip in group}) > 1,
        }
        for group in groups.values()
        if len(group) > 1
    ]
