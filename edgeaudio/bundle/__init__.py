"""The `.eab` bundle: one self-describing, self-testing file (docs/SPEC.md). Never imports torch."""

from edgeaudio.bundle.describe import describe
from edgeaudio.bundle.golden import Golden
from edgeaudio.bundle.keys import PrivateKey, PublicKey
from edgeaudio.bundle.manifest import (
    Artefact,
    ExitChain,
    Exits,
    Link,
    Manifest,
    ModelFile,
    StageArtefact,
    Stateful,
    StatefulArtefact,
    StatefulChain,
    StatefulStage,
)
from edgeaudio.bundle.reader import Bundle
from edgeaudio.bundle.signing import sign_bundle
from edgeaudio.bundle.trust import TrustStore
from edgeaudio.bundle.writer import (
    bundle_bytes,
    file_entry,
    golden_entry,
    replace_manifest,
    with_manifest,
    write_bundle,
)

__all__ = [
    "Artefact",
    "Bundle",
    "ExitChain",
    "Exits",
    "Golden",
    "Link",
    "Manifest",
    "ModelFile",
    "PrivateKey",
    "PublicKey",
    "StageArtefact",
    "Stateful",
    "StatefulArtefact",
    "StatefulChain",
    "StatefulStage",
    "TrustStore",
    "bundle_bytes",
    "describe",
    "file_entry",
    "golden_entry",
    "replace_manifest",
    "sign_bundle",
    "with_manifest",
    "write_bundle",
]
