"""`flannel install`: the program and the configuration list into place, and out of it again.

Binary first, conflist last: a runtime that sees the conflist calls what it names. Taking away goes the other way round,
and the binary stays as long as pods need it for DEL.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cni_plugin import bundle, conflist, launcher, place, program
from cni_plugin.conflist import Conflist, ConflistError
from cni_plugin.program import Program, ProgramError

BIN_DIR = Path("/opt/cni/bin")
CONF_DIR = Path("/etc/cni/net.d")
ELSEWHERE = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
"""Where distributions put the plugins of the CNI project."""


class InstallError(Exception):
    """Nothing was changed, or what was is told before."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for. `bundle`: the folder with one; the empty path asks for one to be made."""

    bin_dirs: tuple[Path, ...]
    conf_dir: Path
    conf: Path | None
    python: str | None
    bundle: Path | None
    uninstall: bool
    resident: bool = False
    with_conf: bool = True

    @property
    def conflist(self) -> Path:
        return self.conf_dir / conflist.FILE_NAME


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 refused, with one line that says why and what mends it."""
    parser = _parser()
    if not arguments:
        parser.print_usage(sys.stderr)
        print("flannel: a runtime calls the plugin without arguments; these commands are for people", file=sys.stderr)
        return 2
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
    except (InstallError, ProgramError) as error:
        print(f"flannel {given.command}: {error}", file=sys.stderr)
    except OSError as error:
        print(f"flannel {given.command}: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        return code
    return 1


def _run_install(given: argparse.Namespace) -> int:
    bin_dirs = tuple(dict.fromkeys(given.bin_dir or [BIN_DIR]))
    program_of = given.python, given.bundle, given.uninstall, given.resident
    plan = Plan(bin_dirs, given.conf_dir, given.conf, *program_of, with_conf=not given.no_conf)
    return uninstall(plan) if plan.uninstall else install(plan)


def _run_bundle(given: argparse.Namespace) -> int:
    bundle.build(given.python or program.running_python(), given.dir)
    print(f"made: {given.dir}; on a node: {given.dir / program.NAME} install")
    return 0


def install(plan: Plan) -> int:
    """Checks all, then places the program, then the conflist, each only if it differs from what is there."""
    text, wanted = _wanted(plan)
    with _program(plan) as own:
        if plan.with_conf:
            _check_plugins(wanted, plan)
        for directory in plan.bin_dirs:
            changed = program.install(own, directory)
            how = own.python or "with an interpreter of its own"
            print(f"{'installed' if changed else 'unchanged'}: {directory / program.NAME} ({how})")
    if not plan.with_conf:
        return 0
    _check_directory(plan.conflist)
    changed = place.write_file(plan.conflist, text, 0o644)
    print(f"{'installed' if changed else 'unchanged'}: {plan.conflist} (network {wanted.name})")
    for line in _rivals(plan.conf_dir, wanted):
        _warn(f"{plan.conf_dir}: {line}")
    return 0


def uninstall(plan: Plan) -> int:
    """The conflist is gone, and the programs too unless pods still need them."""
    present = place.read_if_there(plan.conflist)
    data_dirs: tuple[str, ...] = ("/var/lib/cni/flannel",)
    if present is not None:
        try:
            data_dirs = conflist.parse_conflist(present).data_dirs
        except ConflistError as error:
            _warn(f"{plan.conflist} is not usable ({error}); it is removed nevertheless")
        place.remove_file(plan.conflist)
        print(f"removed: {plan.conflist}")
    attached = sum(_count(Path(directory)) for directory in data_dirs)
    if attached:
        raise InstallError(
            f"{attached} attachments of pods are still recorded in {', '.join(data_dirs)}: the plugin stays until they "
            "are deleted; then run this again"
        )
    for directory in plan.bin_dirs:
        path = directory / program.NAME
        if program.uninstall(directory):
            print(f"removed: {path}")
        elif path.exists():
            _warn(f"{path} was not installed by this program; it stays")
    return 0


@contextmanager
def _program(plan: Plan) -> Iterator[Program]:
    """What was asked for: a bundle, as a bundle also installs unless a Python is named; the launcher; else a script.

    The files of a bundle that is made for this one time are gone after the block.
    """
    running = bundle.running_bundle()
    if plan.bundle is not None and plan.bundle.name:
        yield bundle.read_bundle(plan.bundle)
    elif running is not None and plan.python is None:
        yield bundle.read_bundle(running)
    elif plan.bundle is None:
        yield launcher.launched(plan.python) if plan.resident else program.own_program(plan.python)
    else:
        with TemporaryDirectory() as temporary:
            bundle.build(program.running_python(), Path(temporary))
            yield bundle.read_bundle(Path(temporary))


def _wanted(plan: Plan) -> tuple[bytes, Conflist]:
    text, where = conflist.DEFAULT.encode(), "the default conflist"
    if plan.conf is not None:
        text, where = plan.conf.read_bytes(), str(plan.conf)
    try:
        return text, conflist.parse_conflist(text)
    except ConflistError as error:
        raise InstallError(f"{where}: {error}; {plan.conflist} is left as it is") from None


def _check_plugins(wanted: Conflist, plan: Plan) -> None:
    """Each plugin is in one of the directories, runs, and supports every version of the list."""
    for name in wanted.plugins:
        places = [directory / name for directory in plan.bin_dirs if (directory / name).is_file()]
        blind = [directory / name for directory in plan.bin_dirs if (directory / name).is_symlink()]
        if not places and blind:
            # In a container that has only this directory of the host, which may be full of links (k3s, NixOS).
            _warn(f"{blind[0]} leads to {blind[0].readlink()}, which is not there to be seen from here: not checked")
            continue
        if not places:
            raise InstallError(f"plugin {name!r} is not in {_words(plan.bin_dirs)}; {_mend(name, plan)}")
        for directory in plan.bin_dirs:
            if directory / name not in places:
                _warn(f"{name} is not in {directory}: a runtime that knows only this directory cannot connect pods")
        for path in places:
            missing = [version for version in wanted.versions if version not in program.supported_versions(path)]
            if missing:
                raise InstallError(
                    f"{path} does not support cniVersion {', '.join(missing)}; lower cniVersion in the conflist, or "
                    "install a newer release of the CNI plugins"
                )


def _check_directory(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        raise InstallError(f"{path} is a directory; remove it")


def _mend(name: str, plan: Plan) -> str:
    there = [place for place in ELSEWHERE if place not in plan.bin_dirs and (place / name).is_file()]
    if there:
        return f"it is in {there[0]}: add --bin-dir {there[0]} if the runtime looks there too"
    return "install the plugins of the CNI project (Debian: containernetworking-plugins, and --bin-dir /usr/lib/cni)"


def _rivals(directory: Path, wanted: Conflist) -> list[str]:
    files: dict[str, bytes | None] = {}
    folders = set()
    for entry in os.scandir(directory):
        if entry.is_dir():
            folders.add(entry.name)
        elif entry.name.endswith(conflist.LOADED_SUFFIXES):
            try:
                files[entry.name] = Path(entry.path).read_bytes() if entry.is_file() else None
            except OSError:
                files[entry.name] = None
    return conflist.rivals(files, folders, conflist.FILE_NAME, wanted.name)


def _count(directory: Path) -> int:
    return sum(1 for path in directory.iterdir() if path.is_file()) if directory.is_dir() else 0


def _words(paths: Sequence[Path]) -> str:
    return " or ".join(str(path) for path in paths)


def _warn(text: str) -> None:
    print(f"flannel install: warning: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flannel", description="The CNI plugin flannel; commands for people.")
    commands = parser.add_subparsers(dest="command", required=True)
    what = "put the plugin and its conflist where a container runtime looks for them"
    install_parser = commands.add_parser("install", help=what, description=what)
    install_parser.set_defaults(run=_run_install)
    add = install_parser.add_argument
    add(
        "--bin-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help=f"where the runtime looks for plugins; may be given again ({BIN_DIR})",
    )
    add(
        "--conf-dir",
        type=Path,
        default=CONF_DIR,
        metavar="DIR",
        help="where the runtime looks for networks (%(default)s)",
    )
    lists = install_parser.add_mutually_exclusive_group()
    what = "the conflist to install; without it, one with bridge and portmap"
    lists.add_argument("--conf", type=Path, metavar="FILE", help=what)
    lists.add_argument("--no-conf", action="store_true", help="the plugin alone, for a conflist from elsewhere")
    interpreter = install_parser.add_mutually_exclusive_group()
    interpreter.add_argument(
        "--python",
        metavar="PATH",
        help=f"the interpreter, as the host names it ({program.HOST_PYTHON}, or the one running this)",
    )
    interpreter.add_argument(
        "--bundle",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="DIR",
        help="bring an interpreter along, for a host without Python: the bundle in DIR, else one made now",
    )
    add(
        "--resident",
        action="store_true",
        help="let the node's flanneld connect pods while it answers, in half the time: the plugin's entry "
        "is a small program then, as a bundle's always is (needs a C compiler)",
    )
    add("--uninstall", action="store_true", help="remove the conflist, and the plugin when no pod needs it any more")
    what = "make a bundle: the plugin with an interpreter of its own, for hosts without Python (needs a C compiler)"
    bundle_parser = commands.add_parser("bundle", help=what, description=what)
    bundle_parser.set_defaults(run=_run_bundle)
    bundle_parser.add_argument("dir", type=Path, metavar="DIR", help="where to put it; not there yet, or empty")
    bundle_parser.add_argument("--python", metavar="PATH", help="the interpreter to bring along (the one running this)")
    return parser
