"""Bundles: what is written is read back, and every kind of tampering has its own refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.bundle import Bundle, Golden, describe, replace_manifest, with_manifest, write_bundle
from edgeaudio.bundle.container import pack, unpack
from edgeaudio.bundle.manifest import Parity
from edgeaudio.errors import BundleError, ConfigError, LimitError
from edgeaudio.spec.limits import BUNDLE_BYTES, JSON_DEPTH, MANIFEST_BYTES
from tests import tiny_bundle as tiny

NAMES = ("onnx-fp32", "tflite-int8")


@pytest.fixture
def data() -> bytes:
    return tiny.tiny_bytes(*NAMES)


def _files(bundle: Bundle) -> dict[str, bytes]:
    return {artefact.path: bundle.payload(artefact) for artefact in bundle.manifest.artefacts}


def _edit(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The bundle with its manifest changed, everything around it right again."""
    entries = unpack(data, "x")
    value = json.loads(entries["manifest.json"])
    changed = change(value)
    entries["manifest.json"] = json.dumps(value if changed is None else changed).encode()
    return pack(entries)


def test_a_written_bundle_reads_back(tmp_path: Path, data: bytes) -> None:
    bundle = Bundle.read(data)
    path = tmp_path / "new" / "tiny.eab"
    write_bundle(path, bundle.manifest, _files(bundle), bundle.golden)
    again = Bundle.read(path)
    assert again.manifest == bundle.manifest
    assert _files(again) == _files(bundle)
    assert again.golden.waveform.tobytes() == bundle.golden.waveform.tobytes()
    assert again.golden.logits.keys() == set(NAMES)
    assert again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_builds_are_byte_identical(tmp_path: Path, data: bytes) -> None:
    bundle = Bundle.read(data)
    for name in ("a.eab", "b.eab"):
        write_bundle(tmp_path / name, bundle.manifest, dict(reversed(_files(bundle).items())), bundle.golden)
    assert (tmp_path / "a.eab").read_bytes() == (tmp_path / "b.eab").read_bytes() == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_are_read_and_not_shared(kind: type, data: bytes) -> None:
    given = bytearray(data)
    bundle = Bundle.read(kind(given))
    given[:] = bytes(len(given))
    assert (
        hashlib.sha256(bundle.payload(bundle.manifest.artefacts[0])).hexdigest() == bundle.manifest.artefacts[0].sha256
    )


def test_parity_is_added_without_touching_the_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tiny.eab"
    path.write_bytes(data)
    bundle = Bundle.read(path)
    parity = Parity(reference="numpy", n_windows=3, max_abs_logit_diff=0, argmax_agreement=1, min_argmax_agreement=1)
    artefacts = tuple(artefact.model_copy(update={"parity": parity}) for artefact in bundle.manifest.artefacts)
    replace_manifest(path, bundle.manifest.model_copy(update={"artefacts": artefacts}))
    again = Bundle.read(path)
    assert all(artefact.parity == parity for artefact in again.manifest.artefacts)
    assert _files(again) == _files(bundle)
    replace_manifest(path, bundle.manifest)
    assert path.read_bytes() == data


