"""The machines for which there are images, and what each is called by whom."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from deploy.image.process import BuildError

_YAML: Final = ("python3-yaml", "libyaml-0-2")
_WITHOUT_UVLOOP: Final[Mapping[str, tuple[str, ...]]] = {"uvloop": (), "pyyaml": _YAML}
_WITHOUT_GRPC: Final = {**_WITHOUT_UVLOOP, "grpcio": (), "protobuf": (), "etcd3": ()}

_BUILT: Final = frozenset({"msgspec"})


@dataclass(frozen=True, slots=True)
class Platform:
    """`name`, `variant`: as OCI images have it (Go's GOARCH); `machine`: as `uname -m` and wheels have it.

    `missing`: requirements that have no wheel, with the Debian packages that stand for them; none stand for those that
    the daemon runs without. `built`: those that are compiled from their sources.
    """

    name: str
    debian: str
    machine: str
    triplet: str
    variant: str | None = None
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    built: frozenset[str] = frozenset()

    @property
    def wheel_tags(self) -> tuple[str, ...]:
        """For `pip download --platform`. Debian 13 has glibc 2.41."""
        return (*(f"manylinux_2_{minor}_{self.machine}" for minor in (34, 28, 17)), f"manylinux2014_{self.machine}",
                f"linux_{self.machine}")  # fmt: skip


PLATFORMS: Final = {
    platform.name: platform
    for platform in (
        Platform("amd64", "amd64", "x86_64", "x86_64-linux-gnu"),
        Platform("arm64", "arm64", "aarch64", "aarch64-linux-gnu", "v8"),
        Platform("arm", "armhf", "armv7l", "arm-linux-gnueabihf", "v7", _WITHOUT_UVLOOP, _BUILT),
        Platform("ppc64le", "ppc64el", "ppc64le", "powerpc64le-linux-gnu", missing=_WITHOUT_GRPC, built=_BUILT),
        Platform("s390x", "s390x", "s390x", "s390x-linux-gnu", missing=_WITHOUT_GRPC, built=_BUILT),
    )
}


def find_compiler(platform: Platform) -> str:
    """A C compiler whose programs run there. BuildError: there is none."""
    compiler = f"{platform.triplet}-gcc"
    if shutil.which(compiler) is None:
        packages = f"gcc-{platform.triplet.replace('_', '-')} libc6-dev-{platform.debian}-cross"
        raise BuildError(f"{compiler} is missing; apt-get install {packages}")
    return compiler


def of_machine(machine: str) -> Platform | None:
    """The one whose programs run on such a machine; None: there is none."""
    return next((platform for platform in PLATFORMS.values() if platform.machine == machine), None)
