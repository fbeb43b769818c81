"""The image's root file system, put together below a folder."""

import os
import platform as this_machine
import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploy.image import contents
from deploy.image.debian import Apt, describe, unpack
from deploy.image.platforms import Platform, of_machine
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
        self._builder = work / "builder"

    def build(self) -> None:
        self.root.mkdir(parents=True)
        self.add_packages()
        self.add_wheels()
        self.add_own()
        self.add_native()
        self.add_files()
        self.check_libraries()
        self.compile()

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
            path = self._fetch_wheel(name, version, self._work / "wheels" / f"{name}-{version}")
            if path.suffix == ".whl":
                with zipfile.ZipFile(path) as wheel:
                    wheel.extractall(site)  # noqa: S202 - keeps to the folder
            else:
                _extract_package(path, name, site)
        for pattern in contents.PRUNED_WHEELS:
            for path in site.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _fetch_wheel(self, name: str, version: str, folder: Path) -> Path:
        if not folder.exists():
            if name in contents.SOURCES_ONLY:
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
        headers = self._work / "headers"
        for package in self._apt.fetch(contents.HEADERS, self._platform.debian, headers / "debian"):
            unpack(package, headers, ("usr/share/*", "usr/lib/*"))
        project = tomllib.loads((self._checkout / "pyproject.toml").read_text())
        (extension,) = project["tool"]["setuptools"]["ext-modules"]
        target = (self.root / SITE / Path(*extension["name"].split("."))).with_suffix(".abi3.so")
        compile_extension(extension, self._platform, self._checkout, headers / "usr/include", target)

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

    def compile(self) -> None:
        """Byte code beside every module, since the image is read-only; by a Python of the image's version."""
        own = of_machine(this_machine.machine())
        if own is None:
            raise BuildError(f"images cannot be built on {this_machine.machine()}")
        builder = self._builder
        if not builder.exists():
            for package in self._apt.fetch(
                contents.PYTHON_PACKAGES, own.debian, self._work.parent / own.name / "debian"
            ):
                if package.name.partition("_")[0] in contents.PYTHON_PACKAGES:
                    unpack(package, builder, contents.PRUNED)
        python = builder / f"usr/bin/python{contents.PYTHON}"
        loader = re.findall(r"interpreter: /(\S+)\]", run(["readelf", "-l", python]))[0]
        libraries = builder / "usr/lib" / own.triplet
        environment = {"PYTHONHOME": str(builder / "usr"), "PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]}
        folders = (self.root / f"usr/lib/python{contents.PYTHON}", self.root / SITE)
        run(
            [
                *(builder / "usr" / loader, "--library-path", libraries, python, "-s", "-S", "-m", "compileall", "-q"),
                *("--invalidation-mode", "unchecked-hash", "-s", self.root, "-p", "/", *folders),
            ],
            env=environment,
        )

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
    compiler = f"{platform.triplet}-gcc"
    if shutil.which(compiler) is None:
        packages = f"gcc-{platform.triplet.replace('_', '-')} libc6-dev-{platform.debian}-cross"
        raise BuildError(f"{compiler} is missing; apt-get install {packages}")
    run(
        [
            *(compiler, "-shared", "-fPIC", "-s", *extension["extra-compile-args"], "-Werror"),
            *(f"-ffile-prefix-map={checkout}=.", "-isystem", include, "-isystem", include / f"python{contents.PYTHON}"),
            *(checkout / source for source in extension["sources"]),
            *("-o", target),
        ]
    )


def read_requirements(checkout: Path) -> dict[str, str]:
    """Name and version of each."""
    return dict(_REQUIREMENT.findall((checkout / "deploy/image/requirements.txt").read_text()))


def _extract_package(sdist: Path, name: str, site: Path) -> None:
    """The package's folder out of a source distribution, whose first folder is its own."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            _, _, inner = member.name.partition("/")
            if inner.startswith(f"{name}/"):
                member.name = inner
                archive.extract(member, site, filter="data")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
