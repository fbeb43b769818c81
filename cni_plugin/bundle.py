"""The plugin with an interpreter of its own, for nodes that have neither Python nor a shell nor a libc.

    flannel                 the launcher, static
    flannel.d/start         the command that the launcher runs
    flannel.d/flannel.py    the script that the interpreter runs
    flannel.d/cni_plugin/   our modules
    flannel.d/bin/, lib/    the interpreter, its dynamic linker and libraries, what is needed of the standard library

Building it takes a C compiler; installing it only copies files.
"""

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cni_plugin import launcher, place, program, result
from cni_plugin.program import Program, ProgramError

CLOSURE = "import sys; sys.path.insert(0, sys.argv[1]); from cni_plugin.closure import main; main(sys.argv[2])"
_LISTED = re.compile(r"^\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", re.MULTILINE)


def build(python: str, target: Path) -> None:
    """A bundle that has proved to run is in the folder `target`, which was empty or not there. ProgramError if not."""
    if running_bundle() is not None:
        raise ProgramError("this is a bundle; copy it, or make one from the package: python -m cni_plugin bundle DIR")
    if target.exists() and any(target.iterdir()):
        raise ProgramError(f"{target} is not empty; name a folder that is, or that is not there yet")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.parent.resolve() / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        folder = made / program.LINK
        folder.mkdir(parents=True)
        launcher.make_launcher(made / program.NAME)
        add_ours(python, folder)
        _add_interpreter(python, folder)
        program.supported_versions(made / program.NAME)
        _run(made / program.NAME, "install", "--help")  # most of what it has of the standard library is for this
        made.replace(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_bundle(directory: Path) -> Program:
    """The bundle that was built, or installed, in the directory."""
    entry = place.read_if_there(directory / program.NAME)
    if entry is None or not (directory / program.LINK / launcher.START).is_file():
        raise ProgramError(f"{directory} holds no bundle; make one: python -m cni_plugin bundle {directory}")
    folder = (directory / program.LINK).resolve()
    files: dict[str, tuple[bytes | Path, int]] = {
        str(path.relative_to(folder)): (path, path.stat().st_mode & 0o777)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Program(entry, files)


def running_bundle() -> Path | None:
    """The directory of the bundle that runs now; None if none does."""
    folder = Path(__file__).resolve().parents[1]
    return folder.parent if (folder / launcher.START).is_file() else None


def add_ours(python: str, folder: Path) -> None:
    """Our modules, compiled by `python`."""
    modules = folder / "cni_plugin"
    modules.mkdir()
    for name, source in program.own_sources().items():
        (modules / name).write_bytes(source)
    program.compile_modules(python, modules)


def _add_interpreter(python: str, folder: Path) -> None:
    above = Path(__file__).resolve().parents[1]
    found: dict[str, Any] = json.loads(_run(python, program.FLAGS, "-c", CLOSURE, above, folder))
    loader, executable = Path(found["loader"]), folder / "bin" / "python3"
    executable.parent.mkdir()
    shutil.copyfile(found["executable"], executable)
    libraries = folder / "lib"
    libraries.mkdir(exist_ok=True)
    for binary in (Path(found["executable"]), *folder.rglob("lib-dynload/*")):
        for name, path in _LISTED.findall(_run(loader, "--list", binary)):
            if not path.startswith("/"):
                raise ProgramError(f"{python} needs {name}, which is {path}")
            shutil.copyfile(path, libraries / Path(name).name)
    for path in (executable, *libraries.iterdir(), *folder.rglob("lib-dynload/*")):
        if path.is_file():
            _strip(path)
    shutil.copyfile(loader, libraries / loader.name)
    for path in (executable, libraries / loader.name):
        path.chmod(0o755)
    write_start(folder, loader.name)


def write_start(folder: Path, loader: str) -> None:
    """What the launcher runs: the interpreter, by the dynamic linker that came along."""
    words = [f"./lib/{loader}", "--library-path", "./lib", "./bin/python3", program.FLAGS]
    for name, (data, _) in launcher.starter(words).items():
        (folder / name).write_bytes(data)


def _strip(path: Path) -> None:
    """Smaller by what only a debugger reads, where there is the program for it."""
    stripper = shutil.which("strip")
    if stripper is not None:
        subprocess.run([stripper, "--strip-unneeded", path], capture_output=True, check=False)


def _run(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ProgramError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ProgramError(f"{command[0]}: {result.excerpt(done.stderr.encode())}")
    return done.stdout
