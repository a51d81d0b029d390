"""The history only grows, survives what power cuts and other programs do to it, and never stops a benchmark."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.bench.history import PastRun, append_history, history_path, read_history
from edgeaudio.errors import ConfigError
from tests import bench_records as records

RUN = records.result()


def add(path: Path, run_id: str = "a") -> None:
    append_history(RUN.model_copy(update={"run_id": run_id}), None, path)


def ids(path: Path) -> list[str]:
    return [run.run_id for run in read_history(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep/er/history.jsonl"


def test_a_line_says_what_ran_where_and_how(path: Path, tmp_path: Path) -> None:
    append_history(RUN, tmp_path / "bench.json", path)
    (run,) = read_history(path)
    assert (run.run_id, run.device, run.bundle_sha256) == (RUN.run_id, "pi4", RUN.bundle_sha256)
    assert (run.verdict, run.reasons, run.result) == ("valid", (), str(tmp_path / "bench.json"))
    assert [item.artefact for item in run.artefacts] == [item.artefact for item in RUN.artefacts]
    total = RUN.artefacts[0].stage("total")
    assert total is not None
    assert total.summary is not None
    assert total.summary.p50.value_us is not None
    assert run.artefacts[0].figures["latency_ms_p50"] == total.summary.p50.value_us / 1e3
    assert run.artefacts[0].figures["accuracy"] == 74 / 80
    assert "instructions" not in run.artefacts[0].figures


def test_lines_are_only_added(path: Path) -> None:
    add(path, "a")
    before = path.read_bytes()
    add(path, "b")
    assert path.read_bytes().startswith(before)
    assert ids(path) == ["a", "b"]


def test_an_invalid_run_is_kept_as_such_and_one_that_broke_off_is_not(path: Path) -> None:
    planted = records.planted()
    append_history(planted["throttled"], None, path)
    append_history(planted["incomplete"], None, path)
    (run,) = read_history(path)
    assert (run.verdict, run.reasons) == ("invalid", ("throttled",))


@given(st.binary(max_size=60), st.integers(0, 2000))
def test_damage_costs_the_damaged_lines_only(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    add(path, "a")
    add(path, "b")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(len(whole) - cut_bytes, len(whole) // 2)] + noise)
    add(path, "c")
    found = ids(path)
    assert found[-1] == "c"
    assert found[0] == "a"
    assert len(found) <= 3


def test_a_skipped_line_is_named(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(path)
    with path.open("a") as stream:
        stream.write('{"line_version": 9}\n' + "[" * 100_000 + "\n\n")
    add(path, "b")
    assert ids(path) == ["a", "b"]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [f"{path}:2", f"{path}:3"]


def _add_many(path: Path, name: str) -> None:
    for number in range(20):
        add(path, f"{name}{number}")


def test_processes_do_not_write_into_each_other(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(ids(path)) == sorted(f"{name}{number}" for name in "abc" for number in range(20))


def test_a_history_that_cannot_be_written_is_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    add(tmp_path / "file/history.jsonl")
    assert "this run is not in the history: " in caplog.text
    with pytest.raises(ConfigError, match="cannot be read"):
        read_history(tmp_path)


def test_hostile_names_stay_on_their_line(path: Path) -> None:
    name = "pi\n{}\u2028; rm -rf ~\x1b[2J" + "x" * 4096
    append_history(RUN.model_copy(update={"environment": records.environment(name), "bundle_name": name}), None, path)
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().isascii()
    (run,) = read_history(path)
    assert run.device == run.bundle_name == name


def test_runs_are_found_by_device_and_bundle(path: Path) -> None:
    for device, digest in (("pi4", "ef" * 32), ("pi5", "ef" * 32), ("pi5", "aa" * 32)):
        changes = {
            "environment": records.environment(device),
            "bundle_sha256": digest,
            "run_id": f"{device} {digest[:2]}",
        }
        append_history(RUN.model_copy(update=changes), None, path)
    assert len(read_history(path, device="pi5")) == 2
    assert [run.run_id for run in read_history(path, device="pi5", bundle="aaaa")] == ["pi5 aa"]
    assert len(read_history(path, bundle="kitchen")) == 3
    assert read_history(path, bundle="") == read_history(path, device="pi") == []


def test_without_a_file_there_is_no_past(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none.jsonl") == []


def test_the_history_is_where_data_of_a_user_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path({}) == tmp_path / ".local/share/edgeaudio/bench/history.jsonl"
    assert history_path({"XDG_DATA_HOME": "relative"}) == history_path({})
    assert history_path({"XDG_DATA_HOME": "/d"}) == Path("/d/edgeaudio/bench/history.jsonl")


def test_a_line_is_plain_json(path: Path) -> None:
    add(path)
    assert PastRun.model_validate(json.loads(path.read_text())) == read_history(path)[0]
