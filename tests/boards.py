"""Recorded boards: `tests/fixtures/boards/NAME`, a tree of files and the replies of commands (see the README there)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeaudio.bench.probes import Completed

FOLDER = Path(__file__).parent / "fixtures" / "boards"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@dataclass
class RecordedRunner:
    """Answers what was recorded; a program of which nothing was recorded is not there."""

    replies: dict[str, dict[str, Any]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, argv: Sequence[str], deadline_s: float) -> Completed | None:
        assert 0 < deadline_s <= 5
        command = " ".join(argv)
        self.asked.append(command)
        if all(known.split(" ")[0] != argv[0] for known in self.replies):
            return None
        reply = self.replies.get(command, {"exit_code": 1, "stdout": ""})
        return Completed(reply["exit_code"], reply["stdout"].encode())


def recorded_board(name: str, folder: Path) -> tuple[Path, RecordedRunner]:
    """A copy of a board's files below `folder`, to be changed at will, and its commands."""
    record = json.loads((FOLDER / name / "board.json").read_text())
    root, replies = folder / name, {}
    if base := record.get("base"):
        _, known = recorded_board(base, folder)
        shutil.copytree(folder / base, root, symlinks=True)
        replies |= known.replies
    shutil.copytree(FOLDER / name / "root", root, symlinks=True, dirs_exist_ok=True)
    return root, RecordedRunner(replies | record["commands"])
