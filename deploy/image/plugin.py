"""The CNI plugin's bundle for the image's machine: what `flannel bundle` makes, put together without running it."""

import re
import shutil
from pathlib import Path
from typing import Final

from cni_plugin import bundle, launcher, program
from deploy.image.platforms import Platform, find_compiler
from deploy.image.process import BuildError, run

_NEEDED: Final = re.compile(r"\(NEEDED\).*\[(.+)\]")
_LOADER: Final = re.compile(r"interpreter: /(\S+)\]")


def add_bundle(target: Path, root: Path, python: Path, platform: Platform) -> None:
    """The bundle is in the folder `target`. Its parts are those of the root file system in `root`; `python` is one of
    the same version that runs here. BuildError: a part is missing."""
    folder = target / program.LINK
    folder.mkdir(parents=True)
    compiler = find_compiler(platform)
    run([compiler, *launcher.COMPILE, "-o", target / program.NAME, *launcher.SOURCES])
    bundle.add_ours(str(python), folder)
    checkout = Path(bundle.__file__).parents[1]
    run([python, program.FLAGS, "-c", bundle.CLOSURE, checkout, folder])
    library = next(folder.glob("lib/python3*"))
    _exchange(library / "lib-dynload", root)
    executable = folder / "bin/python3"
    executable.parent.mkdir()
    shutil.copyfile(root / "usr/bin/python3", executable)
    loader = root / "usr" / _LOADER.findall(run(["readelf", "-l", executable]))[0]
    shutil.copyfile(loader, folder / "lib" / loader.name)
    for path in (executable, folder / "lib" / loader.name):
        path.chmod(0o755)
    _add_libraries(folder, root, platform)
    bundle.write_start(folder, loader.name)


def _exchange(modules: Path, root: Path) -> None:
    """In place of the extension modules of the Python that ran, those of the image's."""
    there = next(root.glob("usr/lib/python3*/lib-dynload"))
    for path in list(modules.iterdir()):
        path.unlink()
        name = path.name.partition(".")[0]
        found = list(there.glob(f"{name}.*"))
        if len(found) != 1:
            raise BuildError(f"the image lacks Python's module {name}, which the plugin needs")
        shutil.copyfile(found[0], modules / found[0].name)


def _add_libraries(folder: Path, root: Path, platform: Platform) -> None:
    places = (root / "usr/lib" / platform.triplet, root / "usr/lib", root / "usr/lib64")
    open_ = [folder / "bin/python3", *folder.rglob("lib-dynload/*")]
    while open_:
        for name in _NEEDED.findall(run(["readelf", "-d", open_.pop()])):
            target = folder / "lib" / name
            if target.exists():
                continue
            found = next((place / name for place in places if (place / name).exists()), None)
            if found is None:
                raise BuildError(f"the image lacks {name}, which the plugin needs")
            shutil.copyfile(found, target)
            open_.append(target)
