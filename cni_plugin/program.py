"""The executable `flannel` in a runtime's directory: a tiny script, and beside it a folder with our modules, compiled.

The folder is named after its content, so that an update changes both at once: by the rename of the script. The folder
of the version before stays for a plugin that is just running.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cni_plugin import jsontext, place, result

NAME = "flannel"
FLAGS = "-SEIXutf8"
"""No site-packages, no environment, no user's directories, and UTF-8 whatever the locale; one word, for the kernel
splits the first line of a script only once."""

MINIMUM = (3, 11)
HOST_PYTHON = "/usr/bin/python3"
VERSION_TIMEOUT_S = 30.0

_MAX_INTERPRETER = 200
"""Bytes: the kernel reads 255 of a script's first line (BINPRM_BUF_SIZE)."""

_FOLDER = ".flannel-"
_MARK = b"# CNI plugin flannel of flanneld_py"
_SCRIPT = """\
#!{python} {flags}
{mark} {version}
import sys

sys.path.insert(0, __file__.rpartition("/")[0] + "/{folder}")
try:
    from cni_plugin.main import main
except ImportError:
    from os.path import dirname, realpath  # called by a symbolic link from elsewhere

    sys.path[0] = dirname(realpath(__file__)) + "/{folder}"
    from cni_plugin.main import main
main()
"""
_COMPILE = """\
mode = "UNCHECKED_HASH"  # PEP 552: the folder's name stands for its content, so the sources need not be looked at
import glob, importlib.util, py_compile, sys
for path in glob.glob(sys.argv[1] + "/*.py"):
    compiled = importlib.util.cache_from_source(path)
    with open(path, "rb") as file:
        head = importlib.util.MAGIC_NUMBER + bytes([1, 0, 0, 0]) + importlib.util.source_hash(file.read())
    try:
        with open(compiled, "rb") as file:
            fresh = file.read(16) == head
    except OSError:
        fresh = False
    if not fresh:
        name = "cni_plugin/" + path.rpartition("/")[2]
        py_compile.compile(path, dfile=name, doraise=True, invalidation_mode=py_compile.PycInvalidationMode[mode])
"""


class ProgramError(Exception):
    """The program cannot be put into place, or does not run there."""


@dataclass(frozen=True)
class Program:
    """Our modules and the interpreter that is to run them, a path that is valid where the runtime runs."""

    python: str
    sources: dict[str, bytes]

    @property
    def folder(self) -> str:
        digest = hashlib.sha256(repr(sorted(self.sources.items())).encode()).hexdigest()
        return _FOLDER + digest[:12]

    @property
    def script(self) -> bytes:
        text = _SCRIPT.format(
            python=self.python, flags=FLAGS, mark=_MARK.decode(), version=result.VERSION, folder=self.folder
        )
        return text.encode()


def own_program(python: str | None) -> Program:
    """This package itself. ProgramError if the interpreter (the host's, or the one that runs now) is not fit."""
    here = Path(__file__).parent
    sources = {path.name: path.read_bytes() for path in here.glob("*.py")}
    if python is not None:
        return Program(_checked(python), sources)
    try:
        return Program(_checked(HOST_PYTHON), sources)
    except ProgramError:
        # Of a virtual environment, which may be removed, the interpreter that it was made from.
        return Program(_checked(str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())), sources)


def install(program: Program, directory: Path) -> bool:
    """Whether anything had to be changed; afterwards the directory has a program that has proved to run."""
    folder = directory / program.folder
    changed = False
    for name, source in program.sources.items():
        changed |= place.write_file(folder / "cni_plugin" / name, source, 0o644)
    _compile(program, folder / "cni_plugin")
    trial = directory / f".{NAME}.{os.getpid()}.trial"
    path = directory / NAME
    if changed or place.read_if_there(path) != program.script:
        try:
            place.write_file(trial, program.script, 0o755)
            supported_versions(trial)
        finally:
            place.remove_file(trial)
    before = _folder_of(place.read_if_there(path) or b"")
    changed |= place.write_file(path, program.script, 0o755)
    _remove_folders(directory, keep={program.folder, before})
    return changed


def uninstall(directory: Path) -> bool:
    """Whether there was a program of ours. The Go plugin is not touched."""
    path = directory / NAME
    if not is_ours(path):
        return False
    place.remove_file(path)
    _remove_folders(directory, keep=set())
    return True


def is_ours(path: Path) -> bool:
    try:
        return _MARK in (place.read_if_there(path) or b"")[:1000]
    except OSError:
        return False


def supported_versions(path: Path) -> tuple[str, ...]:
    """What the plugin answers to VERSION. ProgramError if it cannot be run, or answers nothing usable."""
    asked = jsontext.encode({"cniVersion": result.NEWEST})
    environment = {"CNI_COMMAND": "VERSION", "PATH": "/usr/bin:/bin"}
    try:
        done = subprocess.run(
            [path], input=asked, env=environment, capture_output=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{path} cannot be run: {getattr(error, 'strerror', None) or 'it does not end'}") from None
    try:
        versions = jsontext.decode_object(done.stdout).get("supportedVersions")
    except ValueError:
        versions = None
    if done.returncode or not isinstance(versions, list):
        said = result.excerpt(done.stderr) or result.excerpt(done.stdout) or f"exit status {done.returncode}"
        raise ProgramError(f"{path} does not tell its versions: {said}")
    return tuple(str(version) for version in versions)


def _checked(python: str) -> str:
    if not python.startswith("/") or len(python.encode()) > _MAX_INTERPRETER or any(char.isspace() for char in python):
        raise ProgramError(f"{python}: the first line of a script needs a path from /, without blanks and not too long")
    ask = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, FLAGS, "-c", ask], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{python} cannot be run: {getattr(error, 'strerror', None) or 'it does not end'}") from None
    numbers = tuple(int(word) for word in done.stdout.split() if word.isdigit())
    if done.returncode or numbers < MINIMUM:
        found = done.stdout.strip().replace(" ", ".") or result.excerpt(done.stderr.encode())
        raise ProgramError(
            f"{python} is not Python {'.'.join(map(str, MINIMUM))} or newer ({found}); name one with --python"
        )
    return python


def _compile(program: Program, folder: Path) -> None:
    done = subprocess.run([program.python, FLAGS, "-c", _COMPILE, folder], capture_output=True, check=False)
    if done.returncode:
        raise ProgramError(f"{program.python} cannot compile {folder}: {result.excerpt(done.stderr or done.stdout)}")


def _folder_of(script: bytes) -> str:
    """The folder that an earlier script of ours uses; "" for anything else."""
    if _MARK not in script[:1000]:
        return ""
    start = script.find(b"/" + _FOLDER.encode()) + 1
    return script[start:].partition(b'"')[0].decode(errors="replace") if start else ""


def _remove_folders(directory: Path, keep: set[str]) -> None:
    for path in directory.glob(f"{_FOLDER}*"):
        if path.name not in keep and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
