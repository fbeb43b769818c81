"""The daemon's flags. FLAGS is the one table: parsing, the environment, the help text and the log line follow from it.

Names, types and defaults are those of Go flannel (main.go). LATER holds what this version cannot do: such a flag is
refused, since without effect it would leave the operator with another network than was asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flanneld_py.daemon.flags import Flag, Value

FLAGS: Final = (
    Flag("etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "where etcd listens", "URL,..."),
    Flag("etcd-prefix", "/coreos.com/network", "keys of this network begin with it", "KEY"),
    Flag("etcd-keyfile", "", "key of the client certificate, PEM", "FILE"),
    Flag("etcd-certfile", "", "client certificate, PEM", "FILE"),
    Flag("etcd-cafile", "", "authorities that may sign etcd's certificate, PEM; default: the system's", "FILE"),
    Flag("etcd-username", "", "user for etcd's authentication", "NAME"),
    Flag("etcd-password", "", "the user's password; `ps` shows it to everyone", "TEXT", secret=True),
    Flag("etcd-password-file", "", "file with the user's password in its first line", "FILE"),
    Flag("iface", (), "external interface, by name or address; the first that fits of several", "NAME|IP"),
    Flag("iface-regex", (), "external interface, by a pattern for its name or address", "PATTERN"),
    Flag("iface-can-reach", "", "external interface: the one through which this address is reached", "IP"),
    Flag("subnet-file", "/run/flannel/subnet.env", "where to write the node's subnet and MTU", "FILE"),
    Flag("public-ip", "", "IPv4 address at which the other nodes reach this one", "IP"),
    Flag("public-ipv6", "", "IPv6 address at which the other nodes reach this one", "IP"),
    Flag("subnet-lease-renew-margin", 60, "minutes before its end at which the lease is renewed, 1 to 1439", "MINUTES"),
    Flag("reacquire", False, "take a new subnet if the lease is lost, instead of ending"),
    Flag("replace", False, "take the place of a flanneld that is at work in the same directory, instead of ending"),
    Flag("udp-linger", 60, "with the udp backend: how long packets are carried after a stop", "SECONDS"),
    Flag("install-cni", False, "put the CNI plugin and its conflist into place once the network works"),
    Flag("install-cni-args", "", "what is passed on to `flanneld install-cni` then", "ARGUMENTS"),
    Flag("ip-masq", False, "masquerade traffic that leaves the network"),
    Flag("ip-masq-fully-random-disable", False, "masquerade without --random-fully"),
    Flag("kube-subnet-mgr", False, "keep leases in the Kubernetes API instead of etcd"),
    Flag("kube-api-url", "", "address of the Kubernetes API", "URL"),
    Flag("kube-annotation-prefix", "flannel.alpha.coreos.com", "annotations of nodes begin with it", "NAME"),
    Flag("kubeconfig-file", "", "credentials for the Kubernetes API", "FILE"),
    Flag("healthz-ip", "0.0.0.0", "address of the health server", "IP"),  # noqa: S104 - upstream's default
    Flag("healthz-port", 0, "port of the health server; 0: none", "PORT"),
    Flag("iptables-resync", 5, "seconds between two looks at the packet filter's rules", "SECONDS"),
    Flag("iptables-forward-rules", True, "accept forwarded traffic of the network in the packet filter"),
    Flag(
        "packet-filter",
        "auto",
        "who keeps the rules; auto: as EnableNFTables or kube-proxy has it",
        "auto|nft|iptables",
    ),
    Flag("fix-foreign-forward", False, "accept pods' traffic in chains of docker and iptables that would drop it"),
    Flag("ip-blackhole-route", False, "drop traffic for addresses of the own subnet that no pod has"),
    Flag("net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration, with --kube-subnet-mgr", "FILE"),
    Flag("set-node-network-unavailable", True, "clear the node's condition NetworkUnavailable when ready"),
    Flag("cni-resident", True, "connect pods in the daemon when the CNI plugin asks, which is faster"),
    Flag("v", 0, "how much to log, 0 to 10", "LEVEL"),
    Flag("vmodule", "", "how much to log, by source file", "PATTERN=LEVEL,..."),
    Flag("log_backtrace_at", "", "log a stack trace at this line", "FILE:LINE"),
    Flag("log-format", "text", "text, or json: one object a line", "text|json"),
    Flag("version", False, "print the version and end", variable=False),
)

KUBE_FLAGS = (
    "kube-api-url",
    "kube-annotation-prefix",
    "kubeconfig-file",
    "net-config-path",
    "set-node-network-unavailable",
)
"""Without effect unless leases are in the Kubernetes API."""
ETCD_FLAGS = tuple(flag for flag in FLAGS if flag.name.startswith("etcd-"))


@dataclass(frozen=True, slots=True)
class Later:
    """A flag whose effect this version does not have. `harmless`: the values that describe what it does anyway."""

    what: str
    harmless: tuple[Value, ...] = ()


LATER: Final[Mapping[str, Later]] = {
    "vmodule": Later("has one log level for all", ("",)),
    "log_backtrace_at": Later("logs no stack traces by line", ("",)),
}
