"""`flanneld lab`: a cluster on this machine, of network namespaces, real daemons and a real etcd or Kubernetes."""

import argparse
import dataclasses
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from flanneld_py.cli import labenter
from flanneld_py.errors import LabError, UsageError
from flanneld_py.lab.speccodec import parse_mapping, parse_network, parse_option
from flanneld_py.lab.topology import Firewall, LabSpec, Stack, Store, Underlay, Wiring, check_name

if TYPE_CHECKING:
    from flanneld_py.lab.terminal import Screen

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULT = LabSpec()
_DEMO_NAME = "demo"
_LOG_LINES = 40


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def run(argv: Sequence[str]) -> int:
    """Run one command of the lab; its exit code."""
    parser = _parser()
    words, command = _split_command(list(argv))
    if not words:
        parser.print_help()
        return 2
    args = parser.parse_args(words)
    args.command, args.again = command, _again(args)
    check_name(args.name)
    handler: Callable[[argparse.Namespace], int] = args.handler
    return handler(args)


def _split_command(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own words, and those after `--`, which are another program's."""
    if words[:1] == ["kubectl"]:
        own = 3 if words[1:2] == ["--name"] else 1
        return words[:own], words[own:]
    if "--" in words:
        cut = words.index("--")
        return words[:cut], words[cut + 1 :]
    return words, []


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="flanneld lab", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, handler: Callable[[argparse.Namespace], int], text: str, lab: str = _DEFAULT.name
    ) -> _Parser:
        sub: _Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--name", default=lab, help="which lab (default %(default)s)")
        sub.set_defaults(handler=handler, line=f"flanneld lab {name}")
        return sub

    _add_spec(command("up", _up, "build a lab; it stays until `down`"))
    _add_spec(command("demo", _demo, "build a lab, show how it works, remove it", _DEMO_NAME))
    status = command("status", _status, "the nodes, their daemons, subnets and pods")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    ping = command("ping", _ping, "every pod to every pod; exit code 1 if any answer is missing")
    ping.add_argument("--backend", default=_DEFAULT.backend, help="a list: the labs that `up` built for it")
    ping.add_argument("--count", type=_positive, default=3, help="requests for each pair (default %(default)s)")
    execute = command("exec", labenter.execute, "run a command in a node, a pod or the router: exec PLACE -- COMMAND")
    execute.add_argument("place", metavar="NODE|POD|router")
    capture = command("capture", _capture, "packets of a node or pod, decoded; until ^C")
    capture.add_argument("place", metavar="NODE|POD|router")
    capture.add_argument("device", nargs="?", default="eth0", help="(default %(default)s)")
    capture.add_argument("--count", type=_positive, help="end after so many")
    capture.add_argument("--all", action="store_true", help="show the talk with etcd, too")
    logs = command("logs", labenter.logs, "the last lines of a server's log")
    logs.add_argument("server", metavar="NODE|SERVER", help="such as node1 or etcd")
    logs.add_argument("-n", "--lines", type=_positive, default=_LOG_LINES, help="(default %(default)s)")
    command("kubectl", labenter.kubectl, "kubectl for a lab with --store kubernetes: kubectl [--name NAME] WORD...")
    for name, handler, text in (
        ("restart", _restart, "restart a node's daemon, or start it after `kill`"),
        ("kill", _kill, "kill a node's daemon with SIGKILL, as in a crash"),
    ):
        command(name, handler, text).add_argument("node", metavar="NODE")
    down = command("down", _down, "remove a lab, whatever its state")
    down.add_argument("--backend", default=_DEFAULT.backend, help="a list: the labs that `up` built for it")
    down.add_argument("--all", action="store_true", help="every lab on this machine")
    return parser