def test_a_manifest_over_other_files_is_not_written(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tiny.eab"
    path.write_bytes(data)
    other = Bundle.read(tiny.tiny_bytes("onnx-int8")).manifest
    with pytest.raises(BundleError, match="are not in the manifest"):
        replace_manifest(path, other)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_artefact_bytes_are_not_written(tmp_path: Path, data: bytes) -> None:
    bundle = Bundle.read(data)
    files = _files(bundle)
    path = bundle.manifest.artefacts[0].path
    for change, match in (
        ({path: files[path][:-1] + b"\0"}, "sha256"),
        ({path: files[path] + b"\0"}, "size_bytes"),
        ({"artefacts/extra": b""}, "not in the manifest"),
    ):
        with pytest.raises(BundleError, match=match):
            write_bundle(tmp_path / "x.eab", bundle.manifest, files | change, bundle.golden)
    with pytest.raises(BundleError, match="missing"):
        write_bundle(tmp_path / "x.eab", bundle.manifest, {}, bundle.golden)
    assert not list(tmp_path.iterdir())


def test_a_digest_mismatch_names_the_entry(data: bytes) -> None:
    entries = unpack(data, "x")
    model = entries["artefacts/fp32.onnx"]
    entries["artefacts/fp32.onnx"] = model[:-1] + bytes([model[-1] ^ 1])
    with pytest.raises(BundleError, match=r"bundle: entry 'artefacts/fp32.onnx': sha256 is \w+, the manifest says"):
        Bundle.read(pack(entries))


def test_swapped_contents_are_refused(data: bytes) -> None:
    entries = unpack(data, "x")
    a, b = "artefacts/fp32.onnx", "artefacts/int8.tflite"
    entries[a], entries[b] = entries[b], entries[a]
    with pytest.raises(BundleError, match="size_bytes"):
        Bundle.read(pack(entries))


def test_missing_extra_and_reordered_entries_are_refused(data: bytes) -> None:
    entries = unpack(data, "x")
    without = {name: value for name, value in entries.items() if name != "artefacts/fp32.onnx"}
    with pytest.raises(BundleError, match=r"missing: \['artefacts/fp32.onnx'\]"):
        Bundle.read(pack(without))
    with pytest.raises(BundleError, match=r"not in the manifest: \['readme'\]"):
        Bundle.read(pack(entries | {"readme": b""}))
    names = list(entries)
    with pytest.raises(BundleError, match="wanted order"):
        Bundle.read(pack({name: entries[name] for name in (names[0], names[2], names[1], names[3])}))
    with pytest.raises(BundleError, match=r"first entry must be 'manifest\.json'"):
        Bundle.read(pack(dict(reversed(entries.items()))))
    with pytest.raises(BundleError, match="first entry must be"):
        Bundle.read(pack({}))


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = manifest
        for parent in parents:
            target = target[int(parent) if isinstance(target, list) else parent]
        target[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("name", "../x", "name: "),
        ("extra", 1, "extra: "),
        ("frontend.n_mels", 0, "frontend.n_mels: "),
        ("frontend.n_mels", 10**9, "frontend.n_mels: "),
        ("window.frames", 100_000, "window.frames: "),
        ("task.labels.names", ["a", "a", "b"], "task.labels.names: "),
        ("task.labels.names", ["a\x1b[31m", "b", "c"], "task.labels.names: "),
        ("task.labels.names", ["a", "b"], "does not fit the labels"),
        ("artefacts.0.path", "../../etc/passwd", "artefacts.0.path: "),
        ("artefacts.0.path", "manifest.json", "not those of the manifest"),
        ("artefacts.0.sha256", "0" * 64, "sha256"),
        ("artefacts.0.size_bytes", -1, "artefacts.0.size_bytes: "),
        ("artefacts", [], "at least one"),
        ("golden.path", "other", "golden.path is 'other'"),
        ("decision.threshold_off", 0.99, "decision: "),
        ("decision.allow", ["lwo"], r"decision: \['lwo'\] are no labels of the task"),
        ("artefacts.1.decision", {"deny": ["\x1b[31m"]}, "are no labels of the task"),
        ("decision.classes", {"\x1b[31m": {"threshold_on": 5}}, "decision.classes."),
        ("decision.classes", {"\x1b[31m": {"threshold_off": 0.9}}, "threshold_off 0.9 is above"),
        ("schema_version", 0, "schema_version is 0"),
        ("schema_version", True, "schema_version is True"),
        ("schema_version", "1", "schema_version is '1'"),
        ("schema_version", None, "schema_version is None"),
        ("schema_version", 2, r"schema_version is 2, .* needs edgeaudio 0.1.0 or newer: pip install"),
    ],
)
def test_a_wrong_manifest_field_is_named(data: bytes, path: str, value: Any, match: str) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.read(_edit(data, _set(path, value)))
    assert str(caught.value).isprintable()


def test_a_future_bundle_without_lineage_still_says_what_to_do(data: bytes) -> None:
    with pytest.raises(BundleError, match="needs a newer edgeaudio: pip install --upgrade edgeaudio"):
        Bundle.read(_edit(data, lambda _: {"schema_version": 7, "lineage": {"edgeaudio_version": "\x1b[31m"}}))


def test_keys_from_the_manifest_reach_messages_without_escapes(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"\\x1b") as caught:
        Bundle.read(_edit(data, _set("\x1b[31m", 1)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "is a JSON list"),
        (b"null", "is a JSON NoneType"),
        (b'{"a": 1, "a": 1}', "key 'a' is there twice"),
        (b'{"x": {"b": [], "b": []}}', "key 'b' is there twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"schema_version": ' + b"9" * 5_000 + b"}", "not JSON"),
        (b'{"schema_version": 1, "name": "\\ud800"}', "name"),
    ],
)
def test_malformed_json_is_refused(text: bytes, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        Bundle.read(pack({"manifest.json": text}))


@pytest.mark.parametrize("bracket", [b"[", b'{"a":', b'["]",'])
@pytest.mark.parametrize("depth", [JSON_DEPTH + 1, 20_000])
def test_deep_json_is_refused_before_it_is_parsed(bracket: bytes, depth: int) -> None:
    with pytest.raises(LimitError, match="JSON depth"):
        Bundle.read(pack({"manifest.json": bracket * depth}))


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 100_000, b'"\\', b'["' + b"[" * 100_000 + b'"]', b'"' * 200_000])
def test_brackets_in_strings_do_not_count_and_hostile_strings_are_quick(text: bytes) -> None:
    with pytest.raises(BundleError):
        Bundle.read(pack({"manifest.json": text}))


