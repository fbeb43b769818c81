"""The daemon, put together: one event loop, one TaskGroup, one order of starting and stopping.

    store: configuration -> interface and MACs -> lease -> first snapshot -> kernel -> subnet.env, READY=1
    then, side by side: leases and notices -> reconciler; renewal; the configuration's watch; the socket

On SIGTERM everything is cancelled, and the data path stays as it is.
"""

import asyncio
import contextlib
import logging
import os
import random
import shlex
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from flanneld_py.daemon import rundir, succession
from flanneld_py.daemon.board import Board
from flanneld_py.daemon.checksumwatch import follow_checksums
from flanneld_py.daemon.cniinstall import install_when_ready
from flanneld_py.daemon.control import listening
from flanneld_py.daemon.kernelwatch import follow_kernel, open_monitor
from flanneld_py.daemon.leasekeeper import LeaseKeeper
from flanneld_py.daemon.leasewatch import follow_leases
from flanneld_py.daemon.options import Options, describe
from flanneld_py.daemon.overlay import Overlay
from flanneld_py.daemon.podserver import serving_pods
from flanneld_py.daemon.probes import answering_probes
from flanneld_py.daemon.rules import POD_DEVICE, RuleWatch, Watched, devices_of
from flanneld_py.daemon.setup import Setup, follow_config, prepare
from flanneld_py.daemon.stores import Opened, open_store
from flanneld_py.daemon.succession import Order, Orders
from flanneld_py.daemon.workerwatch import follow_worker
from flanneld_py.dataplane.narrowing import follow_narrow_ways
from flanneld_py.dataplane.supervisor import WorkerSupervisor
from flanneld_py.errors import FlannelError
from flanneld_py.host.files import write_atomic
from flanneld_py.host.identity import read_identity
from flanneld_py.host.snmp import bad_udp_checksums
from flanneld_py.host.sysctl import SysctlApplier
from flanneld_py.model.entry import Link, Plan, UdpWorker
from flanneld_py.model.lease import NodeIdentity
from flanneld_py.model.net import first_address
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netfilter.monitor import GenerationMonitor
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.netlink.ethtool import EthtoolApplier
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.netlink.underlay import KernelUnderlay
from flanneld_py.observe.status import Report, Stage, Status
from flanneld_py.reconcile.applier import Dispatcher
from flanneld_py.reconcile.loop import Reconciler
from flanneld_py.store.base import OwnedNode
from flanneld_py.version import VERSION

log = logging.getLogger(__name__)

CLOSING_S = 1.0
"""How long the store may take to say goodbye; SIGTERM must end us within two seconds."""


async def serve(options: Options, environ: Mapping[str, str]) -> None:
    """Run the daemon until SIGTERM or SIGINT. FlannelError: it cannot go on, and the message says why."""
    log.info("flanneld %s, %s", VERSION, describe(options))
    orders, directory, patient = Orders(), options.subnet_file.parent, options.replace
    if options.replace:
        succession.ask_for_place(directory)
    first, taken = succession.is_first_process(), False
    while True:
        try:
            if taken:
                await succession.until_taken(directory)
            async with rundir.holding(directory, patient=patient):
                await _hold_up(options, environ, orders)
        except asyncio.CancelledError:
            if orders.given is None:
                raise
        if orders.given is not Order.GIVE_WAY or not first:
            break
        orders.carried_out()
        # Should the other one end before we are told to, the node is ours again.
        taken = patient = True
    if first:
        await succession.outlive_children(options.udp_linger + succession.CLEANING_S)
    log.info("Exiting cleanly...")


async def _hold_up(options: Options, environ: Mapping[str, str], orders: Orders) -> None:
    """Be the daemon of the directory, and tell how that goes."""
    identity = read_identity(VERSION)
    status = Status(Stage.STARTING, time.time(), os.getpid(), VERSION, identity.host_name)
    board = Board(options.subnet_file.parent, status, notify_socket=environ.get("NOTIFY_SOCKET"))
    try:
        async with (
            listening(options.subnet_file.parent, {"status": board.report, succession.WORD: orders.give_way}),
            serving_pods(options.subnet_file, wanted=options.cni_resident),
            answering_probes(options, lambda: board.status),
        ):
            await _run(options, environ, identity, board)
    except asyncio.CancelledError:
        if orders.given is not None:
            board.stop(Stage.STOPPED)
        raise
    except (FlannelError, BaseExceptionGroup) as error:
        ours = first_error(error)
        board.stop(Stage.FAILED, getattr(ours, "message", str(ours)), getattr(ours, "hint", None))
        raise ours from None


def first_error(error: BaseException) -> BaseException:
    """The one that an operator can use: one task's failure cancels the others, so a group holds one of ours."""
    while isinstance(error, BaseExceptionGroup):
        ours, rest = error.split(FlannelError)
        error = (ours or rest or error).exceptions[0]
    return error


async def _run(options: Options, environ: Mapping[str, str], identity: NodeIdentity, board: Board) -> None:
    board.at(Stage.STORE)
    opened = open_store(options, environ, board.condition)
    board.update(store=opened.store.describe())
    try:
        with NetlinkSocket() as sock:
            setup = await prepare(options, identity, opened, sock, board)
            await _overlay(options, setup, opened, sock, board)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                await opened.store.close()


