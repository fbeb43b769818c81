"""`flanneld cleanup`: takes away what a stopped daemon has left in the kernel: the difference to nothing.

Little needs to be remembered for it: devices carry our mark, and so do routes; a worker of the udp backend is asked.
The mark on routes is that of all our daemons on the host, so that of those through other devices only the ones within
the networks of subnet.env are this daemon's.
"""

import argparse
import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from flanneld_py.daemon import board, control, rundir
from flanneld_py.daemon.prelude import link_alias
from flanneld_py.dataplane import supervisor
from flanneld_py.errors import FlannelError, UsageError
from flanneld_py.model.entry import Desired, Entry, Failure, Op, Scope
from flanneld_py.model.net import Net
from flanneld_py.model.subnetenv import parse_subnet_env
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.pods import exchange
from flanneld_py.reconcile.applier import Dispatcher
from flanneld_py.reconcile.diff import diff

EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def run(argv: Sequence[str]) -> int:
    """Print what is removed; 0 if all of it went, 1 if something could not be removed."""
    parser = argparse.ArgumentParser(prog="flanneld cleanup", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    parser.add_argument(
        "--subnet-file", type=Path, default=rundir.subnet_file(os.environ), metavar="FILE", help="the daemon's"
    )
    parser.add_argument(
        "--network",
        type=_network,
        action="append",
        default=[],
        metavar="CIDR",
        help="routes of ours within it are this daemon's, too; for where subnet.env is lost",
    )
    args = parser.parse_args(argv)
    subnet_file: Path = args.subnet_file
    networks = (*_networks(subnet_file), *args.network)
    with rundir.hold(subnet_file.parent):
        scope = Scope(networks, frozenset(), link_alias(subnet_file), instance=rundir.instance(subnet_file))
        ops, kept, failures = asyncio.run(_remove(scope, subnet_file.parent, dry_run=args.dry_run))
        names = (subnet_file.name, board.FILE, control.FILE, exchange.SOCKET, supervisor.SOCKET)
        files = [path for path in map(subnet_file.with_name, names) if path.exists()]
        _print(ops, files, failures, dry_run=args.dry_run)
        if not args.dry_run and not failures:
            for path in files:
                path.unlink(missing_ok=True)
            rundir.remove_lock(subnet_file.parent)
    if kept and not networks:
        for entry in kept:
            print(f"kept {entry}")
        raise FlannelError(
            f"{len(kept)} routes with our mark stay: without {subnet_file} they may be another daemon's",
            hint="name the network that is this one's: --network CIDR",
        )
    return 1 if failures else 0


def _networks(subnet_file: Path) -> tuple[Net, ...]:
    """The networks in which routes of ours are this daemon's; none, if it has left no subnet.env."""
    try:
        env, _ = parse_subnet_env(subnet_file.read_text(errors="replace"))
    except OSError:
        return ()
    return env.networks


def _network(text: str) -> Net:
    try:
        return ip_network(text)
    except ValueError as error:
        raise UsageError(f"--network {text}: {error}", hint="write it as 10.244.0.0/16") from None


async def _remove(
    scope: Scope, directory: Path, *, dry_run: bool
) -> tuple[tuple[Op, ...], tuple[Entry, ...], list[Failure]]:
    """What is removed, the entries with our mark that are not in `scope`, and what could not be removed."""
    async with contextlib.AsyncExitStack() as stack:
        kernel = await stack.enter_async_context(NetlinkApplier())
        worker = supervisor.WorkerSupervisor(directory, keep=False)
        stack.callback(worker.close)
        rules = stack.enter_context(contextlib.closing(PacketFilter()))
        applier = Dispatcher([kernel, worker, rules])
        known = await applier.known(Desired(scope=scope))
        marked = await applier.known(Desired(scope=replace(scope, networks=EVERYWHERE)))
        kept = tuple(entry for key, entry in marked.items() if key not in known)
        ops = diff({}, known)
        return ops, kept, [] if dry_run else await applier.apply(ops)


def _print(ops: Sequence[Op], files: Sequence[Path], failures: Sequence[Failure], *, dry_run: bool) -> None:
    verb = "would remove" if dry_run else "removed"
    failed = {failure.op: failure for failure in failures}
    for op in ops:
        print(str(failed[op]) if op in failed else f"{verb} {op.entry}")
    if not failures:
        for path in files:
            print(f"{verb} {path}")
    if not ops and not files:
        print("nothing of ours is there")
    if failures:
        raise FlannelError(f"{len(failures)} of {len(ops)} could not be removed; see above")
