"""`flanneld cleanup`: takes away what a stopped daemon has left in the kernel: the difference to nothing.

Nothing needs to be remembered for it: devices carry our mark, and so do routes; a worker of the udp backend is asked.
"""

import argparse
import asyncio
import contextlib
import os
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from flanneld_py.daemon import board, control, rundir
from flanneld_py.daemon.prelude import link_alias
from flanneld_py.dataplane import supervisor
from flanneld_py.errors import FlannelError
from flanneld_py.model.entry import Desired, Failure, Op, Scope
from flanneld_py.model.net import Net
from flanneld_py.model.subnetenv import parse_subnet_env
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netlink.applier import NetlinkApplier
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
    args = parser.parse_args(argv)
    subnet_file: Path = args.subnet_file
    with rundir.hold(subnet_file.parent):
        scope = Scope(
            _networks(subnet_file), frozenset(), link_alias(subnet_file), instance=rundir.instance(subnet_file)
        )
        ops, failures = asyncio.run(_remove(scope, subnet_file.parent, dry_run=args.dry_run))
        names = (subnet_file.name, board.FILE, control.FILE, supervisor.SOCKET)
        files = [path for path in map(subnet_file.with_name, names) if path.exists()]
        _print(ops, files, failures, dry_run=args.dry_run)
        if not args.dry_run and not failures:
            for path in files:
                path.unlink(missing_ok=True)
            rundir.remove_lock(subnet_file.parent)
    return 1 if failures else 0


def _networks(subnet_file: Path) -> tuple[Net, ...]:
    """The networks in which routes of ours are this daemon's; everywhere, if it has left no subnet.env."""
    try:
        env, _ = parse_subnet_env(subnet_file.read_text(errors="replace"))
    except OSError:
        return EVERYWHERE
    return env.networks or EVERYWHERE


async def _remove(scope: Scope, directory: Path, *, dry_run: bool) -> tuple[tuple[Op, ...], list[Failure]]:
    async with contextlib.AsyncExitStack() as stack:
        kernel = await stack.enter_async_context(NetlinkApplier())
        worker = supervisor.WorkerSupervisor(directory, keep=False)
        stack.callback(worker.close)
        rules = stack.enter_context(contextlib.closing(PacketFilter()))
        applier = Dispatcher([kernel, worker, rules])
        ops = diff({}, await applier.known(Desired(scope=scope)))
        return ops, [] if dry_run else await applier.apply(ops)


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
