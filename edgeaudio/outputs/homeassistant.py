"""MQTT topics of a stream, and how Home Assistant is told of them: one retained device discovery message.

Source: Home Assistant's MQTT integration, "Device discovery payload" (since 2024.12), which it recommends where a
device has several entities. A sound lasts, so it is a binary sensor of class `sound`, on while it is heard; event
entities are for what has no duration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeaudio import __version__
from edgeaudio.errors import ConfigError
from edgeaudio.outputs.clip_folder import slug
from edgeaudio.outputs.info import StreamInfo

Json = dict[str, Any]

ONLINE, OFFLINE, ON, OFF = "online", "offline", "ON", "OFF"

_NODE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Topics:
    """Where one stream publishes: below `prefix/node`. `discovery`: Home Assistant's prefix, empty for none."""

    prefix: str
    node: str
    discovery: str = "homeassistant"

    def __post_init__(self) -> None:
        if not _NODE.fullmatch(self.node):
            raise ConfigError(f"--mqtt-node is {self.node!r}, wanted 1 to 64 letters, digits, hyphens or underscores")
        for option, topic in (("--mqtt-prefix", self.prefix), ("--mqtt-discovery", self.discovery)):
            bad = topic.startswith("/") or topic.endswith("/") or not topic.isprintable() or set(topic) & set("+#$")
            if bad or (not topic and option == "--mqtt-prefix"):
                raise ConfigError(
                    f"{option} is {topic!r}, wanted a topic such as home/audio, without + # $ / at its ends"
                )

    @property
    def base(self) -> str:
        """What all topics of this stream begin with."""
        return f"{self.prefix}/{self.node}"

    @property
    def status(self) -> str:
        """`online` or `offline`, retained; the broker says `offline` where the stream cannot."""
        return f"{self.base}/status"

    @property
    def event(self) -> str:
        """Every event as JSON, not retained."""
        return f"{self.base}/event"

    @property
    def health(self) -> str:
        """Health as JSON, retained."""
        return f"{self.base}/health"

    def sound(self, label_id: str) -> str:
        """`ON` while the sound is heard, else `OFF`, retained."""
        return f"{self.base}/sound/{label_id}/state"

    def attributes(self, label_id: str) -> str:
        """The last event of the sound as JSON, retained."""
        return f"{self.base}/sound/{label_id}/attributes"

    @property
    def device_config(self) -> str:
        """Where Home Assistant looks for this device."""
        return f"{self.discovery}/device/edgeaudio_{self.node}/config"

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self.discovery}/status"


def label_ids(labels: tuple[str, ...]) -> tuple[str, ...]:
    """A word for topics per label: its slug, with its number behind it where two labels share one."""
    slugs = [slug(label) for label in labels]
    return tuple(word if slugs.count(word) == 1 else f"{word}_{number}" for number, word in enumerate(slugs))


def device_config(topics: Topics, info: StreamInfo) -> Json:
    """The discovery message: one binary sensor per label, and the health as diagnostic entities."""
    components = {f"sound_{word}": _sound(topics, word, label) for word, label in _labels(info)}
    components |= {f"health_{key}": _health(topics, key, dict(fields)) for key, fields in _HEALTH.items()}
    return {
        "device": {
            "identifiers": [f"edgeaudio_{topics.node}"],
            "name": f"edgeaudio {topics.node}",
            "manufacturer": "edgeaudio",
            "model": info.bundle_name,
            "model_id": info.bundle,
            "sw_version": __version__,
        },
        "origin": {"name": "edgeaudio", "sw_version": __version__},
        "availability_topic": topics.status,
        "qos": 1,
        "components": components,
    }


