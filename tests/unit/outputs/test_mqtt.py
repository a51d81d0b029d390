"""MQTT against a real mosquitto: what is published, what survives, and what is said when nobody can speak any more."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.errors import ConfigError, UnsupportedError
from edgeaudio.outputs.homeassistant import Topics, device_config, label_ids, without_stale
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.mqtt import Broker as Address
from edgeaudio.outputs.mqtt import MqttPublisher
from edgeaudio.runtime import Classifier
from edgeaudio.runtime.observer import Health
from tests import stream_driver as driver
from tests import tiny_bundle as tiny
from tests.certificates import certificates
from tests.mosquitto import Broker, Listener, retained_on

ROOT = Path(__file__).resolve().parents[3]
TOPICS = Topics("edgeaudio", "kitchen")
CONFIG = "homeassistant/device/edgeaudio_kitchen/config"

Publish = Callable[..., MqttPublisher]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    mosquitto = Broker(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture
def publish(info: StreamInfo) -> Iterator[Publish]:
    made: list[MqttPublisher] = []

    def new(broker: Broker, given: StreamInfo = info, **options: Any) -> MqttPublisher:
        address = Address("127.0.0.1", broker.port, **options.pop("address", {}))
        made.append(MqttPublisher(address, given, TOPICS, **options))
        return made[-1]

    yield new
    for publisher in made:
        publisher.close()


def test_a_stream_is_published(classifier: Classifier, info: StreamInfo, broker: Broker) -> None:
    listener = Listener(broker)
    publisher = MqttPublisher(Address("127.0.0.1", broker.port), info, TOPICS)
    driver.eventually(lambda: listener.heard(TOPICS.status) == ["online"])
    stream = driver.Driver(classifier, [publisher])
    stream.feed(tiny.scene())
    driver.eventually(lambda: len(listener.heard(TOPICS.event)) >= 5 and listener.heard(TOPICS.health))
    assert json.loads(listener.heard(TOPICS.health)[0])["hops"] > 0
    stream.end()
    driver.eventually(lambda: listener.heard(TOPICS.status) == ["online", "offline"])
    assert listener.heard(TOPICS.event) == [record.to_json() for record in stream.records]
    listener.close()
    retained = retained_on(broker)
    for label in tiny.LABELS:
        assert retained[TOPICS.sound(label)] == "OFF"
        last = [record for record in stream.records if record.label == label][-1]
        assert retained[TOPICS.attributes(label)] == last.to_json()
    assert TOPICS.event not in retained
    assert json.loads(retained[CONFIG]) == json.loads(json.dumps(device_config(TOPICS, info)))
    assert (publisher.counts.failed, publisher.counts.dropped) == (0, 0)
    assert publisher.counts.sent >= len(stream.records)


def test_a_sound_is_on_while_it_is_heard(broker: Broker, publish: Publish) -> None:
    listener, publisher = Listener(broker, TOPICS.sound("+")), publish(broker)
    driver.eventually(lambda: listener.heard(TOPICS.sound("high")) == ["OFF"])
    publisher.on_event(driver.record("start", "high"))
    driver.eventually(lambda: listener.heard(TOPICS.sound("high")) == ["OFF", "ON"])
    assert retained_on(broker, TOPICS.sound("+"))[TOPICS.sound("high")] == "ON"
    publisher.on_event(driver.record("end", "high", t_end_s=2.0))
    driver.eventually(lambda: listener.heard(TOPICS.sound("high")) == ["OFF", "ON", "OFF"])
    publisher.on_event(driver.record("start", "low"))
    driver.eventually(lambda: listener.heard(TOPICS.sound("low"))[-1:] == ["ON"])
    publisher.close()
    driver.eventually(lambda: listener.heard(TOPICS.sound("low"))[-2:] == ["ON", "OFF"])
    listener.close()


def test_a_broker_that_was_away_is_told_all_that_it_forgot(broker: Broker, publish: Publish) -> None:
    publisher = publish(broker, min_delay_s=4)  # Long enough for the listener below to be there first.
    publisher.on_event(driver.record("start", "low"))
    driver.eventually(lambda: retained_on(broker).get(TOPICS.sound("low")) == "ON")
    broker.stop()
    driver.eventually(lambda: not publisher._connected)
    for number in range(50):
        publisher.on_event(driver.record("start", "mid", t_start_s=float(number)))
        publisher.on_event(driver.record("end", "mid", t_start_s=float(number), t_end_s=number + 0.5))
    publisher.on_event(driver.record("start", "high"))
    broker.start()
    listener = Listener(broker)
    driver.eventually(lambda: len(listener.heard(TOPICS.event)) == 101)
    events = [json.loads(event) for event in listener.heard(TOPICS.event)]
    assert [event["t_start_s"] for event in events] == [number / 2 // 1 for number in range(100)] + [1.0]
    driver.eventually(lambda: publisher._is_done())
    # Of states only the newest.
    assert listener.heard(TOPICS.sound("mid")) == ["OFF"]
    listener.close()
    retained = retained_on(broker)
    assert {label: retained[TOPICS.sound(label)] for label in tiny.LABELS} == {"low": "ON", "mid": "OFF", "high": "ON"}
    assert retained[TOPICS.status] == "online"
    assert CONFIG in retained


def test_events_that_find_no_broker_are_queued_and_above_that_counted(tmp_path: Path, publish: Publish) -> None:
    broker = Broker(tmp_path)
    publisher = publish(broker, capacity=5, min_delay_s=4)
    for number in range(12):
        publisher.on_event(driver.record(t_start_s=float(number)))
    assert publisher.counts.dropped == 7
    publisher.on_health(driver.HEALTH)
    broker.start()
    listener = Listener(broker)
    driver.eventually(lambda: len(listener.heard(TOPICS.event)) == 5)
    assert [json.loads(event)["t_start_s"] for event in listener.heard(TOPICS.event)] == [7, 8, 9, 10, 11]
    driver.eventually(lambda: listener.heard(TOPICS.health))
    assert json.loads(listener.heard(TOPICS.health)[0])["mqtt_dropped"] == 7
    listener.close()
    publisher.close()
    broker.stop()


PROGRAM = """
import sys, time
from edgeaudio.outputs.homeassistant import Topics
from edgeaudio.outputs.info import StreamInfo
from edgeaudio.outputs.mqtt import Broker, MqttPublisher
from edgeaudio.spec import FrontendSpec
info = StreamInfo("tiny", "0" * 12, "onnx", "fp32", "x", ("low",), FrontendSpec(), 1.0, 0.1, (0.5,), (0.4,), 1, 0.1)
MqttPublisher(Broker("127.0.0.1", int(sys.argv[1])), info, Topics("edgeaudio", "kitchen"))
time.sleep(600)
"""


def test_a_killed_stream_is_offline_because_the_broker_says_so(broker: Broker) -> None:
    listener = Listener(broker, TOPICS.status)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(broker.port)], cwd=ROOT)
    driver.eventually(lambda: listener.heard(TOPICS.status) == ["online"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    driver.eventually(lambda: listener.heard(TOPICS.status) == ["online", "offline"])
    listener.close()
    assert retained_on(broker, TOPICS.status)[TOPICS.status] == "offline"


def test_home_assistant_is_told_again_when_it_starts(broker: Broker, publish: Publish) -> None:
    listener, publisher = Listener(broker, CONFIG, TOPICS.sound("low")), publish(broker)
    driver.eventually(lambda: len(listener.heard(CONFIG)) == 1 and publisher._is_done())
    listener.client.publish("homeassistant/status", "offline", qos=1)
    listener.client.publish("homeassistant/status", "online", qos=1)
    driver.eventually(lambda: len(listener.heard(CONFIG)) == 2 and len(listener.heard(TOPICS.sound("low"))) == 2)
    listener.close()


def test_labels_of_an_earlier_bundle_are_taken_back(broker: Broker, publish: Publish, info: StreamInfo) -> None:
    labels = ("low", "mid", "high", "Old one")
    earlier = replace(info, labels=labels, thresholds_on=(0.5,) * 4, thresholds_off=(0.4,) * 4)
    first = publish(broker, earlier)
    first.on_event(driver.record("start", "Old one"))
    driver.eventually(lambda: TOPICS.attributes("old-one") in retained_on(broker))
    first.close()
    listener = Listener(broker, CONFIG)
    publish(broker)
    driver.eventually(lambda: len(listener.heard(CONFIG)) >= 4)
    listener.close()
    seen = [json.loads(config)["components"] for config in listener.heard(CONFIG)]
    assert any(components.get("sound_old-one") == {"platform": "binary_sensor"} for components in seen)
    assert "sound_old-one" not in seen[-1]
    retained = retained_on(broker)
    assert json.loads(retained[CONFIG])["components"].keys() == device_config(TOPICS, info)["components"].keys()
    assert not any("old-one" in topic for topic in retained)


def test_rubbish_in_the_place_of_our_message_is_replaced(broker: Broker, publish: Publish, info: StreamInfo) -> None:
    for rubbish in ("", "{", "[1]", '{"components": {"x": 1, "y": {"platform": 2}}}', "\x00"):
        listener = Listener(broker, CONFIG)
        listener.client.publish(CONFIG, rubbish, qos=1, retain=True).wait_for_publish(30)
        publisher = publish(broker)
        driver.eventually(lambda: publisher._connected and publisher._is_done())  # noqa: B023
        publisher.close()
        listener.close()
        assert json.loads(retained_on(broker, CONFIG)[CONFIG])["origin"]["name"] == "edgeaudio"


def test_without_discovery_nothing_is_said_to_home_assistant(broker: Broker, info: StreamInfo) -> None:
    listener = Listener(broker)
    publisher = MqttPublisher(Address("127.0.0.1", broker.port), info, Topics("a/b", "kitchen", discovery=""))
    driver.eventually(lambda: listener.heard("a/b/kitchen/status") == ["online"] and publisher._is_done())
    publisher.close()
    listener.close()
    assert {topic.split("/")[0] for topic, _ in listener.messages} == {"a"}


def test_a_password_is_needed_and_a_wrong_one_stops_nothing(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    passwords = tmp_path / "passwords"
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ears", "right"], check=True)
    broker.start()
    wrong = publish(broker, address={"username": "ears", "password": "wrong"})
    driver.eventually(lambda: "refuses this client: Not authorized" in caplog.text)
    wrong.on_event(driver.record())
    wrong.close()
    assert wrong.counts.sent == 0
    assert "wrong" not in caplog.text.replace("test_a_password_is_needed_and_a_wrong_one", "")
    right = publish(broker, address={"username": "ears", "password": "right"})
    driver.eventually(lambda: right._connected and right._is_done())
    right.close()
    assert right.counts.sent > 0
    assert "right" not in repr(right._broker)
    broker.stop()


def test_tls_is_spoken_with_the_right_broker_only(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = certificates(tmp_path, "ours"), certificates(tmp_path, "theirs")
    broker = Broker(
        tmp_path, "allow_anonymous true", f"cafile {ours['ca']}", f"certfile {ours['server']}",
        f"keyfile {ours['server_key']}", "require_certificate true",
    )  # fmt: skip
    broker.start()
    identity = {"cert": ours["server"], "key": ours["server_key"]}
    stranger = publish(broker, address={"tls": True, "ca": theirs["ca"], **identity})
    driver.eventually(lambda: "no connection to" in caplog.text)
    stranger.close()
    assert stranger.counts.sent == 0
    nobody = publish(broker, address={"tls": True, "ca": ours["ca"]})
    friend = publish(broker, address={"tls": True, "ca": ours["ca"], **identity})
    driver.eventually(lambda: friend._connected and friend._is_done())
    nobody.close()
    assert nobody.counts.sent == 0
    friend.close()
    broker.stop()


def test_a_certificate_that_cannot_be_read_is_refused_at_once(info: StreamInfo, tmp_path: Path) -> None:
    absent = tmp_path / "absent.pem"
    with pytest.raises(ConfigError, match=str(absent)):
        MqttPublisher(Address("127.0.0.1", 1, tls=True, ca=absent), info, TOPICS)


def test_a_broker_that_accepts_and_says_nothing_does_not_hold_up_the_end(info: StreamInfo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publisher = MqttPublisher(Address("127.0.0.1", silent.getsockname()[1]), info, TOPICS)
        publisher.on_event(driver.record())
        connection, _ = silent.accept()
        publisher.close()
        connection.close()
    assert publisher.counts.dropped == 1


def test_the_library_is_an_extra(info: StreamInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("paho", "paho.mqtt", "paho.mqtt.client", "paho.mqtt.enums"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match=r"edgeaudio\[mqtt\]"):
        MqttPublisher(Address("127.0.0.1", 1), info, TOPICS)


def test_health_is_sent_every_ten_seconds_and_when_the_warnings_change(broker: Broker, publish: Publish) -> None:
    listener, publisher = Listener(broker, TOPICS.health), publish(broker)
    for number in range(5):
        publisher.on_health(replace(driver.HEALTH, hops=number))
    publisher.on_health(replace(driver.HEALTH, hops=5, warnings=("Too loud.",), level_dbfs=float("-inf")))
    driver.eventually(lambda: publisher._connected and publisher._is_done())
    listener.close()
    newest = json.loads(retained_on(broker, TOPICS.health)[TOPICS.health])
    assert (newest["hops"], newest["warnings"], newest["level_dbfs"]) == (5, ["Too loud."], None)
    assert len(listener.heard(TOPICS.health)) <= 2


# --- the discovery message


def test_the_discovery_message_is_what_home_assistant_documents(info: StreamInfo) -> None:
    config = device_config(TOPICS, info)
    assert config["device"]["identifiers"] == ["edgeaudio_kitchen"]
    assert config["origin"]["name"] == "edgeaudio"
    assert config["availability_topic"] == "edgeaudio/kitchen/status"
    components = config["components"]
    assert components["sound_low"] == {
        "platform": "binary_sensor",
        "unique_id": "edgeaudio_kitchen_sound_low",
        "name": "low",
        "device_class": "sound",
        "state_topic": "edgeaudio/kitchen/sound/low/state",
        "payload_on": "ON",
        "payload_off": "OFF",
        "json_attributes_topic": "edgeaudio/kitchen/sound/low/attributes",
    }
    ids = [component["unique_id"] for component in components.values()]
    assert len(set(ids)) == len(ids)
    fields = {field.name for field in dataclasses.fields(Health)} | {"mqtt_dropped"}
    for key, component in components.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", key)
        assert component["platform"] in ("binary_sensor", "sensor")
        if key.startswith("health_"):
            named = re.findall(r"value_json\.(\w+)", component["value_template"])
            assert named == [key.removeprefix("health_")]
            assert set(named) <= fields
            assert component["state_topic"] == TOPICS.health


@given(labels=st.lists(st.text(max_size=12), unique=True, min_size=1, max_size=20))
def test_every_label_has_a_topic_word_of_its_own(labels: list[str]) -> None:
    words = label_ids(tuple(labels))
    assert len(set(words)) == len(labels)
    assert all(re.fullmatch(r"[a-z0-9_-]+", word) for word in words)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.just("binary_sensor"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["components", "platform", "state_topic", "json_attributes_topic", "sound_low", "x"]) | st.text(max_size=3),
        inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(retained=JSON)
def test_what_is_taken_back_is_never_another_device_s(retained: Any) -> None:
    config = {"availability_topic": "e/k/status", "components": {"sound_low": {"platform": "binary_sensor"}}}
    found = without_stale(config, retained)
    if found is not None:
        removal, topics = found
        assert removal["components"]["sound_low"] == {"platform": "binary_sensor"}
        assert all(topic.startswith("e/k/sound/") for topic in topics)


def test_topics_of_others_are_not_emptied() -> None:
    config = {"availability_topic": "e/k/status", "components": {}}
    named = ["e/k/sound/a/state", "other/topic", "e/k/sound/#", "e/k2/sound/a/state"]
    old = {str(n): {"platform": "sensor", "state_topic": topic} for n, topic in enumerate(named)}
    found = without_stale(config, {"components": old})
    assert found is not None
    assert found[1] == ["e/k/sound/a/state"]


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"node": "a b"}, "--mqtt-node"),
        ({"node": ""}, "--mqtt-node"),
        ({"node": "a/b"}, "--mqtt-node"),
        ({"prefix": ""}, "--mqtt-prefix"),
        ({"prefix": "a/#"}, "--mqtt-prefix"),
        ({"prefix": "/a"}, "--mqtt-prefix"),
        ({"prefix": "$SYS"}, "--mqtt-prefix"),
        ({"discovery": "a+"}, "--mqtt-discovery"),
    ],
)
def test_topics_that_cannot_be_are_refused(fields: dict[str, str], option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        Topics(**({"prefix": "edgeaudio", "node": "kitchen"} | fields))


def test_an_event_that_cannot_be_sent_is_said_once_in_a_while(
    tmp_path: Path, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publish(Broker(tmp_path), capacity=1)
    with caplog.at_level(logging.WARNING, "edgeaudio"):
        for _ in range(100):
            publisher.on_event(driver.record())
    assert caplog.text.count("the queue is full") <= 1
    assert publisher.counts.dropped == 99
