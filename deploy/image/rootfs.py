"""The image's root file system, put together below a folder."""

import platform as this_machine
import re
import shlex
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from deploy.image import bytecode, contents
from deploy.image.debian import Apt, describe, unpack
from deploy.image.platforms import Platform, find_compiler, of_machine
from deploy.image.plugin import add_bundle
from deploy.image.process import BuildError, run

SITE: Final = "usr/lib/python3/dist-packages"
_REQUIREMENT = re.compile(r"^([\w.-]+)==([\w.]+)$", re.MULTILINE | re.ASCII)
_COMMAND = """\
#!/usr/bin/python{python} -I
import sys

from {module} import {function}

sys.exit({function}())
"""


class RootFS:
    """Below `root`, which must not exist, for `platform`, from the sources in `checkout`.

    What was fetched is left in `work`, by the platform's name. BuildError: something cannot be had, or does not fit.
    """

    def __init__(self, root: Path, platform: Platform, checkout: Path, work: Path, apt: Apt) -> None:
        self.root, self._platform, self._checkout, self._apt = root, platform, checkout, apt
        self._work = work / platform.name
        self._builder = work.resolve() / "builder"

    def build(self) -> None:
        self.root.mkdir(parents=True)
        self.add_packages()
        self.add_wheels()
        self.add_own()
        self.add_native()
        self.add_files()
        self.check_libraries()
        self.compile()
        self.add_plugin()

    def add_packages(self) -> None:
        """Debian's files, and a record of each package where scanners look for it in images without dpkg."""
        stand_ins = (name for names in self._platform.missing.values() for name in names)
        folder = self._work / "debian"
        records = self.root / "var/lib/dpkg/status.d"
        for package in self._apt.fetch((*contents.PACKAGES, *stand_ins), self._platform.debian, folder):
            unpack(package, self.root, contents.PRUNED)
            records.mkdir(parents=True, exist_ok=True)
            (records / package.name.partition("_")[0]).write_text(describe(package))
        trusted = sorted((self.root / "usr/share/ca-certificates").rglob("*.crt"))
        self._write("etc/ssl/certs/ca-certificates.crt", "".join(path.read_text() for path in trusted))

    def add_wheels(self) -> None:
        site = self.root / SITE
        for name, version in read_requirements(self._checkout).items():
            if name.lower() in self._platform.missing:
                continue
            sources = name in contents.SOURCES_ONLY or name in self._platform.built
            path = self._fetch(name, version, self._work / "wheels" / f"{name}-{version}", sources=sources)
            if sources:
                prefix, module = contents.BUILT.get(name, ("", None))
                _extract_package(path, prefix, name, site)
                if module is not None:
                    extension = {"sources": [site / f"{module}.c"], "extra-compile-args": ["-O2", "-w"]}
                    compile_extension(extension, self._platform, site, self._headers, site / f"{module}.so")
            else:
                with zipfile.ZipFile(path) as wheel:
                    wheel.extractall(site)  # noqa: S202 - keeps to the folder
        for pattern in contents.PRUNED_WHEELS:
            for path in site.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _fetch(self, name: str, version: str, folder: Path, *, sources: bool) -> Path:
        if not folder.exists():
            if sources:
                options = ["--no-binary", name]
            else:
                options = ["--only-binary", ":all:", "--python-version", contents.PYTHON, "--implementation", "cp"]
                options += [word for tag in self._platform.wheel_tags for word in ("--platform", tag)]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            partial = folder.with_name(f".{folder.name}")
            shutil.rmtree(partial, ignore_errors=True)
            run([*pip, *options, "--dest", partial, f"{name}=={version}"])
            partial.rename(folder)
        (path,) = folder.iterdir()
        return path

    def add_own(self) -> None:
        left_out = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.so", "*.pyi")
        for package in ("flanneld_py", "cni_plugin"):
            shutil.copytree(self._checkout / package, self.root / SITE / package, ignore=left_out)
        for name, (module, function) in contents.COMMANDS.items():
            text = _COMMAND.format(python=contents.PYTHON, module=module, function=function)
            self._write(f"opt/bin/{name}", text, mode=0o755)
        self._write("usr/share/doc/flanneld/copyright", (self._checkout / "LICENSE").read_text())

    def add_native(self) -> None:
        """The udp backend's pump, built by this machine's compiler for the image's machine."""
        project = tomllib.loads((self._checkout / "pyproject.toml").read_text())
        (extension,) = project["tool"]["setuptools"]["ext-modules"]
        target = (self.root / SITE / Path(*extension["name"].split("."))).with_suffix(".abi3.so")
        compile_extension(extension, self._platform, self._checkout, self._headers, target)

    @cached_property
    def _headers(self) -> Path:
        """Python's, for the image's machine."""
        folder = self._work / "headers"
        for package in self._apt.fetch(contents.HEADERS, self._platform.debian, folder / "debian"):
            unpack(package, folder, ("usr/share/*", "usr/lib/*"))
        return folder / "usr/include"

    def add_files(self) -> None:
        for name in contents.DIRECTORIES:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name, text in contents.FILES.items():
            self._write(name, text)
        for name, target in contents.LINKS.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).symlink_to(target)

    def check_libraries(self) -> None:
        """Ensure that every shared object finds those that it names, since no package manager did."""
        there = {path.name for path in self.root.rglob("*.so*")}
        objects = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink() and _is_elf(path)]
        lacking = set()
        name = ""
        for line in run(["readelf", "-d", *objects]).splitlines():
            if line.startswith("File: "):
                name = line.removeprefix("File: ").removeprefix(str(self.root))
            elif found := re.search(r"\(NEEDED\).*\[(.+)\]", line):
                lacking |= {f"{name} needs {found[1]}"} if found[1] not in there else set()
        if lacking:
            raise BuildError(f"no package of the image holds a library: {'; '.join(sorted(lacking))}")

    def add_plugin(self) -> None:
        """For nodes, with an interpreter of its own: they may have neither Python nor a libc."""
        target = self.root / contents.PLUGIN
        target.parent.mkdir(parents=True, exist_ok=True)
        add_bundle(target, self.root, self._python, self._platform)

    def compile(self) -> None:
        """Byte code beside every module, since the image is read-only."""
        folders = (self.root / f"usr/lib/python{contents.PYTHON}", self.root / SITE)
        run([self._python, "-I", "-S", bytecode.__file__, self.root, *folders])

    @cached_property
    def _python(self) -> Path:
        """A command: the image's version of Python, for this machine, whose libc may be an older one."""
        own = of_machine(this_machine.machine())
        if own is None:
            raise BuildError(f"images cannot be built on {this_machine.machine()}")
        command = self._builder / "python"
        if command.exists():
            return command
        shutil.rmtree(self._builder, ignore_errors=True)
        for package in self._apt.fetch(contents.PYTHON_PACKAGES, own.debian, self._builder / "debian"):
            unpack(package, self._builder, contents.PRUNED)
        python = self._builder / f"usr/bin/python{contents.PYTHON}"
        loader = re.findall(r"interpreter: /(\S+)\]", run(["readelf", "-l", python]))[0]
        words = (self._builder / "usr" / loader, "--library-path", self._builder / "usr/lib" / own.triplet, python)
        command.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        command.chmod(0o755)
        return command

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


def compile_extension(
    extension: Mapping[str, Any], platform: Platform, checkout: Path, include: Path, target: Path
) -> None:
    """The extension of pyproject.toml for another machine, with Python's headers in `include`.

    BuildError: there is no compiler for it, or a warning.
    """
    run(
        [
            *(find_compiler(platform), "-shared", "-fPIC", "-s", *extension["extra-compile-args"], "-Werror"),
            *(f"-ffile-prefix-map={checkout}=.", "-isystem", include, "-isystem", include / f"python{contents.PYTHON}"),
            *(checkout / source for source in extension["sources"]),
            *("-o", target),
        ]
    )


def read_requirements(checkout: Path) -> dict[str, str]:
    """Name and version of each."""
    return dict(_REQUIREMENT.findall((checkout / "deploy/image/requirements.txt").read_text()))


def _extract_package(sdist: Path, prefix: str, name: str, site: Path) -> None:
    """The package's folder out of a source distribution, whose first folder is its own; `prefix`: of all modules."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            _, _, inner = member.name.partition("/")
            if inner.startswith(f"{prefix}{name}/"):
                member.name = inner.removeprefix(prefix)
                archive.extract(member, site, filter="data")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