def without_stale(config: Json, retained: Any) -> tuple[Json, list[str]] | None:
    """How to take back what an earlier stream of this node announced and this one does not have.

    Args:
        retained: the parsed message that the broker keeps; anything at all.
    Returns:
        The message that removes those entities (`config` itself must follow), and their state topics, to be emptied;
        None where there is nothing to take back.
    """
    components = retained.get("components") if isinstance(retained, dict) else None
    if not isinstance(components, dict):
        return None
    stale = {
        key: value
        for key, value in components.items()
        if key not in config["components"] and isinstance(value, dict) and isinstance(value.get("platform"), str)
    }
    if not stale:
        return None
    base = config["availability_topic"].removesuffix("/status") + "/sound/"
    named = [value.get(field) for value in stale.values() for field in ("state_topic", "json_attributes_topic")]
    # Another's message may name any topic; only our own are emptied.
    topics = [
        topic for topic in named if isinstance(topic, str) and topic.startswith(base) and not set(topic) & set("+#")
    ]
    removed = {key: {"platform": value["platform"]} for key, value in stale.items()}
    return {**config, "components": config["components"] | removed}, topics


def _labels(info: StreamInfo) -> list[tuple[str, str]]:
    return list(zip(label_ids(info.labels), info.labels, strict=True))


def _sound(topics: Topics, label_id: str, label: str) -> Json:
    return {
        "platform": "binary_sensor",
        "unique_id": f"edgeaudio_{topics.node}_sound_{label_id}",
        "name": label,
        "device_class": "sound",
        "state_topic": topics.sound(label_id),
        "payload_on": ON,
        "payload_off": OFF,
        "json_attributes_topic": topics.attributes(label_id),
    }


def _health(topics: Topics, key: str, fields: Json) -> Json:
    if "json_attributes_template" in fields:
        fields["json_attributes_topic"] = topics.health
    return {
        "platform": "sensor",
        "unique_id": f"edgeaudio_{topics.node}_health_{key}",
        "entity_category": "diagnostic",
        "state_topic": topics.health,
        "value_template": f"{{{{ value_json.{key} }}}}",
    } | fields


_GAUGE: Mapping[str, str] = {"state_class": "measurement"}
_COUNTER: Mapping[str, str] = {"state_class": "total_increasing"}

#: Fields of `Health` (and `mqtt_dropped`), with what makes them entities.
_HEALTH: Mapping[str, Mapping[str, Any]] = {
    "level_dbfs": {"name": "Level", "unit_of_measurement": "dBFS", "suggested_display_precision": 0, **_GAUGE},
    "cpu_percent": {"name": "CPU", "unit_of_measurement": "%", "suggested_display_precision": 1, **_GAUGE},
    "rtf": {"name": "Real-time factor", "suggested_display_precision": 3, **_GAUGE},
    "rss_bytes": {"name": "Memory", "device_class": "data_size", "unit_of_measurement": "B", **_GAUGE},
    "ring_high_water": {
        "name": "Ring high-water mark",
        "unit_of_measurement": "%",
        "value_template": "{{ (value_json.ring_high_water * 100) | round(1) }}",
        **_GAUGE,
    },
    "clipped_fraction": {
        "name": "Clipped samples",
        "unit_of_measurement": "%",
        "value_template": "{{ (value_json.clipped_fraction * 100) | round(2) }}",
        **_GAUGE,
    },
    "uptime_s": {"name": "Uptime", "device_class": "duration", "unit_of_measurement": "s", **_COUNTER},
    "events": {"name": "Events", **_COUNTER},
    "gaps": {"name": "Gaps", **_COUNTER},
    "dropped_samples": {"name": "Lost samples", **_COUNTER},
    "overruns": {"name": "Overruns", **_COUNTER},
    "nan_samples": {"name": "Samples that are no numbers", **_COUNTER},
    "engine_restarts": {"name": "Engine restarts", **_COUNTER},
    "reopened": {"name": "Input reopened", **_COUNTER},
    "drift_ppm": {"name": "Clock drift", "unit_of_measurement": "ppm", "suggested_display_precision": 0, **_GAUGE},
    "mqtt_dropped": {"name": "Lost MQTT messages", **_COUNTER},
    "dead_input": {
        "platform": "binary_sensor",
        "name": "Dead input",
        "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.dead_input else 'OFF' }}",
    },
    "warnings": {
        "name": "Warnings",
        "value_template": "{{ value_json.warnings | count }}",
        "json_attributes_template": "{{ {'warnings': value_json.warnings} | tojson }}",
    },
}
