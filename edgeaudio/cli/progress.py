"""Progress on stderr: one line that renews itself on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time

TERMINAL_PERIOD_S = 0.2
LOG_PERIOD_S = 15.0


class Progress:
    """Called with (title, done, total) as often as one likes; the end of a title is always shown."""

    def __init__(self) -> None:
        self._title = ""
        self._shown_s = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, title: str, done: int, total: int) -> None:
        now = time.monotonic()
        finished = done >= total
        period_s = TERMINAL_PERIOD_S if self._live else LOG_PERIOD_S
        if title == self._title and not finished and now - self._shown_s < period_s:
            return
        self._title, self._shown_s = title, now
        line = f"{title}: {done} of {total}" if total else f"{title}: {done}"
        if self._live:
            # \x1b[K clears what a longer line left behind.
            print(f"\r{line}\x1b[K", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def titled(self, title: str) -> TitledProgress:
        """The same for code that reports (done, total) only."""
        return TitledProgress(self, title)


class TitledProgress:
    """A `Progress` of one title."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._title = progress, title

    def __call__(self, done: int, total: int) -> None:
        self._progress(self._title, done, total)
