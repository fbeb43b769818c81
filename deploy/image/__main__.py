"""Builds the container image: a root file system, and from it an archive that container engines import."""

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

from deploy.image import contents, oci
from deploy.image.debian import Apt
from deploy.image.platforms import PLATFORMS, Platform, of_machine
from deploy.image.process import BuildError
from deploy.image.rootfs import RootFS
from flanneld_py.version import VERSION

CHECKOUT = Path(__file__).resolve().parents[2]


def arguments(argv: list[str]) -> argparse.Namespace:
    own = of_machine(platform.machine())
    parser = argparse.ArgumentParser(prog="deploy/image/build", description=__doc__)
    parser.add_argument("--arch", choices=PLATFORMS, default=own and own.name, help="machine (default: this one's)")
    parser.add_argument("--rootfs", type=Path, metavar="DIR", help="leave the root file system here")
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="write the archive here; with --rootfs, not by default"
    )
    parser.add_argument(
        "--tag", default=f"docker.io/flanneld_py/flanneld:{VERSION}", help="the image's name (%(default)s)"
    )
    updates = "without Debian's security updates: for tests, where their mirror is out of step"
    parser.add_argument("--no-security-updates", dest="security", action="store_false", help=updates)
    parser.add_argument("--work", type=Path, default=CHECKOUT / "build/image", help="for what is fetched (%(default)s)")
    return parser.parse_args(argv)


def image_of(found: Platform, tag: str) -> oci.Image:
    """What is known of the image beside its files. Its time is SOURCE_DATE_EPOCH, else 1980: no build's own."""
    labels = {"title": "flanneld", "version": VERSION, "licenses": "Apache-2.0"}
    return oci.Image(
        reference=tag,
        architecture=found.name,
        variant=found.variant,
        entrypoint=("/opt/bin/flanneld",),
        environment={"PATH": "/opt/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"},
        labels={f"org.opencontainers.image.{name}": text for name, text in labels.items()},
        epoch=int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")),
    )


def build(chosen: argparse.Namespace) -> None:
    found = PLATFORMS[chosen.arch]
    root = chosen.rootfs or chosen.work / found.name / "rootfs"
    if chosen.rootfs is None:
        shutil.rmtree(root, ignore_errors=True)
    elif root.exists() and any(root.iterdir()):
        raise BuildError(f"{root} is not empty; remove it, or give another --rootfs")
    own = of_machine(platform.machine())
    machines = dict.fromkeys((found.debian, own.debian if own else found.debian))
    apt = Apt(chosen.work / "apt", contents.SUITE, tuple(machines), security=chosen.security)
    RootFS(root, found, CHECKOUT, chosen.work, apt).build()
    if chosen.rootfs is not None:
        print(root)
        if chosen.archive is None:
            return
    image = image_of(found, chosen.tag)
    target = chosen.archive or chosen.work / f"flanneld-{VERSION}-{found.name}.tar"
    target.write_bytes(oci.archive(image, oci.layer(root, image.epoch)))
    print(f"{target}: {image.reference}, {target.stat().st_size / 1e6:.1f} MB")


def main() -> int:
    chosen = arguments(sys.argv[1:])
    if chosen.arch is None:
        print(f"deploy/image/build: no image for {platform.machine()}; give --arch", file=sys.stderr)
        return 2
    os.umask(0o022)
    try:
        build(chosen)
    except BuildError as error:
        print(f"deploy/image/build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
