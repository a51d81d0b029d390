"""mn04 computes what the published network computes, and refuses weights that are not its own."""

from __future__ import annotations

import hashlib
import io
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeaudio.errors import ConfigError, DataError, LimitError, ShapeError, VerificationError
from edgeaudio.frontend.reference import reference_log_mel
from edgeaudio.frontend.tables import frontend_tables
from edgeaudio.teachers import mn04, weights
from edgeaudio.teachers.audioset import audioset_labels
from edgeaudio.teachers.mn04 import MN04, MN04_FRONTEND, MN04Teacher
from edgeaudio.teachers.weights import cache_dir, fetch_file, load_state_dict, state_digest

# The tolerances that the golden vectors' specification suggests; measured: 2e-5, 3e-6, 3e-5.
LOG_MEL_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def teacher(shared_dir: Path) -> MN04Teacher:
    return MN04Teacher.load(shared_dir / "data" / "weights" / mn04.WEIGHTS_FILE)


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> dict[str, np.ndarray]:
    with np.load(shared_dir / "data" / "weights" / "golden-mn04.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.assets
def test_front_end_matches_the_golden_log_mel(teacher: MN04Teacher, golden: dict[str, np.ndarray]) -> None:
    log_mel = teacher.log_mel(torch.from_numpy(golden["waveform"])).numpy()
    assert log_mel.shape == (3, 500, 128)
    assert np.abs(log_mel - golden["frontend"].transpose(0, 2, 1)).max() < LOG_MEL_TOLERANCE
    reference = reference_log_mel(golden["waveform"][0], MN04_FRONTEND)
    assert np.abs(reference - golden["frontend"][0].T).max() < LOG_MEL_TOLERANCE


@pytest.mark.assets
def test_mel_bands_match_the_golden_row_sums(golden: dict[str, np.ndarray]) -> None:
    sums = frontend_tables(MN04_FRONTEND).mel.sum(axis=1)
    assert np.abs(sums - golden["mel_filter_row_sums"]).max() < LOG_MEL_TOLERANCE


@pytest.mark.assets
def test_embedding_and_logits_match_the_golden_vectors(teacher: MN04Teacher, golden: dict[str, np.ndarray]) -> None:
    embedding, logits = teacher.embed(torch.from_numpy(golden["waveform"]))
    assert np.abs(embedding.numpy() - golden["embedding384"]).max() < OUTPUT_TOLERANCE
    assert np.abs(logits.numpy() - golden["logits527"]).max() < OUTPUT_TOLERANCE
    top5 = logits.topk(5).indices.numpy()
    np.testing.assert_array_equal(top5, golden["top5_index"])
    names = [[teacher.labels.names[i] for i in row] for row in top5]
    assert names == golden["top5_label"].tolist()


@pytest.mark.assets
def test_one_clip_gives_what_it_gives_in_a_batch(teacher: MN04Teacher, golden: dict[str, np.ndarray]) -> None:
    waveform = torch.from_numpy(golden["waveform"][:, :40_000])
    together = teacher.embed(waveform)[1]
    alone = torch.cat([teacher.embed(clip[None])[1] for clip in waveform])
    assert (together - alone).abs().max() < OUTPUT_TOLERANCE


@pytest.mark.assets
def test_digest_is_of_the_weights_and_not_of_the_file(teacher: MN04Teacher, tmp_path: Path, shared_dir: Path) -> None:
    path = tmp_path / "repacked.pt"
    torch.save(teacher.network.state_dict(), path)
    with pytest.raises(VerificationError, match="SHA-256"):
        MN04Teacher.load(path)
    repacked = MN04Teacher.load(path, allow_unknown_digest=True)
    assert repacked.digest == teacher.digest
    with torch.no_grad():
        repacked.network.last_layer.bias[0] += 1e-6
    assert MN04Teacher(repacked.network).digest != teacher.digest


def test_network_has_the_published_size() -> None:
    network = MN04()
    assert sum(p.numel() for p in network.parameters()) == 983_599
    assert len(network.state_dict()) == 312


@pytest.mark.parametrize("frames", [1, 3, 100])
def test_any_length_gives_one_embedding_per_clip(frames: int) -> None:
    logits, embedding = MN04(classes=10).eval()(torch.zeros(2, frames, 128))
    assert logits.shape == (2, 10)
    assert embedding.shape == (2, 384)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(batch, frames, 128\)"):
        MN04()(torch.zeros(1, 128, 100))
    with pytest.raises(ShapeError, match="at least 514 samples"):
        MN04Teacher(MN04()).embed(torch.zeros(1, 513))
    with pytest.raises(ShapeError, match=r"\(batch, samples\)"):
        MN04Teacher(MN04()).embed(torch.zeros(1000))
    assert MN04Teacher(MN04()).embed(torch.zeros(1, 514))[0].shape == (1, 384)


def test_teacher_never_trains_and_never_tracks_gradients() -> None:
    teacher = MN04Teacher(MN04().train())
    embedding, logits = teacher.embed(torch.randn(2, 4000))
    assert not teacher.network.training
    assert not embedding.requires_grad
    assert not logits.requires_grad


def test_labels_are_the_527_of_audioset() -> None:
    labels = audioset_labels()
    assert len(labels) == len(labels.audioset_ids) == len(set(labels.audioset_ids)) == 527
    assert labels.names[0] == "Speech"
    assert labels.audioset_ids[labels.index("Dog")] == "/m/0bt9lr"
    assert labels.index("Field recording") == 526


@pytest.mark.assets
def test_label_table_is_that_of_the_weights(shared_dir: Path) -> None:
    import csv

    with (shared_dir / "data" / "weights" / "audioset_class_labels_indices.csv").open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: int(row["index"]))
    assert tuple(row["display_name"] for row in rows) == audioset_labels().names
    assert tuple(row["mid"] for row in rows) == audioset_labels().audioset_ids


