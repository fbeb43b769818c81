"""Size, names and layout of the sources."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.version import VERSION

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "bench", "cni_plugin", "deploy", "flanneld_py",
    "pyproject.toml", "tests",
}  # fmt: skip
MAY_BE_THERE = {".git", ".venv", "build", "dist", "flanneld_py.egg-info", ".mypy_cache", ".ruff_cache", ".pytest_cache",
                ".hypothesis", ".import_linter_cache"}  # fmt: skip
"""Made by tools, and ignored by git."""
TEST_KINDS = {
    "arch",
    "bench",
    "cni",
    "compat",
    "contract",
    "daemon",
    "deploy",
    "etcd",
    "fakes",
    "fuzz",
    "image",
    "interop",
    "kernels",
    "kubernetes",
    "lab",
    "netns",
    "property",
    "udp",
    "unit",
}

CATCH_ALL = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}

CODE = [path for top in ("flanneld_py", "cni_plugin", "bench", "tests", "deploy", ".ci") for path in
        sorted((ROOT / top).rglob("*")) if path.is_file() and not {"__pycache__", "build"} & set(path.parts)
        and path.suffix not in {".so", ".o", ".pyc", ".png"}]  # fmt: skip
PYTHON = [path for path in CODE if path.suffix == ".py"]

FOREIGN_PLACES = re.compile(r"/work/|(?<!/)/root\b|/home/\w")
LOOSE_TODO = re.compile(r"\b(?:TODO|FIXME|XXX)\b(?!\([\w-]+\): )")


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def matches(pattern: re.Pattern[str]) -> Iterator[str]:
    for path in set(CODE) - {Path(__file__)}:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                yield f"{at(path, number)}: {line.strip()}"


def test_files_are_short() -> None:
    long = {
        at(p, n)
        for p in CODE
        if p.suffix in {".py", ".c", ".h", ""} and (n := len(p.read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long == set()


def test_functions_are_short() -> None:
    long = {
        f"{at(path, node.lineno)} {node.name}: {size} lines"
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == set()


def test_no_module_is_a_catch_all() -> None:
    assert [at(path, 1) for path in PYTHON if path.stem in CATCH_ALL or path.parent.name in CATCH_ALL] == []


def test_init_files_are_empty() -> None:
    assert [at(path, 1) for path in PYTHON if path.name == "__init__.py" and path.stat().st_size > 0] == []


def test_every_module_says_what_it_is() -> None:
    modules = [p for p in PYTHON if p.is_relative_to(ROOT / "flanneld_py") and not p.name.startswith("__")]
    silent = [at(path, 1) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_exit_only_in_cli() -> None:
    """Below `cli` an error is raised, so that what called can decide."""
    leaving = re.compile(r"^\s*(sys\.exit\((?!main\()|os\._exit\(|raise SystemExit\b)")
    found = [hit for hit in matches(leaving) if hit.startswith("flanneld_py/")]
    assert [hit for hit in found if not hit.startswith("flanneld_py/cli/")] == []


def test_no_place_of_one_machine() -> None:
    assert list(matches(FOREIGN_PLACES)) == []


def test_no_todo_without_owner() -> None:
    assert list(matches(LOOSE_TODO)) == []


def test_top_level_is_fixed() -> None:
    names = {path.name for path in ROOT.iterdir()}
    assert names - MAY_BE_THERE <= TOP_LEVEL
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", ".ci", "deploy", "flanneld_py", "tests"} <= names


def test_test_kinds_are_fixed() -> None:
    kinds = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert kinds <= TEST_KINDS


def test_licence_is_apache_2() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert project["license-files"] == ["LICENSE"]


@pytest.mark.parametrize("script", ["deploy/quickstart", "tests/run", ".ci/run"])
def test_script_may_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111 == 0o111
    assert path.read_text().startswith("#!")


def test_changelog_has_the_version() -> None:
    assert re.search(rf"^## ({re.escape(VERSION)}|Unreleased)\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
