"""Every fault in a signed bundle is refused, and the same faults unmask verifiers that are broken on purpose."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeaudio.bundle import Bundle, PrivateKey, TrustStore, bundle_bytes
from edgeaudio.bundle.container import pack, unpack
from edgeaudio.bundle.signature import SIGNATURE_PATH
from edgeaudio.bundle.signing import signed_bytes
from edgeaudio.errors import BundleError, LimitError
from edgeaudio.spec.base import canonical_json
from tests import tiny_bundle as tiny

FUZZ_N = int(os.environ.get("EDGEAUDIO_FUZZ_N", "2000"))
MANIFEST, MODEL, GOLDEN = "manifest.json", "artefacts/fp32.onnx", "golden.safetensors"

KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STRANGER = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUST = TrustStore("trust", {"release": KEY.public})


class Scheme(NamedTuple):
    """A way to sign the manifest of a bundle, and the verifier that belongs to it."""

    sign: Callable[[bytes], bytes]
    accepts: Callable[[bytes], bool]


class Fault(NamedTuple):
    name: str
    data: bytes


@functools.cache
def unsigned(name: str = "tiny") -> bytes:
    """A bundle as small as they come: one model, one golden window."""
    payload = tiny.payloads()["onnx", "fp32"]
    artefact = tiny.artefact("onnx", "fp32", payload)
    vectors = tiny.golden((artefact.name,), n_windows=1)
    return bundle_bytes(tiny.manifest((artefact,), vectors, name=name), {artefact.path: payload}, vectors)


def reads(data: bytes, trust: TrustStore | None = None) -> bool:
    """Whether the library reads it. Errors of another kind than the documented ones are failures."""
    try:
        Bundle.read(data, require_signature=trust)
    except (BundleError, LimitError):
        return False
    return True


OURS = Scheme(lambda data: signed_bytes(Bundle.read(data), KEY), lambda data: reads(data, TRUST))


def flips(content: bytes, positions: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Each bit of these bytes flipped, one at a time."""
    damaged = bytearray(content)
    for position in positions:
        for bit in range(8):
            damaged[position] ^= 1 << bit
            yield f"bit {bit} of byte {position}", bytes(damaged)
            damaged[position] ^= 1 << bit


