"""The benchmarks there are."""

from collections.abc import Callable, Sequence

from bench import cni, compare, kube, lease_burst, paths, peers, pump, readme, restart, start

BENCHES: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "paths": ("which data path is how fast, ours and others' side by side?", paths.run),
    "compare": ("did a data path change between two runs of `paths`?", compare.run),
    "readme": ("what does the README say of a run of `paths`?", readme.run),
    "peers": ("which of the others are here, and get those that are not", peers.run),
    "pump": ("how much faster is the native pump than its portable twin?", pump.run),
    "restart": ("does a stream notice that the daemon crashes, or the worker is upgraded?", restart.run),
    "start": ("how soon is a node ready, and what does the command line cost?", start.run),
    "cni": ("what does connecting a pod cost: bare plugins, ours, ours with the daemon's help?", cni.run),
    "lease_burst": ("what do 1,000 leases, and one lease, cost a node?", lease_burst.run),
    "kube": ("what does a cluster of many nodes cost the daemon of one, in a container's limits?", kube.run),
}
