"""Datasets load as they lie on disk, or fail with the file, the line and the column."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeaudio.data.datasets import load_dataset
from edgeaudio.errors import ConfigError, DataError

ESC_HEADER = "filename,fold,target,category,esc10,src_file,take\n"
ESC_ROWS = (
    "1-1-A-0.wav,1,0,dog,True,1,A\n"
    "2-2-A-40.wav,2,40,helicopter,True,2,A\n"
    "3-3-A-7.wav,3,7,crow,False,3,A\n"
)  # fmt: skip


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"audio, for all a loader knows")


def esc(root: Path, rows: str = ESC_ROWS, header: str = ESC_HEADER, suffix: str = ".wav") -> Path:
    touch(root, *(f"audio/{stem}{suffix}" for stem in ("1-1-A-0", "2-2-A-40", "3-3-A-7")))
    (root / "meta").mkdir()
    (root / "meta/esc50.csv").write_text(header + rows)
    return root


def table(root: Path, text: str) -> Path:
    path = root / "clips.csv"
    path.write_text(text)
    return path


def load(root: Path, text: str):  # type: ignore[no-untyped-def]
    return load_dataset("csv", root, csv_path=table(root, text))


def test_esc50_numbers_labels_in_target_order(tmp_path: Path) -> None:
    dataset = load_dataset("esc50", esc(tmp_path))
    assert dataset.task.labels.names == ("dog", "crow", "helicopter")
    assert dataset.task.kind == "single_label"
    assert [(clip.id, clip.labels, clip.fold) for clip in dataset.clips] == [
        ("1-1-A-0", (0,), 1),
        ("2-2-A-40", (2,), 2),
        ("3-3-A-7", (1,), 3),
    ]
    assert dataset.folds() == (1, 2, 3)


def test_esc10_takes_the_flagged_rows_only(tmp_path: Path) -> None:
    dataset = load_dataset("esc10", esc(tmp_path))
    assert dataset.task.labels.names == ("dog", "helicopter")
    assert [clip.labels for clip in dataset.clips] == [(0,), (1,)]
    assert "NC" not in dataset.licence


def test_esc50_row_that_says_wav_finds_the_ogg_of_the_same_name(tmp_path: Path) -> None:
    dataset = load_dataset("esc50", esc(tmp_path, suffix=".ogg"))
    assert {clip.path.suffix for clip in dataset.clips} == {".ogg"}
    assert dataset.clips[0].id == "1-1-A-0"


def test_esc50_named_file_wins_over_its_twin_and_two_twins_are_refused(tmp_path: Path) -> None:
    esc(tmp_path)
    touch(tmp_path, "audio/1-1-A-0.flac", "audio/1-1-A-0.ogg")
    assert load_dataset("esc50", tmp_path).clips[0].path.suffix == ".wav"
    (tmp_path / "audio/1-1-A-0.wav").unlink()
    with pytest.raises(DataError, match=r"esc50.csv:2: column 'filename'.*several files"):
        load_dataset("esc50", tmp_path)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ESC_ROWS + "9-9-A-1.wav,1,1,rooster,True,9,A\n", ESC_HEADER, r"1 of 4 files are not under .*9-9-A-1\.wav"),
        ("1-1-A-0.wav,one,0,dog,True,1,A\n", ESC_HEADER, r"esc50\.csv:2: column 'fold': 'one'"),
        ("1-1-A-0.wav,1,0,dog,True,1,A\n2-2-A-40.wav,1,0,cat,True,1,A\n", ESC_HEADER, r":3: column 'category'"),
        ("../1-1-A-0.wav,1,0,dog,True,1,A\n", ESC_HEADER, r":2: column 'filename'.*not a plain file name"),
        (ESC_ROWS, ESC_HEADER.replace("target", "tagret"), r":1: no column 'target'. Did you mean 'tagret'"),
        ("1-1-A-0.wav,1,0\n", ESC_HEADER, r":2: has 3 cells, the header has 7"),
        ("", ESC_HEADER, "no rows"),
        ("1-1-A-0.wav,1,0,do\x07g,True,1,A\n", ESC_HEADER, "printable"),
    ],
)
def test_esc50_table_with_a_fault_is_refused_by_place(tmp_path: Path, rows: str, header: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset("esc50", esc(tmp_path, rows, header))


def test_esc10_of_a_table_without_flags_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'esc10' is True in no row"):
        load_dataset("esc10", esc(tmp_path, ESC_ROWS.replace("True", "False")))


def test_folder_names_are_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.wav", "dog/deep/b.FLAC", "cat/c.ogg", "cat/._c.ogg", "cat/notes.txt", ".git/x.wav")
    dataset = load_dataset("folder", tmp_path, licence="CC0")
    assert dataset.task.labels.names == ("cat", "dog")
    assert [(clip.id, clip.labels) for clip in dataset.clips] == [
        ("cat/c.ogg", (0,)),
        ("dog/a.wav", (1,)),
        ("dog/deep/b.FLAC", (1,)),
    ]
    assert dataset.licence == "CC0"


def test_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/a.wav", "train/cat/b.wav", "validation/dog/c.wav", "test/dog/d.wav")
    dataset = load_dataset("folder", tmp_path)
    assert {clip.id: clip.split for clip in dataset.clips} == {
        "train/dog/a.wav": "train",
        "train/cat/b.wav": "train",
        "validation/dog/c.wav": "val",
        "test/dog/d.wav": "test",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/dog/a.wav", "cat/b.wav"), "beside them"),
        (("dog/a.wav", "cat/readme.txt"), "cat: a class folder without audio"),
        (("a.wav",), "no class folders"),
    ],
)
def test_folder_of_no_clear_meaning_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        load_dataset("folder", tmp_path)


def test_csv_single_label_with_folds_and_splits(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    text = "\ufefffile,label,fold,split,comment\na.wav,dog,1,train,x\nb.wav,cat,2,valid,y\n"
    dataset = load(tmp_path, text)
    assert dataset.task.kind == "single_label"
    assert dataset.task.labels.names == ("cat", "dog")
    assert [(clip.labels, clip.fold, clip.split) for clip in dataset.clips] == [((1,), 1, "train"), ((0,), 2, "val")]


def test_csv_labels_make_a_multi_label_task(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    dataset = load(tmp_path, "file,labels\na.wav,dog; cat\nb.wav,\nc.wav,dog\n")
    assert dataset.task.kind == "multi_label"
    assert [clip.labels for clip in dataset.clips] == [(1, 0), (), (1,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,lable\na.wav,dog\n", r"clips\.csv:1: .*Did you mean 'label'"),
        ("fiel,label\na.wav,dog\n", r":1: no column 'file'. Did you mean 'fiel'"),
        ("file,label,flod\na.wav,dog,1\n", r":1: column 'flod' is not known. Did you mean 'fold'"),
        ("file,label,labels\na.wav,dog,cat\n", "wanted one of the columns"),
        ("file,file,label\na.wav,a.wav,dog\n", "named twice"),
        ("file,label\na.wav,\n", r":2: column 'label': '' is empty"),
        ("file,label\n\na.wav,dog\na.wav,cat\n", r":4: column 'file': 'a.wav' is in line 3 already"),
        ("file,labels\na.wav,dog;dog\n", r":2: column 'labels'.*twice"),
        ("file,label,split\na.wav,dog,tarin\n", r":2: column 'split'.*Did you mean 'train'"),
        ("file,label,fold\na.wav,dog,-1\n", r":2: column 'fold': '-1' is not a whole number"),
        ("file,label\nb.wav,dog\n", r"1 of 1 files are not under"),
        ("file,label\na.wav,dog,cat\n", r":2: has 3 cells"),
        ("file,label\n" + "x" * 5000 + ".wav,dog\n", "files are not under"),
        ("file,label\na\0.wav,dog\n", r":2: column 'file'.*UTF-8 file name"),
        ("", "no column 'file'"),
    ],
)
def test_csv_with_a_fault_is_refused_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize("name", ["../secret.wav", "{root}/../secret.wav", "link.wav", "folder/secret.wav", "ring.wav"])
def test_csv_cannot_reach_outside_its_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    touch(tmp_path, "secret.wav")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    (root / "folder").symlink_to(tmp_path)
    (root / "ring.wav").symlink_to(root / "ring.wav")
    with pytest.raises(DataError, match=r"clips\.csv:2: column 'file'.*(leads out of|resolved)"):
        load(root, f"file,label\n{name.format(root=root)},dog\n")


def test_folder_of_links_cannot_reach_outside_its_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(tmp_path, "private/secret.wav")
    touch(root, "dog/a.wav")
    (root / "cat").symlink_to(tmp_path / "private")
    with pytest.raises(DataError, match="leads out of"):
        load_dataset("folder", root)
    (root / "cat").unlink()
    (root / "dog/link.wav").symlink_to(tmp_path / "private/secret.wav")
    with pytest.raises(DataError, match="leads out of"):
        load_dataset("folder", root)
    with pytest.raises(DataError, match="leads out of"):
        load_dataset("unlabelled", root)


def test_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "b.wav").symlink_to("a.wav")
    assert len(load(tmp_path, "file,label\nb.wav,dog\n").clips) == 1


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b'file,label\n"a.wav', b"file,label\n" + b"a" * 200_000])
def test_csv_that_is_not_one_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "clips.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"clips\.csv: is not a UTF-8 CSV"):
        load_dataset("csv", tmp_path, csv_path=tmp_path / "clips.csv")


def test_unlabelled_takes_every_audio_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "deep/er/b.mp3", "index.csv")
    dataset = load_dataset("unlabelled", tmp_path)
    assert [(clip.id, clip.labels) for clip in dataset.clips] == [("a.wav", ()), ("deep/er/b.mp3", ())]


def test_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xe9.wav")
    try:
        touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DataError, match="UTF-8 file name"):
        load_dataset("unlabelled", tmp_path)


def test_empty_and_absent_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no clips"):
        load_dataset("unlabelled", tmp_path)
    for kind in ("unlabelled", "folder", "esc50", "esc10"):
        with pytest.raises(DataError, match="absent"):
            load_dataset(kind, tmp_path / "absent")


def test_unknown_kind_and_option_name_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'folder'"):
        load_dataset("foldr", tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'csv_path'"):
        load_dataset("csv", tmp_path, csvpath="x")
    with pytest.raises(ConfigError, match="needs the option 'csv_path'"):
        load_dataset("csv", tmp_path)
    with pytest.raises(ConfigError, match="It takes none"):
        load_dataset("esc10", tmp_path, fold=1)


@pytest.mark.assets
def test_real_esc10_has_ten_classes_of_forty_in_five_folds(shared_dir: Path) -> None:
    dataset = load_dataset("esc10", shared_dir / "data/esc10")
    assert len(dataset.clips) == 400
    assert len(dataset.task.labels) == 10
    assert dataset.folds() == (1, 2, 3, 4, 5)
    for fold in dataset.folds():
        assert sum(clip.fold == fold for clip in dataset.clips) == 80
