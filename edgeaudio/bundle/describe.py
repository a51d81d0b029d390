"""`edgeaudio bundle show`: a bundle as one JSON object."""

from __future__ import annotations

from typing import Any

from edgeaudio.bundle.manifest import Artefact, ExitChain, Exits
from edgeaudio.bundle.reader import Bundle
from edgeaudio.bundle.stateful import Stateful, StatefulArtefact
from edgeaudio.spec import FrontendSpec


def describe(bundle: Bundle) -> dict[str, Any]:
    """Everything the manifest says plus what follows from it; plain JSON types, no artefact bytes."""
    manifest = bundle.manifest
    described: dict[str, Any] = {
        "name": manifest.name,
        "sha256": bundle.sha256,
        "size_bytes": bundle.size_bytes,
        **manifest.model_dump(mode="json", exclude={"name", "artefacts", "exits", "stateful", "golden", "window"}),
    }
    described["window"] = {
        **manifest.window.model_dump(mode="json"),
        "duration_s": manifest.window.duration_s(manifest.frontend),
        "hop_s": manifest.window.hop_s(manifest.frontend),
    }
    described["artefacts"] = [_describe_artefact(artefact) for artefact in manifest.artefacts]
    if manifest.exits is not None:
        described["exits"] = _describe_exits(manifest.exits)
    if manifest.stateful is not None:
        described["stateful"] = _describe_stateful(manifest.stateful, manifest.frontend)
    # Claimed, not verified: that takes a trust store.
    described["signature"] = None if bundle.signature is None else {"key_id": bundle.signature.key_id}
    described["golden"] = {**manifest.golden.model_dump(mode="json"), "n_windows": len(bundle.golden)}
    return described


def in_brief(described: dict[str, Any]) -> dict[str, Any]:
    """What `describe` gives, for people: the states of a stateful form, dozens each, as their number."""
    if "stateful" not in described:
        return described
    stateful = described["stateful"]
    chains = [chain | {"stages": list(map(_counted, chain["stages"]))} for chain in stateful["chains"]]
    return described | {
        "stateful": stateful | {"artefacts": list(map(_counted, stateful["artefacts"])), "chains": chains}
    }


def _counted(artefact: dict[str, Any]) -> dict[str, Any]:
    n_states = len(artefact["states"])
    return artefact | {"states": n_states, "outputs": artefact["outputs"][n_states:]}


def _describe_stateful(stateful: Stateful, frontend: FrontendSpec) -> dict[str, Any]:
    described = stateful.model_dump(mode="json", exclude={"artefacts", "chains"})
    described["hop_s"] = stateful.step_frames * frontend.hop_length / frontend.sample_rate
    described["artefacts"] = [_describe_artefact(artefact) for artefact in stateful.artefacts]
    described["chains"] = [
        {"name": chain.name, "stages": [_describe_artefact(stage) for stage in chain.stages]}
        for chain in stateful.chains
    ]
    return described


def _describe_artefact(artefact: Artefact | StatefulArtefact) -> dict[str, Any]:
    described = {"name": artefact.name, **artefact.model_dump(mode="json")}
    if artefact.parity is not None:
        described["parity"]["passed"] = artefact.parity.passed
    if isinstance(artefact, StatefulArtefact):
        described["state_bytes"] = artefact.state_bytes
    return described


def _describe_exits(exits: Exits) -> dict[str, Any]:
    described = exits.model_dump(mode="json", exclude={"chains"})
    return described | {"macs_to_exit": list(exits.macs_to_exit), "chains": [_describe_chain(c) for c in exits.chains]}


def _describe_chain(chain: ExitChain) -> dict[str, Any]:
    described = {"name": chain.name, "size_bytes": chain.size_bytes, **chain.model_dump(mode="json")}
    if chain.parity is not None:
        described["parity"]["passed"] = chain.parity.passed
    return described
