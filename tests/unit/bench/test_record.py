"""A record is read whole, of this version, or refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeaudio.bench.schema import read_result, write_result
from edgeaudio.errors import ConfigError
from tests import bench_records as records


def test_everything_in_a_record_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for result in (records.result(), records.estimated(), *records.planted().values()):
        write_result(result, path)
        assert read_result(path) == result


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not a readable benchmark result"),
        (b"\xff\xfe", "not a readable benchmark result"),
        (b"[" * 100_000, "not a readable benchmark result"),
        (b"[]", "schema_version is None, wanted 2. Run 'edgeaudio bench' again"),
        (b'{"schema_version": 1, "bundle_name": "x"}', "schema_version is 1, wanted 2. Run 'edgeaudio bench' again"),
        (b'{"schema_version": "2"}', "schema_version is '2', wanted 2"),
        (b'{"schema_version": 2}', "run_id: Field required"),
    ],
)
def test_what_is_no_record_of_this_version_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"bench\.json") as error:
        read_result(path)
    assert message in str(error.value)
    with pytest.raises(ConfigError, match="not a readable benchmark result"):
        read_result(tmp_path / "absent.json")


def test_a_wrong_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    value = records.result().model_dump(mode="json")
    value["artefacts"][0]["load"]["cpu_share"] = -1
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=r"artefacts\.0\.load\.cpu_share"):
        read_result(path)
