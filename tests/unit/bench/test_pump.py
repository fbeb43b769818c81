"""The work that `bench pump` gives to both twins is real work."""

from bench.pump import MSS, PEERS, SEGMENTS, SMALL, cases, peer_table, super_packet
from flanneld_py.dataplane import pump
from flanneld_py.dataplane.wire import Drop

PORTABLE = pump.choose("portable")


def test_super_packet_is_cut_into_whole_segments() -> None:
    drop, segments = PORTABLE.segment(*super_packet(SEGMENTS))
    assert drop == Drop.OK
    assert [len(one) for one in segments] == [MSS + 40] * SEGMENTS


def test_super_packet_goes_to_a_peer_and_is_taken_by_one() -> None:
    vnet, packet = super_packet(2, SMALL)
    table = PORTABLE.table(peer_table(PEERS))
    drop, peer, datagrams = PORTABLE.outbound(table, vnet + packet)
    assert (drop, len(datagrams)) == (Drop.OK, 2)
    assert peer == (20 << 8) + 1 - 1
    assert PORTABLE.inbound(table, 1, datagrams[0])[0] == Drop.OK


def test_segments_merge_again() -> None:
    _, segments = PORTABLE.segment(*super_packet(SEGMENTS))
    assert len(PORTABLE.merge(segments)) == 1


def test_both_sides_of_each_case_agree() -> None:
    for case in cases(PORTABLE, PORTABLE):
        assert case.native() == case.portable()
        assert case.count >= 1
