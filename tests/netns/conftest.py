from tests.netns.space import netns, netns_beside, no_leftovers, node

__all__ = ["netns", "netns_beside", "no_leftovers", "node"]
