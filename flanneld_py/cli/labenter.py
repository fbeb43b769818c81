"""Commands of `flanneld lab` that look into a lab: a program in one of its namespaces, kubectl, the servers' logs."""

import argparse
import os
import sys
from pathlib import Path

from flanneld_py.errors import LabError


def execute(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, namespaces

    build.require_root(args.again)
    lab = build.find(args.name)
    command = args.command or [os.environ.get("SHELL", "/bin/sh")]
    # So that `flanneld status` in a node finds itself, and the node's daemon.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:{Path(sys.executable).parent}"
    os.environ["FLANNELD_SUBNET_FILE"] = str(lab.directory.subnet_file(args.place))
    namespaces.enter(lab.topology.namespace(args.place))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user's own command, as typed
    except OSError as err:
        raise LabError(f"cannot run {command[0]}: {err.strerror}") from None


def kubectl(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, namespaces, stores
    from flanneld_py.lab.kubernetes import find_program

    build.require_root(args.again)
    lab = build.find(args.name)
    site = stores.site(lab.topology, lab.directory)
    os.environ["KUBECONFIG"] = str(site.kubeconfig("admin"))
    program = find_program("kubectl")
    namespaces.enter(lab.topology.router)
    os.execv(program, ["kubectl", *args.command])  # noqa: S606 - the user's own words, as typed


def logs(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, process
    from flanneld_py.lab.state import ETCD

    lab = build.find(args.name)
    known = args.server == ETCD or lab.directory.log(args.server).exists()
    server = args.server if known else lab.topology.node(args.server).name
    path = lab.directory.log(server)
    print(f"{path}:", file=sys.stderr)
    print("\n".join(process.last_lines(path, args.lines)))
    return 0
