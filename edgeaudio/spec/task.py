"""`LabelSet` and `TaskSpec`: what a model answers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from edgeaudio.errors import ConfigError, closest_match_hint
from edgeaudio.spec import limits
from edgeaudio.spec.base import Spec


class LabelSet(Spec):
    """Class names in logit order, with AudioSet ids (MIDs such as `/m/0bt9lr`) where known."""

    names: tuple[str, ...]
    audioset_ids: tuple[str | None, ...] = ()

    @field_validator("names")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(names) <= limits.LABELS:
            raise ValueError(f"{len(names)} labels; 1 to {limits.LABELS} are allowed")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"label names must be unique, twice: {twice[:5]}")
        for name in names:
            # Labels reach terminals and HTML: no control characters, no escapes.
            if not name or not name.isprintable() or len(name.encode()) > limits.LABEL_BYTES:
                raise ValueError(f"label {name!r:.80} must be 1 to {limits.LABEL_BYTES} printable bytes")
        return names

    @model_validator(mode="after")
    def _ids(self) -> Self:
        if self.audioset_ids and len(self.audioset_ids) != len(self.names):
            raise ValueError(f"{len(self.audioset_ids)} audioset_ids for {len(self.names)} names")
        return self

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of `name`.

        Raises:
            ConfigError: unknown label, with the closest match.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise ConfigError(f"label {name!r} is not known. {closest_match_hint(name, self.names)}") from None


class TaskSpec(Spec):
    """Single-label (softmax) or multi-label (sigmoid) tagging over `labels`."""

    kind: Literal["single_label", "multi_label"] = "single_label"
    labels: LabelSet
