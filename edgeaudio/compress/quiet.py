"""Silence for converters that talk on stdout and stderr from Python and from C++; nothing is lost on failure."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet_libraries(what: str) -> Iterator[None]:
    """Capture everything printed inside; log it at DEBUG, or at ERROR when the block raises.

    File descriptors 1 and 2 are redirected, so this holds for the whole process: what other threads
    print meanwhile is captured as well. Not re-entrant across threads.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as sink:
        try:
            with _redirected(sink), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except BaseException:
            _replay(sink, logging.ERROR, what)
            raise
        _replay(sink, logging.DEBUG, what)


@contextlib.contextmanager
def _redirected(sink: IO[str]) -> Iterator[None]:
    # Both levels: C++ writes to descriptors, while Python's sys.stdout may be bound elsewhere (pytest, notebooks).
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(sink.fileno(), descriptor)
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        sink.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def _replay(sink: IO[str], level: int, what: str) -> None:
    if not logger.isEnabledFor(level):
        return
    sink.seek(0)
    for line in sink.read().splitlines():
        if line.strip():
            logger.log(level, "%s: %s", what, line)
