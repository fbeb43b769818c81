"""Short runs of the fuzzers; longer ones: the module `differential`, and the two C programs with more rounds."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import differential

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "flanneld_py" / "dataplane"
WRAPPED = ("read", "write", "writev", "sendmsg", "sendmmsg", "recvmmsg")
CORE = ("_pump.c", "_segment.c", "_merge.c", "_checksum.c")
PROGRAMS = {
    "pump_fuzz": (CORE, ()),
    "io_fuzz": (
        (*CORE, "_outbox.c", "_encap.c", "_decap.c", "_serve.c"),
        ("-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED),),
    ),
}
FLAGS = (
    *("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # The sanitizer makes gcc 12 mistake writev's count of pieces for a count of bytes.
    *("-Wno-unknown-warning-option", "-Wno-stringop-overread"),
)
ROUNDS = os.environ.get("PUMP_FUZZ_ROUNDS", "1500")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]


def test_there_is_a_compiler() -> None:
    assert COMPILERS, "without gcc or clang the native pump is neither built nor fuzzed"


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_found(program: str, compiler: str, tmp_path: Path) -> None:
    sources, flags = PROGRAMS[program]
    built = tmp_path / program
    files = [str(HERE / f"{program}.c"), *(str(SOURCES / name) for name in sources)]
    subprocess.run([compiler, *FLAGS, f"-I{SOURCES}", *files, *flags, "-o", str(built)], check=True)
    for seed in ("1", "2"):
        done = subprocess.run([str(built), ROUNDS, seed], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{ROUNDS} rounds, nothing found\n"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_native_pump_compiles_without_a_warning(compiler: str, tmp_path: Path) -> None:
    strict = ("-std=c11", "-O3", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
    for source in sorted(SOURCES.glob("_*.c")):
        if not source.name.startswith("_native"):
            target = str(tmp_path / f"{source.stem}.o")
            subprocess.run([compiler, *strict, "-c", str(source), "-o", target], check=True)


def test_native_and_portable_do_not_differ() -> None:
    assert differential.run(20_000, seed=0, report=lambda _: None) >= 20_000
