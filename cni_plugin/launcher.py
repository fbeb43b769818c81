"""The launcher, a small static program: how it is made. It takes a C compiler, so that is done where there is one.

flannel                 the launcher
flannel.d/start         the command that runs the plugin proper, a word a line; ./ begins a path in the folder
flannel.d/flannel.py    the script of that command
flannel.d/cni_plugin/   our modules
"""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from cni_plugin import place, program, result
from cni_plugin.program import ProgramError

SOURCES = tuple(Path(__file__).with_name(name) for name in ("launcher.c", "launcher_ask.c", "launcher_exec.c"))
COMPILERS = ("cc", "gcc", "clang")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
FOLDER = "flannel.d"
SCRIPT = """\
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


def launcher_program(python: str | None) -> tuple[bytes, dict[str, bytes]]:
    """The launcher, and what belongs into flannel.d beside it; `python` runs the plugin proper."""
    own = program.own_program(python)
    with TemporaryDirectory() as folder:
        path = Path(folder) / program.NAME
        make_launcher(path)
        entry = path.read_bytes()
    words = [own.python, program.FLAGS, "./flannel.py"]
    modules = {f"cni_plugin/{name}": source for name, source in own.sources.items()}
    return entry, {"start": "".join(f"{word}\n" for word in words).encode(), "flannel.py": SCRIPT.encode(), **modules}


def install(directory: Path, python: str | None = None) -> None:
    """The directory has the plugin with the launcher as its entry."""
    entry, files = launcher_program(python)
    for name, data in files.items():
        place.write_file(directory / FOLDER / name, data, 0o644)
    place.write_file(directory / program.NAME, entry, 0o755)