def _add_spec(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--nodes", type=int, default=_DEFAULT.nodes, metavar="N", help="(default %(default)s)")
    add("--pods", type=int, default=_DEFAULT.pods, metavar="M", help="pods on each node (default %(default)s)")
    add(
        "--backend",
        default=_DEFAULT.backend,
        help="vxlan, udp, host-gw, alloc; of a list such as vxlan,udp each gets a lab: NAME-vxlan, NAME-udp "
        "(default %(default)s)",
    )
    add("--backend-option", action="append", default=[], metavar="KEY=VALUE", help="for example VNI=7; repeatable")
    add("--direct-routing", action="store_true", help="the backend option DirectRouting=true")
    add(
        "--underlay",
        choices=[one.value for one in Underlay],
        default=_DEFAULT.underlay.value,
        help="l2: all nodes on one link; routed: two nodes a link, a router between (default %(default)s)",
    )
    add("--stack", choices=[one.value for one in Stack], default=_DEFAULT.stack.value, help="(default %(default)s)")
    add("--network", action="append", default=[], metavar="CIDR", help="one of each family (default 10.244.0.0/16)")
    add(
        "--firewall",
        choices=[one.value for one in Firewall],
        default=_DEFAULT.firewall.value,
        help="where daemons write their rules; none: pods reach nothing outside (default %(default)s)",
    )
    add(
        "--store",
        choices=[one.value for one in Store],
        default=_DEFAULT.store.value,
        help="where leases are; kubernetes: a real API server (default %(default)s)",
    )
    add("--publish", action="append", default=[], metavar="POD:HOSTPORT:PORT", help="a pod's port at its node")
    wiring = parser.add_mutually_exclusive_group()
    for kind, text in (
        (Wiring.DOCKER, "a dockerd on each node; pods are containers"),
        (Wiring.PLAIN, "the lab connects pods itself, without CNI plugins"),
        (Wiring.KUBELETS, "a kubelet on each node; with --store kubernetes"),
    ):
        wiring.add_argument(f"--{kind.value}", dest="wiring", action="store_const", const=kind, help=text)
    parser.set_defaults(wiring=_DEFAULT.wiring)
    add("--flanneld-go", metavar="PATH", help="a Go flanneld, for the nodes given by --go-node")
    add("--go-node", action="append", type=int, default=[], metavar="N", help="node N runs Go flanneld; repeatable")
    add("--manifest", metavar="PATH", help="with --kubelets: apply this file or kustomization, start no daemons")
    add("--image", action="append", default=[], metavar="ARCHIVE", help="with --kubelets: for every node; repeatable")
    add("--daemon-flag", action="append", default=[], metavar="FLAG", help="for our daemons, such as -v=1; repeatable")


def _spec(args: argparse.Namespace) -> LabSpec:
    options = dict(parse_option(text) for text in args.backend_option)
    if args.direct_routing:
        options["DirectRouting"] = True
    return LabSpec(
        name=args.name,
        nodes=args.nodes,
        pods=args.pods,
        stack=Stack(args.stack),
        underlay=Underlay(args.underlay),
        backend=args.backend,
        backend_options=tuple(options.items()),
        networks=tuple(parse_network(text) for text in args.network),
        store=Store(args.store),
        wiring=args.wiring,
        firewall=Firewall(args.firewall),
        published=tuple(parse_mapping(text) for text in args.publish),
        go_nodes=tuple(sorted(set(args.go_node))),
        go_binary=args.flanneld_go,
        daemon_flags=tuple(args.daemon_flag),
        manifest=args.manifest,
        images=tuple(args.image),
    )


def _each(args: argparse.Namespace) -> tuple[argparse.Namespace, ...]:
    """The arguments for each lab: one, or one for each backend of a list."""
    backends = args.backend.split(",")
    if len(backends) == 1:
        return (args,)
    if not all(backends) or len(set(backends)) != len(backends):
        raise UsageError(f"--backend {args.backend}: a list of different backends is wanted", hint="such as vxlan,udp")
    labs = tuple(
        argparse.Namespace(**vars(args) | {"name": f"{args.name}-{backend}", "backend": backend})
        for backend in backends
    )
    for lab in labs:
        check_name(lab.name)
    return labs


def _up(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, demo
    from flanneld_py.lab.terminal import Screen

    specs = [_spec(one) for one in _each(args)]
    build.require_root(_again(args))
    screen = Screen()
    with _interrupts(screen), ExitStack() as undo:
        labs = []
        for spec in specs:
            labs.append(build.up(spec, screen))
            undo.callback(build.down, spec.name, screen)
        undo.pop_all()
    for lab in labs:
        demo.show_status(lab, screen)
    name, last = _name_flag(specs[0].name), f"node{args.nodes}"
    whole = name if len(specs) == 1 else f"{_name_flag(args.name)} --backend {args.backend}"
    then = {
        f"flanneld lab ping{whole}": "every pod to every pod",
        f"flanneld lab exec{name} node1 -- ip route": "any command in a node or pod",
        f"flanneld lab capture{name} {last}": "packets, decoded",
        f"flanneld lab down{whole}": "remove it all",
    }
    width = max(map(len, then))
    screen.show(["", *(f"{words:<{width}}   {what}" for words, what in then.items())])
    return 0


def _demo(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, demo
    from flanneld_py.lab.terminal import Screen

    specs = [_spec(one) for one in _each(args)]
    build.require_root(_again(args))
    screen = Screen()
    good = True
    with _interrupts(screen):
        for spec in specs:
            good &= demo.demo(spec, screen)
    return 0 if good else 1


def _status(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, demo, report
    from flanneld_py.lab.terminal import Screen

    lab = build.find(args.name)
    store = lab.record.spec.store.value
    if args.output == "json":
        nodes = [dataclasses.asdict(report.node_report(lab, node)) for node in lab.topology.nodes]
        print(json.dumps({"name": args.name, store: report.store_state(lab), "nodes": nodes}, indent=1))
        return 0
    screen = Screen()
    demo.show_status(lab, screen)
    screen.show(["", f"{store}: {report.store_state(lab)}", f"files and logs: {lab.directory.path}"])
    return 0


def _ping(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, demo, view
    from flanneld_py.lab.terminal import Screen
    from flanneld_py.lab.traffic import endpoints, ping_matrix

    build.require_root(_again(args))
    labs, screen = [build.find(one.name) for one in _each(args)], Screen()
    good = True
    for lab in labs:
        if len(labs) > 1:
            screen.show(["", f"lab {lab.record.spec.name}, backend {lab.record.spec.backend}"])
        for version in lab.topology.spec.stack.versions:
            places = endpoints(lab.topology, lab.record.pods, version)
            screen.step(f"pinging, IPv{version}")
            matrix = ping_matrix(places, count=args.count)
            demo.show_matrix(places, matrix, screen)
            good &= view.complete(matrix)
    return 0 if good else 1


def _capture(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build, capture, view
    from flanneld_py.lab.terminal import Screen

    build.require_root(_again(args))
    topology, screen = build.find(args.name).topology, Screen()
    namespace = topology.namespace(args.place)
    ports = capture.vxlan_port_option(topology.spec.backend_options)
    shown = hidden = 0
    with capture.Capture((namespace,), args.device, ports) as source:
        try:
            screen.note(f"capturing on {args.device} of {args.place}; ^C ends it")
            for frame in source.frames(None):
                if not args.all and capture.is_etcd(frame.packet):
                    hidden += 1
                    continue
                shown += 1
                screen.show(view.frame_lines(frame, shown, screen.width, screen.paint))
                if shown == args.count:
                    break
        except KeyboardInterrupt:
            pass
        dropped = source.dropped()
    left_out = f", {hidden} of the talk with etcd not shown (--all shows them)" if hidden else ""
    lost = f", {dropped} lost for want of room" if dropped else ""
    screen.note(f"{shown} packets{left_out}{lost}")
    return 0


def _restart(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build
    from flanneld_py.lab.terminal import Screen

    build.require_root(_again(args))
    screen = Screen()
    with build.changing(args.name) as lab:
        node = lab.topology.node(args.node)
        screen.step(f"{node.name}: stopping the daemon")
        lab.stop_daemon(node, hard=False)
        screen.step(f"{node.name}: starting the daemon")
        lab.start_daemon(node, screen)
    screen.show([f"{node.name}: the daemon is ready (pid {lab.record.processes[node.name].pid})"])
    return 0


def _kill(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build

    build.require_root(_again(args))
    with build.changing(args.name) as lab:
        node = lab.topology.node(args.node)
        again = f"flanneld lab restart{_name_flag(args.name)} {node.name}"
        if not lab.stop_daemon(node, hard=True):
            raise LabError(f"no daemon runs on {node.name}", hint=f"start it: {again}")
    print(f"{node.name}: the daemon was killed; its data path stays. Start it again: {again}")
    return 0


def _down(args: argparse.Namespace) -> int:
    from flanneld_py.lab import build
    from flanneld_py.lab.state import lab_names
    from flanneld_py.lab.terminal import Screen

    build.require_root(_again(args))
    screen = Screen()
    names = lab_names() if args.all else [one.name for one in _each(args)]
    with _interrupts(screen, ignore=True):
        removed = [name for name in names if build.down(name, screen)]
    print(f"removed: {', '.join(removed)}" if removed else "there was nothing to remove")
    return 0


def _again(args: argparse.Namespace) -> str:
    """What to type as root; the program with its path, since root may have another PATH."""
    program = Path(sys.argv[0])
    if program.name == "flanneld" and len(sys.argv) > 1:
        return shlex.join([str(program.absolute()), *sys.argv[1:]])
    return str(args.line)


def _name_flag(name: str) -> str:
    return "" if name == _DEFAULT.name else f" --name {name}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


@contextmanager
def _interrupts(screen: "Screen", *, ignore: bool = False) -> Iterator[None]:
    """^C, SIGTERM and a closed terminal end the work at its next check, and do not disturb a removal."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if not ignore:
            screen.stop()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        screen.note("interrupted; all that was made is removed")
        raise
    finally:
        screen.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
