"""A daemon's half of the resident way as a process of its own, which a test may kill, confine, or have die.

python -m tests.cni.serve SUBNET_FILE [--die STEP] [--root DIR]
"""

import argparse
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flanneld_py.pods import addresses, attach, records, wiring
from flanneld_py.pods.server import PodServer

STEPS: dict[str, tuple[Any, str]] = {
    "record": (records, "write"),
    "address": (addresses.AddressFiles, "reserve"),
    "pair": (wiring, "_make_pair"),
    "wired": (wiring, "connect"),
    "result": (attach, "result_of"),
    "unlinked": (wiring, "disconnect"),
    "released": (addresses.AddressFiles, "release"),
}


def dies_after(step: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> Any:
        step(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return dying


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subnet_file", type=Path)
    parser.add_argument("--die", choices=STEPS, help="when that has been done")
    parser.add_argument("--root", type=Path, help="the root directory of a container")
    given = parser.parse_args()
    if given.die:
        owner, name = STEPS[given.die]
        setattr(owner, name, dies_after(getattr(owner, name)))
    if given.root:
        os.chroot(given.root)
        os.chdir("/")
    PodServer(given.subnet_file).start()
    print("serving", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
