"""What pyproject.toml cannot say: the native pump carries a sum over its sources (flanneld_py/dataplane/stamp.py)."""

import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("flanneld_py/dataplane")


class BuildStamped(build_ext):
    """Always compiles: by the times of files alone, a change of branch and back would leave a module of old sources."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        sources = runpy.run_path(str(FOLDER / "stamp.py"))["sum_sources"](FOLDER)
        ext.define_macros.append(("NATIVE_SOURCES", f'"{sources}"'))
        super().build_extension(ext)


setup(cmdclass={"build_ext": BuildStamped})
