"""What our modules need of the standard library, copied into a folder by the interpreter that it belongs to.

Found by importing, not by reading sources: whatever is loaded afterwards is needed.
"""

import json
import os
import py_compile
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path

WITHOUT = ("_hashlib", "_ssl", "_bz2", "_lzma", "zlib")
"""Modules whose absence others are made for; they would bring libcrypto, half as large as all the rest."""

LATE = ("copy", "gettext", "locale", "shutil", "textwrap", "traceback", "encodings.ascii", "encodings.latin_1")
"""What the standard library itself imports only when it needs it: for help texts and errors."""


def main(target: str) -> None:
    """Fills the folder, and prints as JSON the files of the interpreter itself, which are still missing in it."""
    _import_all()
    # Part of the interpreter, but its file marks where the standard library is (Modules/getpath.py).
    mark = PathFinder.find_spec("os")
    if mark is None:
        raise SystemExit("this Python has no standard library in files")
    library = Path(target) / sys.platlibdir / Path(mark.origin or "").parent.name
    (library / "lib-dynload").mkdir(parents=True)
    for spec in [mark, *loaded()]:
        _copy(spec, library)
    print(json.dumps({"executable": os.path.realpath(sys.executable), "loader": _loader()}))


def _import_all() -> None:
    absent = [name for name in WITHOUT if name not in sys.builtin_module_names]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem != "__main__":
            import_module(f"cni_plugin.{path.stem}")
    for name in LATE:
        import_module(name)
    for name in absent:
        del sys.modules[name]


def loaded() -> list[ModuleSpec]:
    """Where the modules are that were imported and are files."""
    specs = [_spec(name) for name in sorted(sys.modules)]
    return [spec for spec in specs if spec is not None and spec.has_location]


def _spec(name: str) -> ModuleSpec | None:
    spec: ModuleSpec | None = getattr(sys.modules[name], "__spec__", None)
    if spec is None or spec.name == name:
        return spec
    # Its file has put another module into its place, as collections.abc does since Python 3.13.
    path = getattr(sys.modules.get(name.rpartition(".")[0]), "__path__", None)
    return None if path is None else PathFinder.find_spec(name, path)


def _copy(spec: ModuleSpec, library: Path) -> None:
    origin = Path(spec.origin or "")
    if spec.name.partition(".")[0] == "cni_plugin":
        return
    if origin.name.endswith(tuple(EXTENSION_SUFFIXES)):
        (library / "lib-dynload" / origin.name).write_bytes(origin.read_bytes())
        return
    place = library.joinpath(*spec.name.split("."))
    compiled = place / "__init__.pyc" if spec.submodule_search_locations is not None else place.with_suffix(".pyc")
    compiled.parent.mkdir(parents=True, exist_ok=True)
    # Without its source a module is looked for under its own name, not in __pycache__.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(
        str(origin), str(compiled), dfile=str(compiled.relative_to(library)), doraise=True, invalidation_mode=mode
    )


def _loader() -> str:
    """The dynamic linker that runs us."""
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    found = [path for path in paths if Path(path).name.startswith(("ld-", "ld64.", "ld.so"))]
    if len(found) != 1:
        raise SystemExit("this Python is not linked dynamically")
    return found[0]
