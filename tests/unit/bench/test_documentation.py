"""docs/benchmark.md knows every field, every reason, every metric and every column, and none that is gone."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from edgeaudio.bench import verdict
from edgeaudio.bench.csv_table import COLUMNS
from edgeaudio.bench.devices.config import DEFAULT_FOLDER, DevicesFile, EmulatedSpec, LocalSpec, SshSpec
from edgeaudio.bench.metrics import METRICS
from edgeaudio.bench.schema import SCHEMA_VERSION, BenchResult
from edgeaudio.bench.stats import min_samples
from edgeaudio.pipeline.config import load_config
from edgeaudio.spec import Spec

TEXT = (Path(__file__).resolve().parents[3] / "docs/benchmark.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """What stands below one heading, to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"docs/benchmark.md has no section {title!r}"
    return found[1]


def first_cells(text: str) -> list[str]:
    """The names in the first column of its tables."""
    return [name for row in re.findall(r"^\|([^|]*)\|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)]


def specs(root: type[Spec]) -> dict[str, type[Spec]]:
    """`root` and every description that its fields lead to, by name."""
    found: dict[str, type[Spec]] = {}

    def visit(kind: object) -> None:
        if isinstance(kind, type) and issubclass(kind, Spec) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for field in kind.model_fields.values():
                visit(field.annotation)
        for inner in typing.get_args(kind):
            visit(inner)

    visit(root)
    return found


SPECS = specs(BenchResult)


def test_the_walk_through_the_schema_finds_what_is_deep_inside() -> None:
    assert {"BenchResult", "BoardSample", "Percentile", "Reason", "InstructionEstimate"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_every_field_of_the_record_is_documented(name: str) -> None:
    fields, documented = list(SPECS[name].model_fields), first_cells(section(name))
    assert [field for field in fields if field not in documented] == []
    assert [field for field in documented if field not in fields] == []
    assert len(set(documented)) == len(documented)


def test_no_section_is_about_something_that_is_gone() -> None:
    titles = re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)
    assert set(titles) - {"Metrics"} == set(SPECS)


def test_every_reason_is_documented_in_order() -> None:
    assert first_cells(section("The verdict")) == list(verdict.CHECKS)


def test_every_limit_of_the_verdict_is_the_documented_one() -> None:
    rows = {row.split("`")[1]: row for row in section("The verdict").splitlines() if row.startswith("| `")}
    for code, limits in {
        "drift": (verdict.SUSPECT_DRIFT_SHARE, verdict.INVALID_DRIFT_SHARE),
        "clock-moved": (verdict.SUSPECT_CLOCK_SHARE, verdict.INVALID_CLOCK_SHARE),
        "off-cpu": (verdict.SUSPECT_CPU_SHARE, verdict.INVALID_CPU_SHARE),
        "overhead": (verdict.SUSPECT_OVERHEAD_SHARE,),
        "deadline": (verdict.SUSPECT_MISS_SHARE,),
        "spread": (verdict.SUSPECT_SPREAD_SHARE,),
    }.items():
        assert [int(number) for number in re.findall(r"(\d+) %", rows[code])][: len(limits)] == [
            round(100 * limit) for limit in limits
        ]
    assert f"more than {verdict.SUSPECT_OTHER_CORES} cores" in rows["other-load"]
    assert f"more than {verdict.INVALID_OTHER_CORES:g} core" in rows["other-load"]
    assert f"{verdict.SUSPECT_TEMPERATURE_C['raspberry-pi']:g} °C on a Raspberry Pi" in rows["temperature"]
    assert f"{verdict.SUSPECT_TEMPERATURE_OTHERS_C:g} °C elsewhere" in rows["temperature"]
    assert f"fewer than {min_samples(0.99)} hops" in rows["few-samples"]


def test_every_metric_is_documented() -> None:
    names: set[str] = set()
    stem = ""
    for name in first_cells(section("Metrics")):
        if name.startswith("_"):
            names.add(stem + name)
        elif name.endswith("_…"):
            names |= {name[:-1] + statistic for statistic in ("p50", "p90", "p95", "p99", "max")}
        else:
            names.add(name)
            stem = name.rpartition("_")[0]
    assert names == set(METRICS)


def test_every_column_is_documented() -> None:
    documented = first_cells(section("CSV"))
    ends = tuple(f"{name}_{end}" for name in METRICS for end in ("low", "high"))
    own = [name for name in COLUMNS if name not in METRICS and name not in ends]
    assert [name for name in documented if name not in ends] == own
    with_interval = {name.removesuffix("_low") for name in COLUMNS if name.endswith("_low")}
    last = section("CSV").rstrip().splitlines()[-1]
    assert {name.removesuffix("_low").removesuffix("_high") for name in re.findall(r"`(\w+)`", last)} == with_interval


def test_every_field_of_a_device_is_documented_with_its_kinds() -> None:
    kinds = {"ssh": SshSpec, "local": LocalSpec, "emulated": EmulatedSpec}
    text = section("Devices of your own: devices.yaml")
    rows = {row.split("`")[1]: row.split("|")[2] for row in text.splitlines() if row.startswith("| `")}
    fields = {field: [kind for kind, spec in kinds.items() if field in spec.model_fields] for field in rows}
    assert set(rows) == {field for spec in kinds.values() for field in spec.model_fields}
    for field, cell in rows.items():
        documented = {"": list(kinds), "all": list(kinds)}.get(cell.strip()) or cell.strip().split(", ")
        assert fields[field] == documented, field


def test_the_example_of_devices_is_one(tmp_path: Path) -> None:
    lines = section("Devices of your own: devices.yaml").splitlines()
    (tmp_path / "devices.yaml").write_text("\n".join(line[4:] for line in lines if line.startswith("    ")))
    devices = load_config(tmp_path / "devices.yaml", DevicesFile).devices
    assert {spec.kind for spec in devices.values()} == {"ssh", "local", "emulated"}
    assert DEFAULT_FOLDER in section("Devices of your own: devices.yaml")


def test_the_documented_version_is_this_one() -> None:
    assert f"version {SCHEMA_VERSION} (" in section("The record")
