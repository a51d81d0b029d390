"""The project itself: what is declared is there, and what is there is declared."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgeaudio.catalog import ENGINES, TABLES
from edgeaudio.doctor import extra_of

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Importable package -> its folder.
PACKAGES = {name: ROOT / name.replace(".", "/").replace("edgeaudio_export", "export") for name in
            PROJECT["tool"]["setuptools"]["packages"]}  # fmt: skip


#: pydantic pins pydantic_core to the digit; the rest is this project.
OURS = {"edgeaudio", "edgeaudio_export", "pydantic_core"}


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(line) for group in (PROJECT["project"]["dependencies"], *extras) for line in group]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, _, version in pairs}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file() and not path.is_symlink()]


def test_every_package_is_installed_by_the_wheel() -> None:
    on_disk = {path.parent for folder in ("edgeaudio", "export") for path in (ROOT / folder).rglob("__init__.py")}
    assert on_disk == set(PACKAGES.values())


def test_every_data_file_is_installed_by_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in PACKAGES.items():
        for path in folder.iterdir():
            # Compiled extensions are made by setup.py, in place for an editable installation.
            if path.is_dir() or path.suffix in {".py", ".pyc", ".so", ".pyd"}:
                continue
            declared = [
                (ROOT / owner.replace(".", "/").replace("edgeaudio_export", "export") / pattern).as_posix()
                for owner, owned in patterns.items()
                for pattern in owned
            ]
            assert any(fnmatch(path.as_posix(), pattern) for pattern in declared), f"{package}: {path.name}"


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins()[canonical(requirement.name)]
    assert requirement.specifier.contains(version), f"constraints.txt has {version}"


def test_every_engine_but_nvidias_has_an_extra() -> None:
    # `edgeaudio doctor` looks the packages of an engine up by this name.
    assert {extra_of(name) for name in ENGINES if name != "tensorrt"} <= set(
        PROJECT["project"]["optional-dependencies"]
    )


def test_every_imported_package_is_declared() -> None:
    owners = metadata.packages_distributions()
    declared = {canonical(requirement.name) for requirement in requirements()}
    undeclared = set()
    for path in (path for folder in ("edgeaudio", "export") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OURS
            undeclared |= {top for top in tops if not declared & {canonical(name) for name in owners.get(top, [top])}}
    assert undeclared == set()


def test_what_a_device_installs_holds_no_torch() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    lines = PROJECT["project"]["dependencies"] + extras["runtime"]
    names = {canonical(Requirement(line).name) for line in lines}
    assert not names & {"torch", "lightning", "onnx", "litert-torch", "scipy", "matplotlib", "transformers"}


@pytest.mark.parametrize("target", [target for table in TABLES.values() for target in table.values()])
def test_every_catalogue_entry_points_at_a_module(target: str) -> None:
    module, _, attribute = target.partition(":")
    package, _, name = module.rpartition(".")
    assert f"{attribute}" in (PACKAGES[package] / f"{name}.py").read_text()


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "9. Accepting Warranty or Additional Liability." in text


def test_make_alone_explains_itself() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "lint", "clean"):
        assert f"make {target} " in done.stdout


def test_make_test_runs_every_check() -> None:
    plan = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for check in ("ruff check", "ruff format --check", "mypy", "lint-imports", "pytest"):
        assert check in plan


def test_an_old_python_is_refused_with_the_way_out(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.1" in done.stderr
    done = subprocess.run(["make", "setup", "PYTHON=absent-python"], cwd=tmp_path, capture_output=True, text=True)
    assert "'absent-python' is not on PATH" in done.stderr


def test_ci_demands_the_assets_where_they_are() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert "EDGEAUDIO_REQUIRE_ASSETS=1" in text


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    absolute = re.compile(rb"(?<![\w.~}])/(?:work/(?:main|shared)|root/)")
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked_files()
        for match in absolute.finditer(path.read_bytes())
    ]
    assert found == []
