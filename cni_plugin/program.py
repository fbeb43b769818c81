"""The executable `flannel` in a runtime's directory, and beside it a folder with our modules, compiled.

Either a tiny script that an interpreter of the node runs, or the launcher of a bundle (`bundle`), which brings its own.
The folder is named after its content, so that an update changes all at once: by the rename of the script, or of the
link that the launcher follows. The folder of the version before stays for a plugin that is just running.
"""

import hashlib
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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

LINK = "flannel.d"
MARK = "# CNI plugin flannel of flanneld_py"

_FOLDER = ".flannel-"
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
    """The executable, and the files, with their modes, of the folder beside it; a Path is a file to be copied.

    `python`: the interpreter, a path that is valid where the runtime runs; "" if it is among the files.
    """

    entry: bytes
    files: Mapping[str, tuple[bytes | Path, int]]
    python: str = ""

    @cached_property
    def folder(self) -> str:
        return _folder_name(self.files)

    @property
    def linked(self) -> bool:
        """Whether the entry finds the folder by the link beside it; a script names it."""
        return not self.entry.startswith(b"#!")


def own_program(python: str | None) -> Program:
    """This package itself. ProgramError if the interpreter (the host's, or the one that runs now) is not fit."""
    sources = own_sources()
    if python is not None:
        return script_program(_checked(python), sources)
    try:
        return script_program(_checked(HOST_PYTHON), sources)
    except ProgramError:
        return script_program(_checked(running_python()), sources)


def own_sources() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(__file__).parent.glob("*.py")}


def running_python() -> str:
    """The interpreter that runs now; of a virtual environment, which may be removed, the one that it was made from."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def script_program(python: str, sources: dict[str, bytes]) -> Program:
    files: dict[str, tuple[bytes | Path, int]] = {
        f"cni_plugin/{name}": (source, 0o644) for name, source in sources.items()
    }
    entry = _SCRIPT.format(python=python, flags=FLAGS, mark=MARK, version=result.VERSION, folder=_folder_name(files))
    return Program(entry.encode(), files, python)


def install(program: Program, directory: Path) -> bool:
    """Whether anything had to be changed; afterwards the directory has a program that has proved to run."""
    folder, path, link = directory / program.folder, directory / NAME, directory / LINK
    written = [place.write_file(folder / name, *file, sync=False) for name, file in program.files.items()]
    changed = any(written)
    if program.python:
        compile_modules(program.python, folder / "cni_plugin")
    if changed:
        place.sync_tree(folder)
    before = _folder_of(directory)
    if changed or before != program.folder or place.read_if_there(path) != program.entry:
        _try(program, directory)
    if program.linked:
        changed |= place.write_link(link, program.folder)
    changed |= place.write_file(path, program.entry, 0o755)
    if not program.linked and link.is_symlink():
        place.remove_file(link)
    _remove_folders(directory, keep={program.folder, before})
    return changed


def uninstall(directory: Path) -> bool:
    """Whether there was a program of ours. The Go plugin is not touched."""
    path, link = directory / NAME, directory / LINK
    if not is_ours(path):
        return False
    place.remove_file(path)
    if link.is_symlink():
        place.remove_file(link)
    _remove_folders(directory, keep=set())
    return True


def is_ours(path: Path) -> bool:
    try:
        return MARK.encode() in (place.read_if_there(path) or b"")
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


def compile_modules(python: str, folder: Path) -> None:
    """What the interpreter makes of the sources in the folder lies beside them."""
    done = subprocess.run([python, FLAGS, "-c", _COMPILE, folder], capture_output=True, check=False)
    if done.returncode:
        raise ProgramError(f"{python} cannot compile {folder}: {result.excerpt(done.stderr or done.stdout)}")


def _folder_name(files: Mapping[str, tuple[bytes | Path, int]]) -> str:
    whole = hashlib.sha256()
    for name, (data, mode) in sorted(files.items()):
        content = hashlib.sha256()
        for piece in place.pieces(data):
            content.update(piece)
        whole.update(f"{name} {mode:o} {content.hexdigest()}\n".encode())
    return _FOLDER + whole.hexdigest()[:12]


def _try(program: Program, directory: Path) -> None:
    """ProgramError if the program, whose folder is in the directory, does not run there."""
    trial = directory / f".{NAME}.{secrets.token_hex(6)}.trial"
    trial.mkdir()
    try:
        (trial / (LINK if program.linked else program.folder)).symlink_to(Path("..") / program.folder)
        place.write_file(trial / NAME, program.entry, 0o755)
        supported_versions(trial / NAME)
    finally:
        shutil.rmtree(trial)


def _folder_of(directory: Path) -> str:
    """The folder that the program of ours in the directory uses; "" if there is none."""
    entry = place.read_if_there(directory / NAME) or b""
    if MARK.encode() not in entry:
        return ""
    if not entry.startswith(b"#!"):
        link = directory / LINK
        return str(link.readlink()) if link.is_symlink() else ""
    start = entry.find(b"/" + _FOLDER.encode()) + 1
    return entry[start:].partition(b'"')[0].decode(errors="replace") if start else ""


def _remove_folders(directory: Path, keep: set[str]) -> None:
    for path in directory.glob(f"{_FOLDER}*"):
        if path.name not in keep and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