async def _overlay(options: Options, setup: Setup, opened: Opened, sock: NetlinkSocket, board: Board) -> None:
    """Take a lease and hold the overlay up, until cancelled or beyond mending."""
    store, keeper = opened.store, _keeper(options, setup, opened)
    await keeper.acquire()
    board.at(Stage.KERNEL)
    links = setup.backend.links
    underlay = KernelUnderlay(sock, links)
    overlay = Overlay(setup, lambda: keeper.lease, underlay, board, partial(_write_env, options.subnet_file))
    async with contextlib.AsyncExitStack() as stack:
        kernel = await stack.enter_async_context(NetlinkApplier())
        worker = WorkerSupervisor(options.subnet_file.parent)
        stack.push_async_exit(partial(_part_from, worker, options.udp_linger))
        rules = stack.enter_context(closing(PacketFilter()))
        reconciler = Reconciler(
            Dispatcher([kernel, SysctlApplier(), EthtoolApplier(), worker, rules]),
            overlay.desired,
            on_pass=overlay.on_pass,
            jitter=random.random,
        )
        worker.on_gone = reconciler.look_again
        networks = setup.config.networks
        plan = setup.backend.local_plan(keeper.lease, setup.facts)
        watch = RuleWatch(
            rules, board, _watched(setup, keeper, plan, underlay), setup.rules, fix=options.fix_foreign_forward
        )
        overlay.admissions = lambda: watch.admissions
        watched = (*(entry.name for entry in plan if isinstance(entry, Link)), setup.facts.external.name)
        # Open before the kernel is read for the first time, so that no change falls between the two.
        monitor = await stack.enter_async_context(
            open_monitor(watched, networks, needs_reach=setup.backend.needs_reach)
        )
        generations = stack.enter_context(GenerationMonitor())

        board.details = partial(_details, overlay, reconciler, worker, setup.rejected)
        snapshot = asyncio.Event()

        def changed() -> None:
            snapshot.set()
            reconciler.wake()

        async def reconcile() -> None:
            # Without the peers, the first pass would take their routes, left by the run before, for stale ones.
            await snapshot.wait()
            await reconciler.run()

        async with asyncio.TaskGroup() as group:
            group.create_task(follow_leases(store, overlay.leases, keeper, changed))
            group.create_task(keeper.run(reconciler.wake))
            group.create_task(reconcile())
            group.create_task(follow_kernel(monitor, reconciler, networks))
            group.create_task(watch.follow(generations, reconciler, options.iptables_resync))
            group.create_task(follow_config(store, setup.config, board))
            group.create_task(_install_cni(options, board))
            if opened.node is not None and options.set_node_network_unavailable:
                group.create_task(_announce(opened.node, board))
            if setup.backend.name == "vxlan":
                group.create_task(follow_checksums(bad_udp_checksums, overlay.warn_of_checksums))
            for port in (entry.port for entry in plan if isinstance(entry, UdpWorker)):
                group.create_task(follow_worker(worker.stats, overlay.worker, reconciler.look_again))
                group.create_task(follow_narrow_ways(port, reconciler.look_again))


async def _details(
    overlay: Overlay, reconciler: Reconciler, worker: WorkerSupervisor, rejected: tuple[str, ...]
) -> Report:
    return overlay.report(await reconciler.difference(), rejected, await worker.stats())


async def _install_cni(options: Options, board: Board) -> None:
    if options.install_cni:
        await install_when_ready(board, shlex.split(options.install_cni_args))


def _keeper(options: Options, setup: Setup, opened: Opened) -> LeaseKeeper:
    return LeaseKeeper(
        opened.store,
        opened.renewable,
        setup.request,
        margin_s=options.subnet_lease_renew_margin * 60,
        # A slice in Kubernetes is taken from us only when the node gets another, which is no reason to end.
        reacquire=options.reacquire or opened.node is not None,
        clock=time.time,
        jitter=random.random,
    )


async def _announce(node: OwnedNode, board: Board) -> None:
    await board.reached_ready.wait()
    await node.announce()


def _watched(setup: Setup, keeper: LeaseKeeper, plan: Plan, underlay: KernelUnderlay) -> Watched:
    def pod_device() -> str:
        """The bridge that has the address which subnet.env names."""
        return underlay.holder([first_address(net) for net in keeper.lease.subnets]) or POD_DEVICE

    devices = devices_of(plan, setup.facts.external.name)
    return Watched(setup.config.networks, lambda: keeper.lease.subnets, devices, pod_device)


async def _part_from(worker: WorkerSupervisor, linger_s: float, kind: type[BaseException] | None, *_: object) -> None:
    """The data path stays when the daemon goes. After an order to stop, the worker does for as long as the next daemon
    may need to come; a daemon that failed comes again, however long it takes to mend it."""
    if kind is not None and issubclass(kind, asyncio.CancelledError):
        await worker.linger(linger_s)
    worker.close()


def _write_env(path: Path, text: str) -> None:
    try:
        write_atomic(path, text.encode(), 0o644)
    except OSError as error:
        raise FlannelError(
            f"cannot write {path}: {error.strerror}", hint="give another --subnet-file, or mend the file system"
        ) from error
