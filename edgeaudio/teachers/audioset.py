"""The 527 AudioSet classes in the order of every AudioSet model's logits.

Source: `class_labels_indices.csv` of the AudioSet data release (Gemmeke et al., ICASSP 2017), CC BY 4.0,
https://research.google.com/audioset/download.html. The hierarchy (ontology.json, CC BY-SA 4.0) is not used.
"""

from __future__ import annotations

import csv
import functools
import io
from importlib import resources

from edgeaudio.spec import LabelSet

N_CLASSES = 527


@functools.cache
def audioset_labels() -> LabelSet:
    """Display names and MIDs, in logit order."""
    text = resources.files("edgeaudio.teachers").joinpath("audioset_labels.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    return LabelSet(
        names=tuple(row["display_name"] for row in rows),
        audioset_ids=tuple(row["mid"] for row in rows),
    )
