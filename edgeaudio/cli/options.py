"""Arguments and options that several verbs share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle file (.eab).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change one field of the recipe, such as seed=1."),
]
Work = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="Work directory; goes on where it stopped. Default: work/NAME."),
]
Engine = Annotated[
    str, typer.Option(help="What runs the model: onnx, litert or tensorrt (NVIDIA GPUs; not run on hardware).")
]
Precision = Annotated[str, typer.Option(help="Which artefact: fp32 or int8.")]
Frontend = Annotated[
    str, typer.Option("--frontend", help="What computes log-mel: native (C), numpy, or auto: native where it is built.")
]
Threads = Annotated[int, typer.Option(min=1, max=64, help="Threads of the engine.")]
Exits = Annotated[
    bool, typer.Option("--exits", help="Let each window stop at the first early exit that is sure enough.")
]
Stateful = Annotated[
    bool, typer.Option("--stateful", help="Compute only what each hop adds: the same answers for far less work.")
]


def examples(*lines: str) -> str:
    """The closing text of a help page: commands that can be copied, kept as they are written."""
    # \b tells click not to re-wrap the paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
