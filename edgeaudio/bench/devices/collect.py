"""From what a device said to a result: whole, of this run, and possible; or what is left of a run that broke off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeaudio.bench.base import BenchJob
from edgeaudio.bench.devices.protocol import Message, ReplyError
from edgeaudio.bench.devices.recompute import check_derived, same, subjects_of
from edgeaudio.bench.devices.session import BrokenRunError
from edgeaudio.bench.schema import BenchResult, ResultKind, write_result
from edgeaudio.bench.verdict import judged
from edgeaudio.errors import ConfigError, VerificationError
from edgeaudio.spec.fs import atomic_write
from edgeaudio.spec.text import printable

# Clocks of two machines run at the same rate but for this, and the agent starts a little after its command.
_CLOCK_SLACK = 1.05


def collect(
    messages: Sequence[Message],
    job: BenchJob,
    device: str,
    run_id: str,
    elapsed_s: float,
    *,
    kind: ResultKind = "measured",
) -> BenchResult:
    """The result in the messages of a complete run, judged here.

    Args:
        elapsed_s: how long the agent took, by the host's clock. kind: what was asked for.
    Raises:
        VerificationError: it is not of this run, or it cannot be true.
    """
    result = _assemble(messages, source=device)
    if result is None:
        raise VerificationError(f"{device}: the run ended without a result")
    same(f"{device}: the result", vars(result), _wanted(job, run_id, kind))
    same(f"{device}: the result", {"device": result.environment.device}, {"device": device})
    names = [item.artefact for item in result.artefacts] + [item.artefact for item in result.not_run]
    asked = list(subjects_of(job))
    if len(set(names)) != len(names) or set(names) != set(asked):
        raise VerificationError(f"{device}: the result is about {names}, asked for {asked}"[:600])
    check_derived(result, job, device)
    _check_possible(result, device, elapsed_s)
    # What a device thinks of its own figures is not asked.
    return judged(result)


def _wanted(job: BenchJob, run_id: str, kind: ResultKind) -> dict[str, Any]:
    """What a result of this job says of the run, whoever runs it."""
    manifest = job.bundle.manifest
    return {
        "run_id": run_id,
        "kind": kind,
        "bundle_name": manifest.name,
        "bundle_sha256": job.bundle.sha256,
        "options": job.options,
        "threads": job.threads,
        "incomplete": None,
        "input_rate_hz": job.options.input_rate_hz or manifest.frontend.sample_rate,
        "model_rate_hz": manifest.frontend.sample_rate,
        "hop_ms": manifest.window.hop_s(manifest.frontend) * 1e3,
        "window_ms": manifest.window.duration_s(manifest.frontend) * 1e3,
    }


def broken_off(messages: Sequence[Message]) -> str | None:
    """Why the device itself broke off the run whose messages are complete; None where it did not."""
    heads = (message.body.get("head") for message in messages if message.kind == "result")
    reason = next((head.get("incomplete") for head in heads if isinstance(head, dict)), None)
    return None if reason is None else printable(str(reason), 200)


def partial_result(error: BrokenRunError) -> BenchResult | None:
    """What had come back, marked `incomplete`; None where even the head of the result was missing."""
    try:
        result = _assemble(error.messages, source=error.device, incomplete=str(error))
    except (ConfigError, ReplyError):
        return None
    return result


def keep_partial(error: BrokenRunError, folder: Path) -> list[Path]:
    """Write what is left of a run that broke off into `folder`: its messages, and an incomplete result if it had one.

    Returns:
        The files; none where nothing had come back.
    """
    if not error.messages:
        return []
    stem = f"{file_stem(error.device)}-{error.run_id}.incomplete"
    kept = [folder / f"{stem}.jsonl"]
    atomic_write(kept[0], b"".join(message.line + b"\n" for message in error.messages))
    result = partial_result(error)
    if result is not None:
        kept.append(folder / f"{stem}.json")
        write_result(result, kept[1])
    return kept


def file_stem(device: str) -> str:
    """The name of a device, fit for a file name."""
    return "".join(char if char.isalnum() or char in "._-@" else "_" for char in device)[:100]


def _assemble(messages: Sequence[Message], *, source: str, incomplete: str | None = None) -> BenchResult | None:
    heads = [message.body for message in messages if message.kind == "result"]
    items = [message.body for message in messages if message.kind == "artefact"]
    if not heads:
        return None
    head, n_artefacts = heads[0].get("head"), heads[0].get("n_artefacts")
    if len(heads) > 1 or not isinstance(head, dict) or (incomplete is None and n_artefacts != len(items)):
        raise ReplyError(f"{source}: {len(items)} artefacts came back, {n_artefacts!r:.20} were promised")
    fields: dict[str, Any] = {**head, "artefacts": items}
    if incomplete is not None:
        fields["incomplete"] = incomplete
    return BenchResult.parse(fields, source=source)


def _check_possible(result: BenchResult, device: str, elapsed_s: float) -> None:
    """All times together fit into the time that passed here."""
    timed_s = 0.0
    for item in result.artefacts:
        total = item.stage("total")
        hops_s = sum(total.samples_us) / 1e6 if total else 0.0
        # Samples are rounded to whole microseconds.
        if hops_s > item.timed_s * _CLOCK_SLACK + item.n_hops * 1e-6:
            raise VerificationError(f"{device}: {item.artefact}: hops of {hops_s:.3f} s within {item.timed_s:.3f} s")
        timed_s += item.timed_s
    if timed_s > elapsed_s * _CLOCK_SLACK:
        raise VerificationError(f"{device}: {timed_s:.1f} s were timed within {elapsed_s:.1f} s: its clock is wrong")
