from collections.abc import Iterator

import pytest

from flanneld_py.netfilter.applier import PacketFilter
from tests.netns.space import Namespace, netns, netns_beside, no_leftovers, node

__all__ = ["netns", "netns_beside", "no_leftovers", "node"]


@pytest.fixture
def packet_filter(netns: Namespace) -> Iterator[PacketFilter]:
    made = PacketFilter(netns=netns.path)
    yield made
    made.close()
