"""Writes `tensorrt_api.json`: which names NVIDIA's own Python bindings have, by release.

    pip download --no-deps --only-binary=:all: -d DIR tensorrt-cu12-bindings==11.4.0.106        (and other releases)
    python tests/record_tensorrt_api.py DIR/*.whl

The bindings are loaded against empty libraries, made here with `cc`: enough to read names and to see how a start
fails, not to run anything. They are for the Python that runs this, x86-64 Linux.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RECORD = Path(__file__).with_name("tensorrt_api.json")
#: Class -> what the product or its fake takes from it; all public names are recorded.
CLASSES = (
    "Builder",
    "BuilderFlag",
    "DataType",
    "ErrorCode",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "ITensor",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
)
_SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion "
    "getPluginRegistry initLibNvInferPlugins"
)
_LOOK = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings as trt
names = {{name: sorted(item for item in dir(getattr(trt, name)) if not item.startswith("_")) for name in {CLASSES!r}}}
names["ILogger.Severity"] = sorted(trt.ILogger.Severity.__members__)
def raised(kind):
    try:
        kind(trt.Logger())
    except Exception as error:
        return type(error).__name__
names["(raised where nothing starts)"] = [f"{{kind.__name__}}: {{raised(kind)}}" for kind in (trt.Builder, trt.Runtime)]
names["(what .name of a member is)"] = [
    f"{{kind.__name__}}: {{type(member.name).__name__}}"
    for kind, member in ((trt.DataType, trt.DataType.FLOAT), (trt.ErrorCode, trt.ErrorCode.SUCCESS))
]
print(json.dumps({{trt.__version__: names}}))
"""


def names_of(wheel: Path) -> dict[str, dict[str, list[str]]]:
    """Version -> class -> public names."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        zipfile.ZipFile(wheel).extractall(root)
        source = root / "empty.c"
        source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in _SYMBOLS.split()))
        major = wheel.name.split("-")[1].partition(".")[0]
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            name = f"lib{library}.so.{major}"
            flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}"]
            subprocess.run(["cc", *flags, "-o", str(root / name), str(source)], check=True)
        command = [sys.executable, "-c", _LOOK, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"LD_LIBRARY_PATH": folder})
        found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
        return found


def main() -> None:
    """Add the given wheels to the record."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for argument in sys.argv[1:]:
        record |= names_of(Path(argument))
    blocks = []
    for version in sorted(record, key=lambda text: [int(part) for part in text.split(".")]):
        lines = (f"  {json.dumps(name)}: {json.dumps(names)}" for name, names in sorted(record[version].items()))
        blocks.append(f" {json.dumps(version)}: {{\n" + ",\n".join(lines) + "\n }")
    RECORD.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
