"""The five registries: name -> "module:object", imported on first use.

`edgeaudio list students` reads these tables without importing torch. Adding an entry adds its
contract tests (`tests/contract/` runs over each whole table).
"""

from __future__ import annotations

import importlib
from typing import Any

from edgeaudio.errors import ConfigError, UnsupportedError, closest_match_hint

STUDENTS: dict[str, str] = {
    "dscnn": "edgeaudio.students.dscnn:DSCNN",
    "mn": "edgeaudio.students.mn:MN",
    "transformer": "edgeaudio.students.transformer:Transformer",
}
TEACHERS: dict[str, str] = {
    "mn04": "edgeaudio.teachers.mn04:MN04Teacher",
    "wide-cnn": "edgeaudio.teachers.wide_cnn:WideCNNTeacher",
}
EXPORTERS: dict[str, str] = {
    "onnx": "edgeaudio_export.onnx_export:export_onnx",
    "tflite": "edgeaudio_export.tflite_export:export_tflite",
    "tensorrt": "edgeaudio_export.tensorrt_export:export_tensorrt",
}
ENGINES: dict[str, str] = {
    "onnx": "edgeaudio.runtime.engines.onnx_engine:OnnxEngine",
    "litert": "edgeaudio.runtime.engines.litert_engine:LiteRTEngine",
    # Before its reference: what runs a format on a device is the first that is registered for it.
    "tensorrt": "edgeaudio.runtime.engines.tensorrt_engine:TensorRTEngine",
    "tensorrt-reference": "edgeaudio.runtime.engines.onnx_engine:TensorRTReference",
}
DEVICES: dict[str, str] = {
    "local": "edgeaudio.bench.devices.local:open_local",
    "ssh": "edgeaudio.bench.devices.ssh:open_ssh",
    "emulated": "edgeaudio.bench.devices.emulated:open_emulated",
    "fake": "edgeaudio.bench.devices.fake:open_fake",
}

TABLES: dict[str, dict[str, str]] = {
    "students": STUDENTS,
    "teachers": TEACHERS,
    "exporters": EXPORTERS,
    "engines": ENGINES,
    "devices": DEVICES,
}


def resolve(table: str, name: str) -> Any:
    """Import and return the object registered under `name` in `table`.

    Raises:
        ConfigError: unknown table or name, with the closest match.
        UnsupportedError: the entry's module needs a package that is not installed.
    """
    if table not in TABLES:
        raise ConfigError(f"no registry {table!r}. {closest_match_hint(table, TABLES)}")
    entries = TABLES[table]
    if name not in entries:
        raise ConfigError(f"{table}: {name!r} is not known. {closest_match_hint(name, entries)}")
    module_name, _, attribute = entries[name].partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"{table} entry {name!r} needs the package {error.name!r}, which is not installed here. "
            "Run 'edgeaudio doctor' to see what to install."
        ) from error
    return getattr(module, attribute)
