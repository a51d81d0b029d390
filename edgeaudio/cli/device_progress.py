"""One line on stderr for each device: renewed in place on a terminal, a line per stage and artefact in a log."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeaudio.bench.devices.many import OnDeviceProgress


@contextmanager
def device_progress(names: Sequence[str]) -> Iterator[OnDeviceProgress]:
    """Yield what shows the progress of the devices `names`; any thread may call it."""
    if not sys.stderr.isatty():
        yield _Log()
        return
    with _live(names) as show:
        yield show


# In them artefacts follow one another too fast for a log.
_FAST = ("warm-up", "timing", "cold-start")


class _Log:
    """A line when a device's stage changes, or the artefact whose turn it is."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._turn = threading.Lock()

    def __call__(self, device: str, stage: str, artefact: str | None, done: int, total: int) -> None:
        now = stage if artefact is None or stage in _FAST else f"{stage} {artefact}, {done + 1} of {total}"
        with self._turn:
            if self._shown.get(device) != now:
                self._shown[device] = now
                print(f"{device}: {now}", file=sys.stderr, flush=True)


@contextmanager
def _live(names: Sequence[str]) -> Iterator[OnDeviceProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[device]}", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Redrawn when something happened: a clock that redraws by itself would be load on a machine that is measured.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as shown, _logs_above():
        tasks = {name: shown.add_task("waiting", device=name, total=None) for name in names}

        def show(device: str, stage: str, artefact: str | None, done: int, total: int) -> None:
            description = f"{stage} {artefact}" if artefact else stage
            fields: dict[str, Any] = {"description": description, "completed": done, "total": total or None}
            shown.update(tasks[device], **fields, refresh=True)

        yield show


@contextmanager
def _logs_above() -> Iterator[None]:
    """While rich draws it stands in for `sys.stderr`; log lines that go through it appear above the progress."""
    handlers = [item for item in logging.getLogger().handlers if isinstance(item, logging.StreamHandler)]
    streams = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)