def raw_flips(data: bytes) -> Iterator[Fault]:
    """Every bit of headers, table, manifest and signature, and some of the weights and vectors, in the file itself."""
    rng, at, weights = random.Random(1), 0, list[int]()
    for name, payload in unpack(data, "x").items():
        at += 30 + len(name)
        if name in (MODEL, GOLDEN):
            weights += range(at, at + len(payload))
        at += len(payload)
    held = set(weights)
    structure = (position for position in range(len(data)) if position not in held)
    for name, damaged in flips(data, structure):
        yield Fault(f"file, {name}", damaged)
    for name, damaged in flips(data, rng.sample(weights, min(len(weights), FUZZ_N // 8))):
        yield Fault(f"weights, {name}", damaged)


def mended_flips(data: bytes) -> Iterator[Fault]:
    """Every bit of manifest and signature, some of the weights, with all CRCs around it right again."""
    rng = random.Random(2)
    entries = unpack(data, "x")
    for entry in (SIGNATURE_PATH, MANIFEST):
        # In no order: what is wrong with a broken verifier may lie at the end.
        positions = rng.sample(range(len(entries[entry])), len(entries[entry]))
        for name, damaged in flips(entries[entry], positions):
            yield Fault(f"{entry}, mended, {name}", pack(entries | {entry: damaged}))
    for entry in (MODEL, GOLDEN):
        positions = rng.sample(range(len(entries[entry])), min(len(entries[entry]), FUZZ_N // 50))
        for name, damaged in flips(entries[entry], positions):
            yield Fault(f"{entry}, mended, {name}", pack(entries | {entry: damaged}))


def forgeries(data: bytes, other: bytes) -> Iterator[Fault]:
    """What someone without the key can make of a signed bundle and of `other`, signed by the same key."""
    entries, others = unpack(data, "x"), unpack(other, "x")
    record = entries[SIGNATURE_PATH]
    without = {name: content for name, content in entries.items() if name != SIGNATURE_PATH}
    model = bytearray(entries[MODEL])
    model[-1] ^= 1
    manifest = json.loads(entries[MANIFEST])
    manifest["artefacts"][0] |= tiny.file_entry(MODEL, bytes(model)).model_dump()
    consistent = entries | {MODEL: bytes(model), MANIFEST: canonical_json(manifest)}
    assert reads(pack({name: content for name, content in consistent.items() if name != SIGNATURE_PATH}))
    yield Fault("another model, the digests of the manifest right", pack(consistent))
    yield Fault("no signature", pack(without))
    yield Fault("the signature of another bundle", pack(entries | {SIGNATURE_PATH: others[SIGNATURE_PATH]}))
    yield Fault("the manifest of another bundle", pack(entries | {MANIFEST: others[MANIFEST]}))
    yield Fault("a space after the manifest", pack(entries | {MANIFEST: entries[MANIFEST] + b" "}))
    indented = json.dumps(json.loads(entries[MANIFEST]), indent=1).encode()
    yield Fault("the manifest indented", pack(entries | {MANIFEST: indented}))
    yield Fault("another key", signed_bytes(Bundle.read(pack(without)), STRANGER))
    claimed = bytes.fromhex(KEY.public.key_id) + STRANGER.sign(entries[MANIFEST])
    yield Fault("another key under the id of the trusted one", pack(entries | {SIGNATURE_PATH: claimed}))
    for length in range(len(record)):
        yield Fault(f"signature cut to {length} bytes", pack(entries | {SIGNATURE_PATH: record[:length]}))
    for extra in (b"\0", record, bytes(len(record)), b"\0" * len(record) * 8):
        yield Fault(f"signature and {len(extra)} bytes", pack(entries | {SIGNATURE_PATH: record + extra}))
        yield Fault(f"{len(extra)} bytes and signature", pack(entries | {SIGNATURE_PATH: extra + record}))
    yield Fault("an extra entry", pack(entries | {"extra": b""}))
    yield Fault("an extra entry before the signature", pack(without | {"extra": b"", SIGNATURE_PATH: record}))
    yield Fault("the signature before the vectors", pack(dict(sorted(entries.items(), key=lambda e: e[0] == GOLDEN))))
    yield Fault("the signature first", pack({SIGNATURE_PATH: record, **without}))


def rezipped(data: bytes) -> Iterator[Fault]:
    """Packed again by an ordinary ZIP tool, with an extra entry and without, in place and at the end."""
    entries = unpack(data, "x")
    for extra in ({}, {"extra": b"x"}, {"../extra": b"x"}):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in (entries | extra).items():
                archive.writestr(name, content)
        yield Fault(f"zipped again with {list(extra)}", buffer.getvalue())
    for name in ("extra", MODEL, MANIFEST, SIGNATURE_PATH):
        buffer = io.BytesIO(data)
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
            warnings.simplefilter("ignore")  # A name that is there twice.
            archive.writestr(name, b"x")
        yield Fault(f"{name} appended", buffer.getvalue())


def faults(scheme: Scheme) -> Iterator[Fault]:
    """All of them; the quick ones first."""
    signed, other = scheme.sign(unsigned()), scheme.sign(unsigned("other"))
    assert scheme.accepts(signed)
    assert scheme.accepts(other)
    yield from forgeries(signed, other)
    yield from rezipped(signed)
    yield from mended_flips(signed)
    yield from raw_flips(signed)


def unnoticed(scheme: Scheme) -> Iterator[str]:
    """The faults that the scheme's verifier lets through."""
    return (fault.name for fault in faults(scheme) if scheme.accepts(fault.data))


@pytest.mark.slow
def test_every_fault_in_a_signed_bundle_is_refused() -> None:
    assert next(unnoticed(OURS), None) is None


def test_every_forgery_is_refused() -> None:
    signed = OURS.sign(unsigned())
    for fault in (*forgeries(signed, OURS.sign(unsigned("other"))), *rezipped(signed)):
        assert not OURS.accepts(fault.data), fault.name


def test_every_bit_of_the_signature_counts() -> None:
    entries = unpack(OURS.sign(unsigned()), "x")
    record = entries[SIGNATURE_PATH]
    assert len(record) == 96
    for name, damaged in flips(record, range(len(record))):
        assert not OURS.accepts(pack(entries | {SIGNATURE_PATH: damaged})), name


def test_randomly_damaged_signed_bundles_are_refused() -> None:
    rng = random.Random(3)
    signed = OURS.sign(unsigned())
    for _ in range(FUZZ_N // 4):
        damaged = bytearray(signed)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] ^= rng.randrange(1, 256)
        start = rng.randrange(len(damaged))
        if rng.random() < 0.3:
            del damaged[start : start + rng.randint(1, 64)]
        if damaged != signed:
            assert not OURS.accepts(bytes(damaged))


def over(message: Callable[[bytes], bytes]) -> Scheme:
    """A twin whose signer and verifier agree on something else than the exact bytes of the manifest."""

    def sign(data: bytes) -> bytes:
        entries = unpack(data, "x")
        record = bytes.fromhex(KEY.public.key_id) + KEY.sign(message(entries[MANIFEST]))
        return pack(entries | {SIGNATURE_PATH: record})

    def accepts(data: bytes) -> bool:
        if not reads(data):
            return False
        entries = unpack(data, "x")
        record = entries.get(SIGNATURE_PATH, b"")
        known = record[:32].hex() == KEY.public.key_id
        return known and KEY.public.verifies(record[32:], message(entries[MANIFEST]))

    return Scheme(sign, accepts)


def with_verifier(accepts: Callable[[dict[str, bytes], bytes], bool]) -> Scheme:
    """A twin that signs as we do; its verifier gets the entries but the signature, and the signature."""

    def verify(data: bytes) -> bool:
        try:
            entries = unpack(data, "x")
        except (BundleError, LimitError):
            return False
        in_place = SIGNATURE_PATH not in entries or list(entries)[-1] == SIGNATURE_PATH
        record = entries.pop(SIGNATURE_PATH, b"")
        return in_place and MANIFEST in entries and accepts(entries, record)

    return Scheme(OURS.sign, verify)


def ours(record: bytes, *, key_id_bytes: int = 32) -> bool:
    """Whether the key id of a signature is that of the trusted key, as far as looked at."""
    return record[:key_id_bytes] == bytes.fromhex(KEY.public.key_id)[:key_id_bytes]


def verifies(entries: dict[str, bytes], record: bytes) -> bool:
    return KEY.public.verifies(record[32:96], entries[MANIFEST])


def with_all_checks(entries: dict[str, bytes], record: bytes) -> bool:
    return len(record) == 96 and ours(record) and verifies(entries, record) and reads(pack(entries))


def without_digests(entries: dict[str, bytes], record: bytes) -> bool:
    return len(record) == 96 and ours(record) and verifies(entries, record)


def by_key_id_alone(entries: dict[str, bytes], record: bytes) -> bool:
    return len(record) == 96 and ours(record) and reads(pack(entries))


def with_half_a_key_id(entries: dict[str, bytes], record: bytes) -> bool:
    half = ours(record, key_id_bytes=16)
    return len(record) == 96 and half and verifies(entries, record) and reads(pack(entries))


def with_a_tail(entries: dict[str, bytes], record: bytes) -> bool:
    return ours(record) and verifies(entries, record) and reads(pack(entries))


def if_there(entries: dict[str, bytes], record: bytes) -> bool:
    return not record or (without_digests(entries, record) and reads(pack(entries)))


BROKEN = {
    "checks digests, no signature": Scheme(OURS.sign, reads),
    "signs the first 64 bytes": over(lambda manifest: manifest[:64]),
    "signs all but the last 64 bytes": over(lambda manifest: manifest[:-64]),
    "signs what the manifest means": over(lambda manifest: canonical_json(json.loads(manifest))),
    "checks the signature, no digests": with_verifier(without_digests),
    "takes the key id for the signature": with_verifier(by_key_id_alone),
    "looks at half of the key id": with_verifier(with_half_a_key_id),
    "ignores what follows the signature": with_verifier(with_a_tail),
    "checks a signature only where one is": with_verifier(if_there),
}


#: No fault may unmask these: what gives a twin away is what it lacks, not how it was built.
WHOLE = {"exact bytes": over(lambda manifest: manifest), "all checks": with_verifier(with_all_checks)}


@functools.cache
def first_unnoticed(name: str) -> str | None:
    return next(unnoticed(BROKEN[name]), None)


@pytest.mark.parametrize("name", BROKEN)
def test_the_faults_unmask_a_broken_verifier(name: str) -> None:
    assert first_unnoticed(name) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_the_faults_spare_a_verifier_that_lacks_nothing(name: str) -> None:
    assert next(unnoticed(WHOLE[name]), None) is None


def test_the_twins_are_unmasked_by_different_faults() -> None:
    # One fault that gave all of them away would say little about the others.
    assert len({first_unnoticed(name) for name in BROKEN}) >= 6
