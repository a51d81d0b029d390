"""Signed bundles: keys and their files, the trust store, and what signing does to a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeaudio.bundle import Bundle, PrivateKey, PublicKey, TrustStore, describe, sign_bundle, with_manifest
from edgeaudio.bundle.container import pack, unpack
from edgeaudio.bundle.keys import make_key_files
from edgeaudio.bundle.signature import SIGNATURE_PATH
from edgeaudio.bundle.signing import signed_bytes
from edgeaudio.bundle.trust import add_trusted, remove_trusted
from edgeaudio.errors import BundleError, ConfigError, LimitError, SignatureError, UnsupportedError
from edgeaudio.runtime.classifier import Classifier
from edgeaudio.spec.fs import write_new
from edgeaudio.spec.limits import KEY_FILE_BYTES, MANIFEST_BYTES
from tests import tiny_bundle as tiny


def no_passphrase() -> str:
    pytest.fail("the key is not encrypted: nobody must be asked")


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    make_key_files(tmp_path / "release.key")
    return PrivateKey.read(tmp_path / "release.key", no_passphrase)


@pytest.fixture
def store(tmp_path: Path, key: PrivateKey) -> Path:
    add_trusted(tmp_path / "trust", tmp_path / "release.pub")
    return tmp_path / "trust"


@pytest.fixture
def signed(tmp_path: Path, key: PrivateKey) -> Path:
    path = tmp_path / "x.eab"
    path.write_bytes(tiny.tiny_bytes("onnx-fp32"))
    sign_bundle(path, key)
    return path


def other_key(folder: Path, name: str = "other") -> PrivateKey:
    make_key_files(folder / f"{name}.key")
    return PrivateKey.read(folder / f"{name}.key", no_passphrase)


# Keys


def test_a_key_pair_is_two_files_and_only_its_owner_reads_the_private_one(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = make_key_files(tmp_path / "release.key")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"release.key": 0o600, "release.pub": 0o644}
    assert PublicKey.read(tmp_path / "release.pub") == public
    assert PrivateKey.read(tmp_path / "release.key", no_passphrase).public == public


def test_signatures_are_those_of_rfc_8032() -> None:
    # Section 7.1, test 2.
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = PrivateKey(Ed25519PrivateKey.from_private_bytes(secret))
    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.public.verifies(signature, b"\x72")
    assert not key.public.verifies(signature, b"\x73")


@pytest.mark.parametrize("taken", ["release.key", "release.pub"])
@pytest.mark.parametrize("link", [False, True])
def test_no_key_file_is_ever_overwritten(tmp_path: Path, taken: str, link: bool) -> None:
    if link:
        (tmp_path / taken).symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / taken).write_text("mine")
    with pytest.raises(ConfigError, match=f"{taken}: is there already"):
        make_key_files(tmp_path / "release.key")
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert link or (tmp_path / taken).read_text() == "mine"


def test_a_key_that_cannot_be_written_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent/release\.key: cannot be written: No such file"):
        make_key_files(tmp_path / "absent" / "release.key")
    with pytest.raises(ConfigError, match=r"release\.pub: \.pub is the ending of the public key"):
        make_key_files(tmp_path / "release.pub")


def test_a_write_that_fails_leaves_no_half_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(tmp_path / "release.key", b"key", 0o600)
    assert not list(tmp_path.iterdir())


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    public = make_key_files(path, "sesame \udcff")
    assert b"ENCRYPTED" in path.read_bytes()
    assert PrivateKey.read(path, lambda: "sesame \udcff").public == public
    for wrong in ("Sesame", "", "x" * 5_000):
        with pytest.raises(ConfigError, match=r"release\.key: the passphrase is wrong, or the file is damaged"):
            PrivateKey.read(path, lambda wrong=wrong: wrong)


@pytest.mark.parametrize("passphrase", ["", "x" * 1_024])
def test_a_passphrase_that_protects_nothing_is_refused(tmp_path: Path, passphrase: str) -> None:
    with pytest.raises(ConfigError, match="wanted 1 to 1023"):
        make_key_files(tmp_path / "release.key", passphrase)
    assert not list(tmp_path.iterdir())


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "release.key"
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"mode is 0{mode:o}, .*: chmod 600 .*release.key"):
            PrivateKey.read(path, no_passphrase)


def test_key_files_are_files_not_links_pipes_or_folders(tmp_path: Path, key: PrivateKey) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for ending in ("key", "pub"):
        read = PublicKey.read if ending == "pub" else lambda path: PrivateKey.read(path, no_passphrase)
        link = tmp_path / f"link.{ending}"
        link.symlink_to(tmp_path / f"release.{ending}")
        with pytest.raises(ConfigError, match=f"link.{ending}: is a symbolic link"):
            read(link)
        for odd in (tmp_path / "pipe", tmp_path):
            with pytest.raises(ConfigError, match="not a regular file"):
                read(odd)
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            read(tmp_path / f"absent.{ending}")


def test_what_is_no_key_is_refused(tmp_path: Path, key: PrivateKey) -> None:
    private, public = (tmp_path / "release.key").read_bytes(), (tmp_path / "release.pub").read_bytes()
    foreign = rsa.generate_private_key(65_537, 2_048)
    encoding = serialization.Encoding.PEM
    foreign_private = foreign.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    foreign_public = foreign.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "odd"

    def refused(content: bytes, match: str, *, as_private: bool) -> None:
        path.unlink(missing_ok=True)
        write_new(path, content, 0o600)
        with pytest.raises((ConfigError, LimitError), match=match):
            PrivateKey.read(path, no_passphrase) if as_private else PublicKey.read(path)

    for as_private in (True, False):
        for junk in (b"", b"junk", b"-----BEGIN KEY-----", private[:60] if as_private else public[:60]):
            refused(junk, "in PEM form", as_private=as_private)
        refused(b"x" * (KEY_FILE_BYTES + 1), f"limit is {KEY_FILE_BYTES}", as_private=as_private)
    refused(foreign_private, "key of another kind, wanted Ed25519", as_private=True)
    refused(foreign_public, "key of another kind, wanted Ed25519", as_private=False)
    refused(public, "holds a public key; signing needs the private", as_private=True)
    refused(private, "holds a private key, which must stay", as_private=False)
    for text_around in (public + public, b"my key\n" + public, public + b"# comment"):
        refused(text_around, "holds more than one public key or text around it", as_private=False)


def test_signatures_without_the_package_name_the_command(
    tmp_path: Path, signed: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for attempt in (
        lambda: make_key_files(tmp_path / "new.key"),
        lambda: PrivateKey.read(tmp_path / "release.key", no_passphrase),
        lambda: TrustStore.load(store),
    ):
        with pytest.raises(UnsupportedError, match=r"'cryptography', .*: pip install 'edgeaudio\[signing\]'"):
            attempt()
    # A device that requires no signature needs no such package.
    assert Bundle.read(signed).signature is not None


# Signing


def test_a_signed_bundle_verifies_and_holds_what_it_held(signed: Path, store: Path, key: PrivateKey) -> None:
    before = unpack(tiny.tiny_bytes("onnx-fp32"), "x")
    after = unpack(signed.read_bytes(), "x")
    assert list(after) == [*before, SIGNATURE_PATH]
    assert {name: after[name] for name in before} == before
    assert after[SIGNATURE_PATH] == bytes.fromhex(key.public.key_id) + key.sign(before["manifest.json"])
    bundle = Bundle.read(signed, require_signature=TrustStore.load(store))
    assert bundle.signed_by == "release"
    assert describe(bundle)["signature"] == {"key_id": key.public.key_id}
    unsigned = tiny.tiny_bundle("onnx-fp32")
    assert (unsigned.signature, unsigned.signed_by, describe(unsigned)["signature"]) == (None, None, None)


def test_without_a_requirement_the_signature_is_only_shown(signed: Path) -> None:
    bundle = Bundle.read(signed)
    assert bundle.signature is not None
    assert bundle.signed_by is None


def test_signing_again_changes_nothing_and_another_key_takes_the_place(
    tmp_path: Path, signed: Path, key: PrivateKey
) -> None:
    first = signed.read_bytes()
    sign_bundle(signed, key)
    assert signed.read_bytes() == first
    other = other_key(tmp_path)
    sign_bundle(signed, other)
    replaced = Bundle.read(signed).signature
    assert replaced is not None
    assert replaced.key_id == other.public.key_id
    sign_bundle(signed, key)
    assert signed.read_bytes() == first


def test_the_bytes_of_the_manifest_are_signed_not_its_canonical_form(key: PrivateKey) -> None:
    entries = unpack(tiny.tiny_bytes("onnx-fp32"), "x")
    spaced = entries["manifest.json"].replace(b'","', b'" , "')
    assert spaced != entries["manifest.json"]
    data = signed_bytes(Bundle.read(pack(entries | {"manifest.json": spaced})), key)
    assert unpack(data, "x")["manifest.json"] == spaced
    assert Bundle.read(data, require_signature=TrustStore("x", {"release": key.public})).signed_by == "release"


def test_another_manifest_leaves_the_signature_out(signed: Path) -> None:
    bundle = Bundle.read(signed)
    assert with_manifest(bundle, bundle.manifest) == tiny.tiny_bytes("onnx-fp32")


def test_what_is_no_whole_bundle_is_not_signed(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "x.eab"
    damaged = bytearray(tiny.tiny_bytes("onnx-fp32"))
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(BundleError, match=r"x\.eab"):
        sign_bundle(path, key)
    assert path.read_bytes() == damaged


def test_a_rewrite_that_fails_leaves_the_bundle_as_it_was(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, before = other_key(tmp_path), signed.read_bytes()
    names = {path.name for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        sign_bundle(signed, other)
    assert signed.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_linked_bundle_is_signed_where_it_lies(tmp_path: Path, signed: Path) -> None:
    other, link = other_key(tmp_path), tmp_path / "latest.eab"
    link.symlink_to(signed)
    sign_bundle(link, other)
    assert link.is_symlink()
    changed = Bundle.read(signed).signature
    assert changed is not None
    assert changed.key_id == other.public.key_id


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_signature_as_the_specification_says(tmp_path: Path, signed: Path) -> None:
    entries = unpack(signed.read_bytes(), "x")
    (tmp_path / "manifest.json").write_bytes(entries["manifest.json"])
    (tmp_path / "value").write_bytes(entries[SIGNATURE_PATH][32:])
    command = "openssl pkeyutl -verify -pubin -inkey release.pub -rawin -in manifest.json -sigfile value"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "manifest.json").write_bytes(entries["manifest.json"] + b" ")
    assert subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False).returncode != 0


# Requiring a signature


def test_the_signature_is_verified_before_the_manifest_is_parsed(key: PrivateKey) -> None:
    trust = TrustStore("trust", {"release": key.public})
    stranger = PrivateKey.generate()
    claimed = bytes.fromhex(key.public.key_id) + stranger.sign(b"{")
    data = pack({"manifest.json": b"{", SIGNATURE_PATH: claimed})
    with pytest.raises(SignatureError, match="not a signature by key 'release' over this manifest"):
        Bundle.read(data, require_signature=trust)
    large = pack({"manifest.json": b" " * (MANIFEST_BYTES + 1), SIGNATURE_PATH: claimed})
    with pytest.raises(LimitError, match=r"manifest\.json: bytes"):
        Bundle.read(large, require_signature=trust)


def test_a_missing_signature_names_file_entry_and_command(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "plain.eab"
    path.write_bytes(tiny.tiny_bytes("onnx-fp32"))
    with pytest.raises(SignatureError, match=r"plain\.eab: signature\.ed25519: missing.*edgeaudio bundle sign FILE"):
        Bundle.read(path, require_signature=TrustStore.load(store))


def test_a_wrong_key_is_named_beside_those_that_count(tmp_path: Path, signed: Path, store: Path) -> None:
    other = other_key(tmp_path)
    sign_bundle(signed, other)
    with pytest.raises(SignatureError, match=rf"the key is {other.public.key_id}, trusted in .*trust: release\. .*add"):
        Bundle.read(signed, require_signature=TrustStore.load(store))


def test_a_removed_key_counts_no_longer(tmp_path: Path, signed: Path, store: Path) -> None:
    other_key(tmp_path)
    add_trusted(store, tmp_path / "other.pub")
    assert Bundle.read(signed, require_signature=TrustStore.load(store)).signed_by == "release"
    remove_trusted(store, "release")
    with pytest.raises(SignatureError, match=r"trusted in .*: other"):
        Bundle.read(signed, require_signature=TrustStore.load(store))
    remove_trusted(store, "other")
    with pytest.raises(ConfigError, match=r"holds no trusted key\. Add one: edgeaudio bundle trust add"):
        Bundle.read(signed, require_signature=TrustStore.load(store))


def test_a_cut_signature_is_refused_even_where_none_is_required(signed: Path) -> None:
    entries = unpack(signed.read_bytes(), "x")
    for content in (b"", entries[SIGNATURE_PATH][:-1], entries[SIGNATURE_PATH] * 2):
        with pytest.raises(SignatureError, match=rf"signature\.ed25519: has {len(content)} bytes, wanted 96"):
            Bundle.read(pack(entries | {SIGNATURE_PATH: content}))


def test_a_signature_elsewhere_than_at_the_end_is_refused(signed: Path, store: Path) -> None:
    entries = unpack(signed.read_bytes(), "x")
    names = list(entries)
    moved = {name: entries[name] for name in (names[0], SIGNATURE_PATH, *names[1:-1])}
    with pytest.raises(BundleError, match="wanted order"):
        Bundle.read(pack(moved), require_signature=TrustStore.load(store))


def test_an_artefact_cannot_take_the_name_of_the_signature(key: PrivateKey) -> None:
    payload = tiny.payloads()["onnx", "fp32"]
    artefact = tiny.artefact("onnx", "fp32", payload).model_copy(update={"path": SIGNATURE_PATH})
    vectors = tiny.golden(("onnx-fp32",))
    manifest = tiny.manifest((artefact,), vectors)
    entries = {"manifest.json": manifest.model_dump_json().encode(), SIGNATURE_PATH: payload[:96]}
    with pytest.raises(BundleError):
        Bundle.read(pack(entries | {"golden.safetensors": vectors.to_bytes()}))


def test_a_classifier_loads_only_what_was_signed(tmp_path: Path, signed: Path, store: Path) -> None:
    trust = TrustStore.load(store)
    assert Classifier.load(signed, require_signature=trust).bundle.signed_by == "release"
    signed.write_bytes(tiny.tiny_bytes("onnx-fp32"))
    with pytest.raises(SignatureError, match="missing"):
        Classifier.load(signed, require_signature=trust)


# The trust store


def test_adding_a_key_twice_changes_nothing(tmp_path: Path, store: Path, key: PrivateKey) -> None:
    before = (store / "release.pub").stat().st_mtime_ns
    assert add_trusted(store, tmp_path / "release.pub") == ("release", key.public)
    assert (store / "release.pub").stat().st_mtime_ns == before
    assert TrustStore.load(store).keys == {"release": key.public}


def test_a_name_or_a_key_that_is_taken_is_refused(tmp_path: Path, store: Path) -> None:
    other_key(tmp_path)
    with pytest.raises(ConfigError, match=r"'release' is another key, \w{64}\. .* trust remove release"):
        add_trusted(store, tmp_path / "other.pub", "release")
    with pytest.raises(ConfigError, match="trusted already, as 'release'"):
        add_trusted(store, tmp_path / "release.pub", "second")
    assert [path.name for path in store.iterdir()] == ["release.pub"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "x" * 65, "a\n", "\x1b[31m"])
def test_names_of_keys_are_plain(tmp_path: Path, key: PrivateKey, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a key") as caught:
        add_trusted(tmp_path / "trust", tmp_path / "release.pub", name)
    assert str(caught.value).isprintable()


def test_removing_what_is_not_there_names_the_nearest(tmp_path: Path, store: Path) -> None:
    with pytest.raises(ConfigError, match=r"no key 'relase'\. Did you mean 'release'"):
        remove_trusted(store, "relase")
    with pytest.raises(ConfigError, match=r"no key 'release'\. It is empty"):
        remove_trusted(tmp_path / "absent", "release")


def test_nothing_in_a_trust_store_is_skipped(tmp_path: Path, store: Path) -> None:
    (store / "README").write_text("notes are no keys")
    assert set(TrustStore.load(store).keys) == {"release"}
    for make, match in (
        (lambda path: path.write_text("junk"), r"odd\.pub: not a public key"),
        (lambda path: path.symlink_to(tmp_path / "release.pub"), r"odd\.pub: is a symbolic link"),
        (lambda path: path.mkdir(), r"odd\.pub: not a regular file"),
        (lambda path: shutil.copy(tmp_path / "release.pub", path), r"odd\.pub and release\.pub hold the same key"),
    ):
        odd = store / "odd.pub"
        make(odd)
        with pytest.raises(ConfigError, match=match):
            TrustStore.load(store)
        odd.rmdir() if odd.is_dir() else odd.unlink()
    (store / "-.pub").touch()
    with pytest.raises(ConfigError, match="cannot be the name of a key"):
        TrustStore.load(store)


def test_a_trust_store_that_everyone_can_change_is_refused(store: Path) -> None:
    for path, mode in ((store / "release.pub", 0o644), (store, 0o755)):
        path.chmod(mode | 0o002)
        with pytest.raises(ConfigError, match=f"everyone can change what is trusted: chmod o-w {path}$"):
            TrustStore.load(store)
        path.chmod(mode)
    assert set(TrustStore.load(store).keys) == {"release"}


def test_a_trust_store_is_a_folder(tmp_path: Path, key: PrivateKey) -> None:
    assert TrustStore.load(tmp_path / "absent").keys == {}
    with pytest.raises(ConfigError, match=r"release\.pub: cannot be read as a trust store: Not a directory"):
        TrustStore.load(tmp_path / "release.pub")