def test_weights_of_another_network_or_no_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(MN04(classes=10).state_dict(), path)
    with pytest.raises(VerificationError, match=r"do not fit MN04.*classifier\.5"):
        MN04Teacher.load(path, allow_unknown_digest=True)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="not a plain PyTorch checkpoint"):
        MN04Teacher.load(path, allow_unknown_digest=True)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="hold a list"):
        MN04Teacher.load(path, allow_unknown_digest=True)
    with pytest.raises(DataError, match="do not exist"):
        MN04Teacher.load(tmp_path / "absent.pt")


class Gadget:
    """Its pickle runs code when it is loaded without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/nonexistent/never-touched"),))  # type: ignore[return-value]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"features.0.0.weight": Gadget()}, path)
    with pytest.raises(DataError, match="not a plain PyTorch checkpoint"):
        load_state_dict(path, "0" * 64, allow_unknown_digest=True)


def test_weights_come_from_the_cache_folder_when_no_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path / "edgeaudio" / mn04.WEIGHTS_FILE)):
        MN04Teacher.load()


def test_cache_dir_follows_the_xdg_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_dir({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/edgeaudio")
    assert cache_dir({"XDG_CACHE_HOME": "relative"}) == Path("/home/somebody/.cache/edgeaudio")
    assert cache_dir({}) == Path("/home/somebody/.cache/edgeaudio")


def test_state_digest_sees_name_shape_type_and_value() -> None:
    base = {"a": torch.arange(6.0)}
    others = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).reshape(2, 3)},
        {"a": torch.arange(6.0).double()},
        {"a": torch.arange(6.0) + 1},
        {"a": torch.arange(6.0), "b": torch.zeros(1)},
    ]
    assert len({state_digest(state) for state in [base, *others]}) == 6
    assert state_digest(base) == state_digest({"a": torch.arange(12.0)[:6]})


class FakeResponse(io.BytesIO):
    """What `urlopen` gives back."""

    def __init__(self, body: bytes, length: int | None) -> None:
        super().__init__(body)
        self.headers = Message()
        if length is not None:
            self.headers["Content-Length"] = str(length)


BODY = bytes(range(256)) * 3000
BODY_SHA256 = hashlib.sha256(BODY).hexdigest()
URL = "https://example.org/w.pt"


def serve(monkeypatch: pytest.MonkeyPatch, body: bytes, length: int | None) -> list[str]:
    asked: list[str] = []

    def fake_urlopen(request: object, timeout: float) -> FakeResponse:
        asked.append(request.full_url)  # type: ignore[attr-defined]
        return FakeResponse(body, length)

    monkeypatch.setattr(weights, "urlopen", fake_urlopen)
    return asked


@pytest.mark.parametrize("length", [len(BODY), None])
def test_fetch_writes_the_whole_file_and_reports_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    asked, seen = serve(monkeypatch, BODY, length), list[tuple[int, int]]()
    to = tmp_path / "new" / "w.pt"
    assert fetch_file(URL, BODY_SHA256, to, progress=lambda done, total: seen.append((done, total))) == to
    assert to.read_bytes() == BODY
    assert seen[-1] == (len(BODY), length or 0)
    assert len(seen) > 1
    fetch_file(URL, BODY_SHA256, to)
    assert asked == [URL], "a file that is already right is not downloaded again"


@pytest.mark.parametrize(
    ("body", "length", "limit_bytes", "error", "message"),
    [
        (BODY[:-1] + b"x", None, 10**6, VerificationError, "SHA-256 is"),
        (BODY[:1000], len(BODY), 10**6, DataError, "ended after 1000 of 768000 bytes"),
        (BODY, None, 500_000, LimitError, "limit is 500000"),
        (BODY, len(BODY), 500_000, LimitError, "is 768000"),
    ],
)
def test_a_wrong_download_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    length: int | None,
    limit_bytes: int,
    error: type[Exception],
    message: str,
) -> None:
    serve(monkeypatch, body, length)
    to = tmp_path / "w.pt"
    to.write_bytes(b"old")
    with pytest.raises(error, match=message):
        fetch_file(URL, BODY_SHA256, to, limit_bytes=limit_bytes)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]
    assert to.read_bytes() == b"old"


def test_fetch_explains_a_dead_network_and_refuses_plain_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(request: object, timeout: float) -> FakeResponse:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(weights, "urlopen", dead)
    with pytest.raises(DataError, match=r"cannot download .*Network is unreachable.*put it at"):
        mn04.fetch_weights(to=tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="not https"):
        fetch_file("http://example.org/w.pt", BODY_SHA256, tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []
