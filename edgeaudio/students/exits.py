"""Early exits: a student with heads after some of its sections, trained in one pass and exported as stages."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeaudio.errors import ConfigError
from edgeaudio.spec import ExitSpec
from edgeaudio.students.base import Student
from edgeaudio.students.cost import count_macs

# What a student is asked for beside being called; taken from the wrapped one, so that no weight is registered twice.
_DELEGATED = (
    "head", "dropout", "streamable", "embedding_dim", "receptive_field_frames", "time_stride_frames",
    "section_channels",
)  # fmt: skip


class EarlyExitStudent(nn.Module):
    """A `Student` that can also answer early. `forward` is the final answer, as if there were no exits.

    Args:
        student: any family; its weights are shared, not copied.
        spec: which sections an exit follows, and the form of the heads.
    Raises:
        ConfigError: a section that the student has not, or its last, which the final head follows.
    """

    head: nn.Linear
    dropout: nn.Dropout
    streamable: bool
    embedding_dim: int
    receptive_field_frames: int
    time_stride_frames: int
    section_channels: tuple[int, ...]

    def __init__(self, student: Student, spec: ExitSpec) -> None:
        super().__init__()
        assert isinstance(student, nn.Module)
        last = len(student.section_channels) - 1
        for section in spec.after:
            if section >= last:
                raise ConfigError(
                    f"exits.after: no exit can follow section {section}; this student has the sections 0 to {last}, "
                    f"and the final head follows the last. Use numbers from 0 to {last - 1}"
                )
        self.student: Any = student
        self.spec = spec
        n_classes = student.head.out_features
        self.exit_heads = nn.ModuleList(
            _exit_head(student.section_channels[section], spec.hidden, n_classes) for section in spec.after
        )

    def __getattr__(self, name: str) -> Any:
        if name in _DELEGATED:
            return getattr(self.student, name)
        return super().__getattr__(name)

    def sections(self) -> list[nn.Module]:
        """See `Student.sections`."""
        sections: list[nn.Module] = self.student.sections()
        return sections

    def pooled(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Student.pooled`."""
        pooled: torch.Tensor = self.student.pooled(hidden)
        return pooled

    def forward_features(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> `(batch, embedding_dim)`."""
        embedding: torch.Tensor = self.student.forward_features(log_mel)
        return embedding

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_mels)` -> final logits `(batch, classes)`."""
        logits: torch.Tensor = self.student(log_mel)
        return logits

    def forward_exits(self, log_mel: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """`(batch, frames, n_mels)` -> (logits of the exits, shallow first; embedding), in one pass.

        The final logits are `head(dropout(embedding))`, as without exits.
        """
        answers: list[torch.Tensor] = []
        hidden = log_mel
        for number, section in enumerate(self.sections()):
            hidden = section(hidden)
            if number in self.spec.after:
                answers.append(self._answer(len(answers), hidden))
        return answers, hidden

    def stages(self) -> list[nn.Module]:
        """The network cut behind each exit; weights are shared. Stage k: hidden (stage 0: log-mel) -> see `Stage`."""
        ends = [section + 1 for section in self.spec.after]
        sections = self.sections()
        stages: list[nn.Module] = [
            Stage(sections[start:end], self, number)
            for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
        ]
        return [*stages, nn.Sequential(*sections[ends[-1] :], self.dropout, self.head)]

    def _answer(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.exit_heads[number](self.dropout(self.pooled(hidden)))
        return logits


def _exit_head(channels: int, hidden: int, n_classes: int) -> nn.Module:
    if not hidden:
        return nn.Linear(channels, n_classes)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))


class Stage(nn.Module):
    """Some sections and the exit behind them: hidden -> (hidden, logits of the exit)."""

    def __init__(self, sections: list[nn.Module], owner: EarlyExitStudent, number: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*sections)
        self.dropout = owner.dropout
        self.exit_head = owner.exit_heads[number]
        self._pooled = owner.student.pooled

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class docstring."""
        hidden = self.body(hidden)
        return hidden, self.exit_head(self.dropout(self._pooled(hidden)))


class StagedGraph(nn.Module):
    """All stages as one graph, for quantisation and export: what is quantised once stays one model when it is cut.

    `(batch, frames, n_mels)` -> (hidden 0, logits 0, hidden 1, logits 1, ..., final logits).
    """

    def __init__(self, student: EarlyExitStudent) -> None:
        super().__init__()
        self.stages = nn.ModuleList(student.stages())

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class docstring."""
        outputs: list[torch.Tensor] = []
        hidden = log_mel
        *exits, final = self.stages
        for stage in exits:
            hidden, logits = stage(hidden)
            outputs += [hidden, logits]
        return (*outputs, final(hidden))


def stage_macs(student: EarlyExitStudent, frames: int, n_mels: int) -> tuple[int, ...]:
    """Multiply-accumulates that each stage adds for one window, the head of its exit included."""
    macs = []
    hidden = torch.zeros(1, frames, n_mels)
    was_training = student.training
    student.eval()
    try:
        with torch.no_grad():
            for stage in student.stages():
                stage.eval()
                macs.append(count_macs(stage, hidden))
                hidden = stage(hidden)[0]
    finally:
        student.train(was_training)
    return tuple(macs)
