"""Whatever order nodes come, change and go in: the leases told are those of the nodes that there are."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.leaseset import LeaseSet
from flanneld_py.store.kube_view import NodeTable, Seen

NAMES = ["n1", "n2", "n3", "own"]
LEASES = st.builds(
    lambda subnet, public: Lease((IPv4Network((0x0A000000 + (subnet << 8), 24)),), LeaseAttrs(IPv4Address(public))),
    st.integers(0, 3),
    st.integers(1, 3),
)
SEEN = st.builds(Seen, st.sampled_from(NAMES), st.none() | LEASES)
STEPS = st.lists(SEEN | st.sampled_from(NAMES) | st.lists(SEEN, unique_by=lambda seen: seen.name), max_size=25)


def expected(nodes: dict[str, Lease | None]) -> dict[object, Lease]:
    """Our own node has its slice before all others; else the first by name has it."""
    leases: dict[object, Lease] = {}
    for name in sorted(nodes, key=lambda name: (name != "own", name)):
        lease = nodes[name]
        if lease is not None:
            leases.setdefault(lease.subnets, lease)
    return leases


@given(STEPS)
def test_messages_lead_to_the_nodes_leases(steps: list[Seen | str | list[Seen]]) -> None:
    table, known = NodeTable("own"), LeaseSet()
    nodes: dict[str, Lease | None] = {}
    for step in steps:
        if isinstance(step, list):
            nodes = {seen.name: seen.lease for seen in step}
            known.apply(table.replace(step))
        elif isinstance(step, str):
            nodes.pop(step, None)
            for message in table.drop(step):
                assert known.apply(message), "nothing is told that is known"
        else:
            nodes[step.name] = step.lease
            for message in table.put(step):
                assert known.apply(message), "nothing is told that is known"
        assert {lease.subnets: lease for lease in known} == expected(nodes)
