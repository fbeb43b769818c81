"""The launcher, a small static program: how it is made. It takes a C compiler, so that is done where there is one.

flannel                 the launcher
flannel.d/start         the command that runs the plugin proper, a word a line; ./ begins a path in the folder
flannel.d/flannel.py    the script of that command
flannel.d/cni_plugin/   our modules
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cni_plugin import program, result
from cni_plugin.program import Program, ProgramError

SOURCES = tuple(Path(__file__).with_name(name) for name in ("launcher.c", "launcher_ask.c", "launcher_exec.c"))
COMPILERS = ("cc", "gcc", "clang")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
START, SCRIPT = "start", "flannel.py"
_SCRIPT = """\
{mark} {version}
import sys

sys.path.insert(0, __file__.rpartition("/")[0])
from cni_plugin.main import main

main()
"""
COMPILE = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-static", "-s")


def make_launcher(path: Path) -> None:
    """The program is at `path`. ProgramError: there is no compiler, or none that can link statically."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise ProgramError(
            "there is no C compiler for the launcher; install one (Debian: apt-get install gcc libc6-dev)"
        )
    try:
        done = subprocess.run([*compiler.split(), *COMPILE, "-o", path, *SOURCES], capture_output=True, check=False)
    except OSError as error:
        raise ProgramError(f"{compiler} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ProgramError(
            f"{compiler} cannot make a static program of {SOURCES[0].name}: {result.excerpt(done.stderr)}; install the "
            "C library in its static form (Debian: libc6-dev, Fedora: glibc-static)"
        )
    path.chmod(0o755)


def launched(python: str | None) -> Program:
    """This package with the launcher as its entry; the plugin proper is run by an interpreter of the node.

    ProgramError: the interpreter is not fit, or there is no compiler.
    """
    script = program.own_program(python)
    with TemporaryDirectory() as folder:
        path = Path(folder) / program.NAME
        make_launcher(path)
        entry = path.read_bytes()
    return Program(entry, {**script.files, **starter([script.python, program.FLAGS])}, script.python)


def starter(interpreter: Sequence[str]) -> dict[str, tuple[bytes, int]]:
    """The files by which the launcher finds the plugin proper; the interpreter may be a path as ./bin/python3."""
    script = _SCRIPT.format(mark=program.MARK, version=result.VERSION)
    words = "".join(f"{word}\n" for word in (*interpreter, f"./{SCRIPT}"))
    return {START: (words.encode(), 0o644), SCRIPT: (script.encode(), 0o644)}
