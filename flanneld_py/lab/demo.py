"""A lab from beginning to end, with what one would want to see of it; every line is read from what runs."""

from dataclasses import replace

from flanneld_py.errors import LabError
from flanneld_py.lab import cni, reach, report, tables, view
from flanneld_py.lab.build import Lab, temporary
from flanneld_py.lab.path import trace
from flanneld_py.lab.stream import run_stream
from flanneld_py.lab.terminal import Screen
from flanneld_py.lab.topology import LabSpec, Pod, PortMapping, Store, Wiring
from flanneld_py.lab.traffic import Endpoint, Matrix, endpoints, ping_matrix

_STREAM_S = 1.0


def demo(spec: LabSpec, screen: Screen) -> bool:
    """Build, show, remove; whether everything was reached as it should be."""
    spec = _with_a_published_port(spec, screen)
    with temporary(spec, screen) as lab:
        _show_nodes(lab, screen)
        _show_leases(lab, screen)
        _show_routes(lab, screen)
        good = True
        for version in spec.stack.versions:
            places = endpoints(lab.topology, lab.record.pods, version)
            _show_path(lab, places, screen)
            matrix = ping_matrix(places)
            good &= view.complete(matrix)
            show_matrix(places, matrix, screen)
            good &= _show_reach(lab, version, screen)
            if good:
                _show_throughput(places, screen)
        if good and spec.backend.lower() == "udp":
            _show_beside_vxlan(spec, screen)
    screen.title("Done; the lab is removed: no namespace, process or file of it is left.")
    return good


def _with_a_published_port(spec: LabSpec, screen: Screen) -> LabSpec:
    """One is shown if the user named none, where that is possible."""
    if spec.published or spec.wiring is not Wiring.CNI:
        return spec
    try:
        cni.check_port_mapping()
    except LabError as error:
        screen.note(f"no published port is shown: {error}")
        return spec
    return replace(spec, published=(PortMapping("pod1-1", host=8080, container=80),))


def show_matrix(places: tuple[Endpoint, ...], matrix: Matrix, screen: Screen) -> None:
    """The ping matrix of one family with its summary."""
    version = places[0].address.version if places else 4
    screen.title(f"Every pod pings every pod, IPv{version}: best round-trip time in ms; rows send, columns answer")
    screen.show(view.matrix_lines([place.name for place in places], matrix, screen.width, screen.paint))
    screen.show([view.matrix_summary(matrix)])


def show_status(lab: Lab, screen: Screen) -> None:
    """The nodes of a lab, one a line."""
    reports = [report.node_report(lab, node) for node in lab.topology.nodes]
    screen.show(view.table_lines(report.status_rows(reports), screen.paint))


def _show_nodes(lab: Lab, screen: Screen) -> None:
    spec = lab.topology.spec
    where = f"{spec.underlay.value} underlay, backend {spec.backend}"
    screen.title(f"{spec.nodes} nodes, {where}; each is a network namespace with a flanneld of its own")
    show_status(lab, screen)


def _show_leases(lab: Lab, screen: Screen) -> None:
    store = "the nodes' annotations" if lab.topology.spec.store is Store.KUBERNETES else "etcd"
    screen.title(f"The leases in {store}: who holds which subnet, and how to reach it")
    screen.show(f"{line.node:<8}{line.key}  {line.value}" for line in report.leases(lab))


def _show_routes(lab: Lab, screen: Screen) -> None:
    node = lab.topology.nodes[0]
    screen.title(f"The routes of {node.name} (flanneld lab exec {node.name} -- ip route)")
    tunnels = tables.read_tunnels(node)
    routes = tables.read_routes(node, lab.topology.spec.stack.versions)
    width = max((len(str(route)) for route in routes), default=0)
    for route in routes:
        words = tables.explain(route, lab.topology, node, tunnels)
        screen.show([f"{route!s:<{width}}  {screen.paint.dim}# {words}{screen.paint.off}"])


def _show_path(lab: Lab, places: tuple[Endpoint, ...], screen: Screen) -> None:
    ends = _far_apart(lab, places)
    if ends is None:
        return
    source, target = ends
    screen.title(f"The path of one ping from {source[0].name} to {target[0].name}, as captured at each device")
    screen.show(view.path_lines(trace(lab.topology, source, target), screen.width, screen.paint))


def _show_reach(lab: Lab, version: int, screen: Screen) -> bool:
    """Whether addresses stay and change where they should."""
    if lab.topology.spec.wiring is Wiring.DOCKER:
        return True
    screen.title(f"Who is seen as whom, IPv{version}: TCP connections, captured where they arrive")
    findings = reach.survey(lab.topology, lab.record.pods, version)
    width = max((len(finding.what) for finding in findings), default=0)
    for finding in findings:
        colour = "" if finding.good else screen.paint.bad
        screen.show([f"{finding.what:<{width}}  {colour}{finding.outcome}{screen.paint.off if colour else ''}"])
    return all(finding.good for finding in findings)


def _show_throughput(places: tuple[Endpoint, ...], screen: Screen) -> None:
    source, target = places[0], places[-1]
    screen.title(f"Throughput from {source.name} to {target.name}: two processes, one stream")
    for protocol in ("tcp", "udp"):
        screen.step(f"{protocol} stream")
        screen.show([view.stream_line(run_stream(source, target, protocol=protocol, seconds=_STREAM_S))])


def _show_beside_vxlan(spec: LabSpec, screen: Screen) -> None:
    """The same streams through the kernel's own tunnel, in a lab beside this one, so that the machine is the same."""
    beside = replace(
        spec, name=f"{spec.name[:18]}-v", pods=1, backend="vxlan", backend_options=(), go_nodes=(), published=()
    )
    try:
        with temporary(beside, screen) as lab:
            places = endpoints(lab.topology, lab.record.pods, 4)
            screen.note("for comparison, the same through the kernel's VXLAN device:")
            _show_throughput(places, screen)
    except LabError as error:
        screen.note(f"no kernel VXLAN to compare with: {error.message}")


def _far_apart(lab: Lab, places: tuple[Endpoint, ...]) -> tuple[tuple[Pod, Endpoint], tuple[Pod, Endpoint]] | None:
    """The first pod and one on the last node, which a routed underlay puts on another link."""
    pods = {pod.name: pod for pod in lab.topology.pods}
    if len(places) < 2:
        return None
    first, last = places[0], places[-1]
    return (pods[first.name], first), (pods[last.name], last)
