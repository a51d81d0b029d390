"""How the extension is compiled: read by setup.py for this machine, and by `edgeaudio.bench.emulation` for another."""

SOURCES = ("_logmel.c", "ea_logmel.c")
#: One build for every CPython from 3.11 on.
LIMITED_API = ("Py_LIMITED_API", "0x030b0000")
#: By the name that setuptools gives the compiler's family.
COMPILER_FLAGS = {
    # The order of sums is part of the promise (ea_logmel.h): no fused multiply-add, whatever the environment asks for.
    "unix": ["-std=c99", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fvisibility=hidden", "-g0"],
    "msvc": ["/std:c11", "/O2", "/fp:precise"],
}
