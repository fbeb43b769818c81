"""The launcher under the sanitizers: its reader of configurations against Python's, and all of it in real use."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import launcher

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "cni_plugin"
ROUNDS = os.environ.get("LAUNCHER_FUZZ_ROUNDS", "200000")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BASE = ("-std=c11", "-D_GNU_SOURCE", *launcher.WARNINGS)
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]


def compiled(path: Path, compiler: str, *arguments: str | Path) -> Path:
    subprocess.run([compiler, *BASE, *arguments, "-o", path], check=True)
    return path


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "launcher_fuzz"
    return compiled(path, COMPILERS[0], *SANITIZED, f"-I{SOURCES}", HERE / "launcher_fuzz.c")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_launcher_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    compiled(tmp_path / "launcher", compiler, "-O2", "-static", *launcher.SOURCES)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_damaged_configurations_are_read_without_harm(reader: Path, seed: str) -> None:
    done = subprocess.run([reader, ROUNDS, seed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROUNDS} rounds, nothing found\n"


KEYS = st.sampled_from(["subnetFile", "name", "subnetfile", 'a"b', "\\", "x{", "subnet\u0046ile"])
PATHS = st.sampled_from(
    ["/run/flannel/subnet.env", "/a/b", "/b", "relative", "", '/with "quotes"', "/\u00e9/x", "/a\\b"]
)
JSON = st.recursive(
    st.none() | st.integers() | PATHS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(config=st.dictionaries(KEYS, JSON, max_size=5), indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_reader_finds_the_key_that_json_has(
    reader: Path, config: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Or doubts, where it does not take the trouble: then the plugin proper does the work."""
    text = json.dumps(config, indent=indent, ensure_ascii=ascii_only)
    found = subprocess.run([reader], input=text.encode(), capture_output=True, check=True).stdout.decode().strip("\n")
    path = config.get("subnetFile", "/run/flannel/subnet.env")
    plain = isinstance(path, str) and path.startswith("/") and "\\" not in json.dumps(path, ensure_ascii=ascii_only)
    assert found == (f"{path.rpartition('/')[0]}/cni.sock" if plain else "doubt")
