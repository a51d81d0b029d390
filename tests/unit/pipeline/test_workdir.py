from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeaudio.errors import ConfigError, WorkDirError
from edgeaudio.pipeline.workdir import DONE, WorkDir


def writer(name: str, text: str, result: Any = None) -> Callable[[Path], Any]:
    def fn(folder: Path) -> Any:
        (folder / name).write_text(text)
        return result

    return fn


def never(folder: Path) -> Any:
    raise AssertionError(f"the stage ran again in {folder}")


def events(work: WorkDir) -> list[tuple[str, str]]:
    return [(line["stage"], line["event"]) for line in work.history()]


def test_the_same_inputs_run_once_and_give_the_same_answer(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        first = work.run_stage("train", {"epochs": 3}, writer("model.bin", "weights", {"accuracy": 0.5}))
    with WorkDir(tmp_path) as work:
        again = work.run_stage("train", {"epochs": 3}, never)
        assert events(work) == [("train", "started"), ("train", "done"), ("train", "skipped")]
    assert (first.skipped, again.skipped) == (False, True)
    assert (again.result, again.outputs, again.wall_s) == (first.result, first.outputs, first.wall_s)
    assert again.output("model.bin").read_text() == "weights"
    assert again.outputs_digest == first.outputs_digest


def test_other_inputs_get_another_folder_and_the_old_one_stays(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        one = work.run_stage("train", {"epochs": 1}, writer("model.bin", "1"))
        two = work.run_stage("train", {"epochs": 2}, writer("model.bin", "2"))
        assert work.stage_folders() == sorted([one.folder, two.folder])
        assert work.run_stage("train", {"epochs": 1}, never).output("model.bin").read_text() == "1"


def test_inputs_and_results_are_the_same_before_and_after_the_disk(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        first = work.run_stage("a", {"folds": (1, 2)}, writer("x", "", {"shape": (3, 4)}))
        assert work.run_stage("a", {"folds": [1, 2]}, never).result == first.result == {"shape": [3, 4]}


@pytest.mark.parametrize("name", ["model.bin", "deep/er/table.csv"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("weightz")])
def test_a_damaged_output_is_named_and_made_again(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    def fn(folder: Path) -> None:
        assert not (folder / name).exists()
        assert not (folder / DONE).exists()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("weights")
        (folder / "other").write_text("kept")

    with WorkDir(tmp_path) as work:
        path = work.run_stage("train", {}, fn).output(name)
        damage(path)
        with caplog.at_level(logging.WARNING):
            assert not work.run_stage("train", {}, fn).skipped
        assert str(path) in caplog.text
        assert work.run_stage("train", {}, never).output(name).read_text() == "weights"


def test_an_unfinished_stage_finds_what_it_left(tmp_path: Path) -> None:
    def cut(folder: Path) -> None:
        (folder / "shard-0").write_text("done")
        (folder / ".shard-1.abc.tmp").write_text("half")
        raise RuntimeError("power")

    def resume(folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    with WorkDir(tmp_path) as work:
        with pytest.raises(RuntimeError, match="power"):
            work.run_stage("label", {}, cut)
        assert not work.stage("label", {}).done
        assert work.run_stage("label", {}, resume).result == ["shard-0"]
        assert ("label", "failed: RuntimeError") in events(work)


def test_a_seal_cut_at_any_byte_means_unfinished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with WorkDir(tmp_path) as work:
        work.run_stage("a", {"x": 1}, writer("f", "content", {"n": 1}))
        stage = work.stage("a", {"x": 1})
        seal = (stage.folder / DONE).read_bytes()
        whole = seal.rstrip(b"\n")
        for cut in range(len(whole)):
            (stage.folder / DONE).write_bytes(whole[:cut])
            assert not stage.done, cut
        for wrong in (b"[]", b"null", b"\0" * len(seal), b"[" * 100_000, seal.replace(b'"a"', b'"b"', 1)[:-5]):
            (stage.folder / DONE).write_bytes(wrong)
            assert not stage.done, wrong[:20]
        assert "will run again" in caplog.text
        assert not work.run_stage("a", {"x": 1}, writer("f", "content", {"n": 1})).skipped
        assert stage.done
        assert stage.result == {"n": 1}


def test_a_seal_of_other_inputs_does_not_count(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        one = work.run_stage("a", {"x": 1}, writer("f", "1"))
        other = work.stage("a", {"x": 2})
        other.folder.mkdir()
        (other.folder / DONE).write_bytes((one.folder / DONE).read_bytes())
        assert not other.done


def test_redoing_from_a_stage_empties_it_and_all_that_follow(tmp_path: Path) -> None:
    order = ["label", "train", "export"]

    def run_all(work: WorkDir, from_stage: str | None) -> list[str]:
        if from_stage is not None:
            work.invalidate(from_stage, order)
        seen: list[str] = []

        def fn(folder: Path) -> None:
            assert list(folder.iterdir()) == []
            seen.append(folder.name.rpartition("-")[0])
            (folder / "out").write_text("x")

        for name in order:
            work.run_stage(name, {}, fn)
        return seen

    with WorkDir(tmp_path) as work:
        other = work.run_stage("train", {"seed": 2}, writer("out", "of another seed"))
        assert run_all(work, None) == order
        assert run_all(work, None) == []
    with WorkDir(tmp_path) as work:
        assert run_all(work, "train") == ["train", "export"]
        # Twice in one run is once: the two arms of a control share stage names.
        assert run_all(work, None) == []
        assert (other.folder / DONE).exists()
        with pytest.raises(ConfigError, match="Did you mean 'export'"):
            work.invalidate("exprot", order)


def test_a_missing_output_is_asked_for_by_name(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        result = work.run_stage("train", {}, writer("model.bin", "x"))
    with pytest.raises(WorkDirError, match=r"train wrote no 'modle\.bin'\. Did you mean 'model\.bin'"):
        result.output("modle.bin")


def test_what_is_not_json_is_refused_and_leaves_no_seal(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        with pytest.raises(WorkDirError, match="the inputs of stage a cannot be written as JSON"):
            work.run_stage("a", {"path": Path("x")}, never)
        for result in (float("nan"), object()):
            with pytest.raises(WorkDirError, match="the result of stage a cannot be written as JSON"):
                work.run_stage("a", {}, writer("f", "x", result))
            assert not work.stage("a", {}).done
        with pytest.raises(ValueError, match="stage name"):
            work.stage("../a", {})


def test_a_torn_line_in_the_history_swallows_nothing(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        work.run_stage("a", {}, writer("f", "x"))
        log = tmp_path / "run.jsonl"
        log.write_bytes(log.read_bytes()[:-9])
        work.run_stage("a", {}, never)
        assert events(work) == [("a", "started"), ("a", "skipped")]


def test_writing_needs_the_lock_and_a_folder_that_can_be_made(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    with pytest.raises(WorkDirError, match="not locked"):
        work.run_stage("a", {}, never)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkDirError, match="cannot be made"):
        WorkDir(tmp_path / "file")
    with WorkDir(tmp_path):
        pass
    with WorkDir(tmp_path) as work:
        assert work.stage_folders() == []


CHILD = """
import sys, time
from pathlib import Path
from edgeaudio.pipeline.workdir import WorkDir

def slow(folder):
    (folder / "part").write_text("half")
    print("working", flush=True)
    time.sleep(60)

with WorkDir(Path(sys.argv[1])) as work:
    work.run_stage("label", {"x": 1}, slow)
"""


@pytest.fixture
def child(tmp_path: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_refused_and_told_who_holds_the_lock(tmp_path: Path, child: Any) -> None:
    with pytest.raises(WorkDirError, match=rf"in use by process {child.pid} on "), WorkDir(tmp_path):
        raise AssertionError("two runs in one work directory")
    # Reading, as a report does, is allowed meanwhile.
    assert events(WorkDir(tmp_path)) == [("label", "started")]


def test_a_killed_run_leaves_no_lock_and_goes_on(tmp_path: Path, child: Any) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    def resume(folder: Path) -> str:
        return (folder / "part").read_text()

    with WorkDir(tmp_path) as work:
        assert work.run_stage("label", {"x": 1}, resume).result == "half"
    seal = json.loads((tmp_path / "stages").glob(f"*/{DONE}").__next__().read_bytes())
    assert seal["inputs"] == {"x": 1}
    assert list(seal["outputs"]) == ["part"]
