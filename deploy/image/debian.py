"""Debian packages of any machine, fetched by an apt that keeps to a folder of its own."""

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.image.process import run

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_ARCHIVES = {
    "Debian": ("http://deb.debian.org/debian/", "{suite}"),
    "Debian-Security": ("http://deb.debian.org/debian-security/", "{suite}-security"),
}
"""By apt's label: where it is if this machine does not say, and what the suite is called there."""


class Apt:
    """Fetches packages of `suite`; this machine's own apt stays as it is, but for its mirror, which is used.

    BuildError: a mirror cannot be reached, or its signature is not Debian's.
    """

    def __init__(self, folder: Path, suite: str, architectures: Sequence[str], *, security: bool = True) -> None:
        self._folder = folder
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        own = _own_mirrors()
        sources = "".join(
            f"deb [signed-by={_KEYRING}] {own.get(label, mirror)} {name.format(suite=suite)} main\n"
            for label, (mirror, name) in _ARCHIVES.items()
            if security or label == "Debian"
        )
        (folder / "sources.list").write_text(sources)
        listed = " ".join(f'"{name}";' for name in architectures)
        (folder / "apt.conf").write_text(
            f'Dir::State "{folder}";\nDir::State::status "/dev/null";\nDir::Cache "{folder}";\n'
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'APT::Architecture "{architectures[0]}";\nAPT::Architectures {{ {listed} }};\n'
            'APT::Sandbox::User "root";\nAPT::Update::Error-Mode "any";\n'
        )
        self._env = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
        run(["apt-get", "update", "-qq"], env=self._env)

    def fetch(self, names: Iterable[str], architecture: str, folder: Path) -> tuple[Path, ...]:
        """The packages' files, in `folder`; one that is there already is fetched again only if it is another one."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", "-qq", *(f"{name}:{architecture}" for name in names)]
        # A line has the URI in quotes, the file's name, its size and its sum; none is there for a file in this folder.
        listed = run([*command, "--print-uris"], env=self._env, cwd=self._folder).splitlines()
        run(command, env=self._env, cwd=folder)
        return tuple(folder / line.split()[1] for line in listed)


def _own_mirrors() -> dict[str, str]:
    """Where this machine gets Debian from, by apt's label of the archive; {} on a machine without Debian."""
    asked = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    return dict(line.split(" ", 1) for line in run(asked).splitlines() if line.count(" ") == 1)


def describe(package: Path) -> str:
    """The package's control record, as dpkg's status file has it."""
    return run(["dpkg-deb", "--field", package])


def unpack(package: Path, root: Path, pruned: Iterable[str]) -> None:
    """The package's files, below `root`, without those that fit a pattern of `pruned`. No script of it runs."""
    patterns = tuple(pruned)
    with tempfile.TemporaryFile() as contents:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=contents, check=True)
        contents.seek(0)
        with tarfile.open(fileobj=contents) as archive:
            for member in archive:
                name = member.name.removeprefix("./").rstrip("/")
                if name and not any(fnmatchcase(name, pattern) for pattern in patterns):
                    archive.extract(member, root, filter="tar")
