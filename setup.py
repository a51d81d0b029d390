"""The one part of the build that pyproject.toml cannot say: the native front-end, an optional extension.

Where it cannot be compiled (no compiler, no Python headers) the installation goes on without it, the runtime computes
log-mel with numpy, and `edgeaudio doctor` says so.
"""

import runpy
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "edgeaudio/frontend/native"
FLAGS = runpy.run_path(f"{FOLDER}/flags.py")
# A free-threaded CPython has no limited API: there this fails and numpy serves.
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildNative(build_ext):
    """`build_ext` with the flags of the compiler that it found."""

    def build_extensions(self) -> None:
        for extension in self.extensions:
            extension.extra_compile_args = FLAGS["COMPILER_FLAGS"].get(self.compiler.compiler_type, [])
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "edgeaudio.frontend.native._logmel",
            sources=[f"{FOLDER}/{name}" for name in FLAGS["SOURCES"]],
            depends=[f"{FOLDER}/ea_logmel.h"],
            include_dirs=[FOLDER],
            define_macros=[FLAGS["LIMITED_API"]] if LIMITED_API else [],
            py_limited_api=LIMITED_API,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
)
