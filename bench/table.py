"""The benchmarks there are."""

from collections.abc import Callable, Sequence

from bench import lease_burst, start

BENCHES: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "start": ("how soon is a node ready, and what does the command line cost?", start.run),
    "lease_burst": ("what do 1,000 leases, and one lease, cost a node?", lease_burst.run),
}
