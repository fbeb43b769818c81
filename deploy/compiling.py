"""How the native pump is compiled: pyproject.toml names this class to setuptools."""

import runpy
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

_FOLDER = Path(__file__).parents[1] / "flanneld_py" / "dataplane"


class BuildStamped(build_ext):
    """Gives the module the sum over its sources (stamp.py).

    Always compiles: by the times of files alone, a change of branch and back would leave a module of old sources.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        # Not by import: while it is built, the package need not be where Python looks for packages.
        sources = runpy.run_path(str(_FOLDER / "stamp.py"))["sum_sources"](_FOLDER)
        ext.define_macros.append(("NATIVE_SOURCES", f'"{sources}"'))
        super().build_extension(ext)
