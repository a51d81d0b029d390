"""Cold starts: fresh processes, each timed from before its interpreter starts to its first answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeaudio.bench.candidate import Candidate, Tell, noted
from edgeaudio.bench.foreign import open_foreign
from edgeaudio.bench.foreign_subject import ForeignSubject
from edgeaudio.bench.schema import BenchOptions, ColdStart
from edgeaudio.bench.subjects import BundleSubject
from edgeaudio.bundle import Bundle
from edgeaudio.bundle.container import pack
from edgeaudio.errors import EdgeAudioError, UnsupportedError

# An engine for a GPU may be built in there, which takes minutes on a small board.
_DEADLINE_S = 900.0


def run_cold_starts(
    candidates: Sequence[Candidate], bundle: Bundle, options: BenchOptions, threads: int, tell: Tell
) -> None:
    """`options.cold_starts` processes each, in turns, and one before them that does not count.

    One that fails is noted and ends those of its artefact: what answered before stays, and the others go on.
    """
    answers: dict[str, list[dict[str, Any]]] = {candidate.name: [] for candidate in candidates}
    total = (options.cold_starts + 1) * len(candidates)
    try:
        with contextlib.ExitStack() as stack:
            requests = _requests(candidates, bundle, options, threads, stack)
            for number, place in itertools.product(range(options.cold_starts + 1), range(len(candidates))):
                candidate = candidates[place]
                if "cold_start" in candidate.failures:
                    continue
                tell("cold-start", candidate.name, number * len(candidates) + place, total)
                with noted(candidate, "cold_start"):
                    answer = _start(requests[candidate.name])
                    # The first brings code and model from the disk into memory, whoever comes first.
                    if number:
                        answers[candidate.name].append(answer)
    finally:
        for candidate in candidates:
            if answers[candidate.name]:
                candidate.cold_start = _result(answers[candidate.name])
    tell("cold-start", None, total, total)


def _requests(
    candidates: Sequence[Candidate], bundle: Bundle, options: BenchOptions, threads: int, stack: contextlib.ExitStack
) -> dict[str, dict[str, Any]]:
    """What each artefact's processes are to do, with their files in a folder that goes with `stack`."""
    requests: dict[str, dict[str, Any]] = {}
    folder: Path | None = None
    for candidate in candidates:
        with noted(candidate, "cold_start"):
            folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeaudio-cold-")))
            requests[candidate.name] = _request(candidate, bundle, options, threads, folder)
    return requests


def _request(candidate: Candidate, bundle: Bundle, options: BenchOptions, threads: int, folder: Path) -> dict[str, Any]:
    subject = candidate.subject
    if isinstance(subject, ForeignSubject):
        # The ending is the format's: its own name need not suit this file system.
        path = folder / f"{subject.sha256}.{subject.model.format}"
        path.write_bytes(subject.model.payload)
        run = open_foreign(subject.model, threads)
        shapes = [(values.shape, values.dtype.name) for values in subject.inputs(run.inputs).values]
        told = {"foreign": str(path), "format": subject.model.format, "library": run.library, "inputs": shapes}
        return {**told, "threads": threads}
    assert isinstance(subject, BundleSubject)
    path = folder / "bundle.eab"
    if not path.exists():
        path.write_bytes(pack(dict(bundle.entries)))
    chosen = {**subject.classifier_options, "threads": threads, "frontend": options.frontend}
    return {"bundle": str(path), "classifier": chosen}


def _start(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "edgeaudio.bench.cold_process", json.dumps(request)]
    # The same code as here, wherever that was imported from.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    begun_ns = time.monotonic_ns()
    with _refusals():
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=_DEADLINE_S, check=False
        )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise EdgeAudioError(f"a fresh process {_end(done.returncode)}: {said[-1] if said else 'no word'}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # One clock for all processes of a machine.
    answer["to_first_answer_ms"] = (answer["answered_ns"] - begun_ns) / 1e6
    return answer


def _end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    return f"failed ({code})"


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnsupportedError(f"cold starts need fresh processes, which cannot be started here: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise EdgeAudioError(f"no answer from a fresh process in {_DEADLINE_S:g} s") from error


def _result(answers: Sequence[dict[str, Any]]) -> ColdStart:
    shares = [answer["pss_bytes"] for answer in answers if answer["pss_bytes"] is not None]
    return ColdStart(
        **{
            name: tuple(round(answer[name], 3) for answer in answers)
            for name in ("to_first_answer_ms", "import_ms", "load_ms", "first_inference_ms")
        },
        peak_rss_bytes=max(answer["peak_rss_bytes"] for answer in answers),
        pss_bytes=max(shares, default=None),
    )
