"""Runs verbs of edgeaudio one after another, here or in a guest, where starting Python takes seconds.

    python verbs.py ASKED.json ANSWERS.json

ASKED: a list of argument lists. ANSWERS: for each its exit code and what it wrote.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from edgeaudio.cli.main import main


def answer(arguments: list[str]) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([answer(arguments) for arguments in asked]))
