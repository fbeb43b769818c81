"""`diff` against the kernel's own rules, as `after` states them: any state turns into any other, and stays."""

from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.model.entry import (
    APPLY_ORDER,
    Address,
    Entry,
    FdbEntry,
    Key,
    Link,
    LinkUp,
    Neighbour,
    Route,
    Sysctl,
    TxChecksum,
    Verb,
    Vxlan,
)
from flanneld_py.reconcile.diff import after, diff

DEVICES = ("flannel.1", "flannel.2")
MACS = ("0a:00:00:00:00:01", "0a:00:00:00:00:02")
PUBLICS = tuple(map(ip_address, ("192.0.2.1", "192.0.2.2")))
NETS = tuple(map(ip_network, ("10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24")))


def links(name: str) -> st.SearchStrategy[Link]:
    vxlan = st.builds(Vxlan, st.just(1), st.sampled_from((8472, 4789)), st.just(PUBLICS[0]), st.just("eth0"))
    return st.builds(
        Link,
        st.just(name),
        st.just("vxlan"),
        st.sampled_from((1450, 1400)),
        st.sampled_from(MACS),
        st.just("us"),
        vxlan,
    )


@st.composite
def states(draw: st.DrawFn) -> dict[Key, Entry]:
    """What can be in a kernel: nothing stands on a device that is not there."""
    present = draw(st.sets(st.sampled_from(DEVICES)))
    entries: list[Entry] = [draw(links(name)) for name in sorted(present)]
    for dev in sorted(present):
        choices = st.one_of(
            st.just(LinkUp(dev)),
            st.builds(TxChecksum, st.just(dev), st.booleans(), st.sampled_from(("", "a NAT lies between"))),
            st.builds(Sysctl, st.just(f"net/ipv6/conf/{dev}/accept_ra"), st.sampled_from("01"), st.just(dev)),
            st.builds(
                Address, st.just(dev), st.sampled_from((ip_interface("10.244.9.0/32"), ip_interface("10.244.8.0/32")))
            ),
            st.builds(
                Neighbour, st.just(dev), st.sampled_from([n.network_address for n in NETS]), st.sampled_from(MACS)
            ),
            st.builds(FdbEntry, st.just(dev), st.sampled_from(MACS), st.sampled_from(PUBLICS)),
        )
        entries += draw(st.lists(choices, max_size=6))
    out = st.sampled_from((*sorted(present), "eth0"))
    entries += draw(
        st.lists(st.builds(Route, st.sampled_from(NETS), out, st.sampled_from((None, *PUBLICS))), max_size=4)
    )
    return {entry.key: entry for entry in entries}


def without_unmanaged(state: dict[Key, Entry]) -> dict[Key, Entry]:
    return {key: entry for key, entry in state.items() if not isinstance(entry, LinkUp | Sysctl | TxChecksum)}


@given(states(), states())
def test_any_state_becomes_the_desired_one(known: dict[Key, Entry], desired: dict[Key, Entry]) -> None:
    reached = after(known, diff(desired, known))
    assert without_unmanaged(reached) == without_unmanaged(desired)
    assert desired.items() <= reached.items()
    assert diff(desired, reached) == ()


@given(states(), states())
def test_it_does_not_matter_whether_equal_entries_are_the_same_object(
    known: dict[Key, Entry], desired: dict[Key, Entry]
) -> None:
    shared = {key: desired.get(key, entry) if desired.get(key) == entry else entry for key, entry in known.items()}
    assert diff(desired, shared) == diff(desired, known)


@given(states(), states())
def test_every_op_may_run_twice(known: dict[Key, Entry], desired: dict[Key, Entry]) -> None:
    ops = diff(desired, known)
    adds = tuple(op for op in ops if op.verb is not Verb.RECREATE)
    once = after(known, ops)
    assert after(once, tuple(op for op in adds if not isinstance(op.entry, Link))) == once


@given(states(), states())
def test_adds_follow_the_apply_order_and_deletes_come_after_in_reverse(
    known: dict[Key, Entry], desired: dict[Key, Entry]
) -> None:
    ops = diff(desired, known)
    adds = [APPLY_ORDER.index(type(op.entry)) for op in ops if op.verb is not Verb.DELETE]
    deletes = [APPLY_ORDER.index(type(op.entry)) for op in ops if op.verb is Verb.DELETE]
    assert adds == sorted(adds)
    assert deletes == sorted(deletes, reverse=True)
    assert [op.verb is Verb.DELETE for op in ops] == sorted(op.verb is Verb.DELETE for op in ops)


@given(states())
def test_cleanup_is_the_difference_to_nothing(known: dict[Key, Entry]) -> None:
    assert without_unmanaged(after(known, diff({}, known))) == {}
