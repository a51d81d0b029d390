"""Set emulated CPU models up; says line by line what it does. `python -m edgeaudio.bench.emulation --help`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeaudio.bench.emulation import CPUS, MIRROR, default_cache, install
from edgeaudio.errors import EdgeAudioError


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser(prog="python -m edgeaudio.bench.emulation", description=__doc__)
    parser.add_argument("cpu", nargs="*", default=[], help=f"of {', '.join(sorted(CPUS))}; default all")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument("--mirror", default=MIRROR, help="Debian mirror for the guest's files; default: %(default)s")
    arguments = parser.parse_args()
    try:
        for cpu in arguments.cpu or CPUS:
            install(arguments.cache, cpu=cpu, mirror=arguments.mirror, progress=_say)
    except EdgeAudioError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