def test_an_oversized_manifest_is_refused() -> None:
    with pytest.raises(LimitError, match=f"limit is {MANIFEST_BYTES}"):
        Bundle.read(pack({"manifest.json": b" " * (MANIFEST_BYTES + 1)}))


def test_paths_that_are_no_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Bundle.read(tmp_path / "missing.eab")
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.read(tmp_path)
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.read("/dev/zero")
    large = tmp_path / "large.eab"
    with large.open("wb") as stream:
        stream.truncate(BUNDLE_BYTES + 1)
    with pytest.raises(LimitError, match=str(BUNDLE_BYTES + 1)):
        Bundle.read(large)


def test_messages_lead_with_the_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cut.eab"
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"cut\.eab: "):
        Bundle.read(path)


def _bad_golden(**changes: Any) -> Golden:
    good = tiny.golden(("onnx-fp32",))
    return Golden(**({"waveform": good.waveform, "log_mel": good.log_mel, "logits": good.logits} | changes))


@pytest.mark.parametrize(
    "vectors",
    [
        _bad_golden(waveform=np.zeros((3, 7), np.float32)),
        _bad_golden(log_mel=np.zeros((3, 9, 63), np.float32)),
        _bad_golden(logits={}),
        _bad_golden(logits={"onnx-fp32": np.zeros((3, 2), np.float32)}),
        _bad_golden(logits={"onnx-fp32": np.zeros((2, 3), np.float32)}),
        _bad_golden(logits={"onnx-fp32": np.full((3, 3), np.nan, np.float32)}),
        _bad_golden(logits=tiny.golden(("onnx-fp32", "onnx-int8")).logits),
        tiny.golden(("onnx-fp32",), n_windows=1).__class__(
            np.zeros((0, tiny.WINDOW_SAMPLES), np.float32),
            np.zeros((0, 9, 64), np.float32),
            {"onnx-fp32": np.zeros((0, 3), np.float32)},
        ),
    ],
)
def test_golden_vectors_that_do_not_fit_are_refused(tmp_path: Path, vectors: Golden) -> None:
    payload = tiny.payloads()["onnx", "fp32"]
    artefact = tiny.artefact("onnx", "fp32", payload)
    with pytest.raises(BundleError, match=r"golden\.safetensors"):
        write_bundle(tmp_path / "x.eab", tiny.manifest((artefact,), vectors), {artefact.path: payload}, vectors)


def _safetensors(header: str, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 16,
        _safetensors("[]"),
        _safetensors("{}"),
        _safetensors('{"waveform":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}', bytes(8)),
        _safetensors('{"waveform":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', bytes(2)),
        _safetensors('{"waveform":{"dtype":"F32","shape":[9223372036854775807,0],"data_offsets":[0,0]}}'),
        _safetensors('{"waveform":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0\0\xc0\x7f"),
        _safetensors('{"other":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)),
        _safetensors('{"waveform":{"dtype":"F32","shape":[' + "1," * 99 + '1],"data_offsets":[0,4]}}', bytes(4)),
    ],
)
def test_malformed_golden_files_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"^g: "):
        Golden.from_bytes(data, "g")


def test_describe_is_json_and_says_what_is_inside(data: bytes) -> None:
    bundle = Bundle.read(data)
    described = json.loads(json.dumps(describe(bundle), allow_nan=False))
    assert described["sha256"] == bundle.sha256
    assert described["size_bytes"] == len(data)
    assert [artefact["name"] for artefact in described["artefacts"]] == list(NAMES)
    assert described["window"]["hop_s"] == tiny.WINDOW.hop_s(tiny.FRONTEND)
    assert described["golden"]["n_windows"] == 3
    assert described["task"]["labels"]["names"] == list(tiny.LABELS)


def test_the_manifest_is_stored_in_canonical_form(data: bytes) -> None:
    bundle = Bundle.read(data)
    text = unpack(data, "x")["manifest.json"]
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode() == text
    assert with_manifest(bundle, bundle.manifest) == data
