"""The store that the options ask for. What the other one needs is not even imported: it may not be installed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flanneld_py.daemon.access import etcd_access
from flanneld_py.daemon.options import Options
from flanneld_py.errors import UsageError
from flanneld_py.store.base import LeaseStore, OwnedNode, Renewable, Report

# Where an import is inside a function: etcd costs 13 MiB, Kubernetes 12, and a container may have 50.


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, and what else it can do. `node`: to Kubernetes we are an object of its own."""

    store: LeaseStore
    renewable: Renewable | None = None
    node: OwnedNode | None = None


def open_store(options: Options, environ: Mapping[str, str], report: Report) -> Opened:
    """UsageError: what cannot be a store."""
    return _open_kube(options, environ, report) if options.kube_subnet_mgr else _open_etcd(options, report)


def _open_etcd(options: Options, report: Report) -> Opened:
    access = etcd_access(options)  # it says so where a package is missing
    from flanneld_py.store.etcd import EtcdStore  # noqa: PLC0415

    store = EtcdStore(access, report)
    return Opened(store, renewable=store)


def _open_kube(options: Options, environ: Mapping[str, str], report: Report) -> Opened:
    try:
        from flanneld_py.kube.access import KubeAccess  # noqa: PLC0415
        from flanneld_py.store.kube import KubeStore  # noqa: PLC0415
        from flanneld_py.store.kube_codec import parse_prefix  # noqa: PLC0415
        from flanneld_py.store.kube_own import NodeRef  # noqa: PLC0415
    except ModuleNotFoundError as error:
        hint = "pip install 'flanneld-py[kube]'"
        raise UsageError(f"--kube-subnet-mgr: the package {error.name} is not installed", hint=hint) from None
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    access = KubeAccess(options.kube_api_url, options.kubeconfig_file, (host, port) if host and port else None)
    node = NodeRef(*(environ.get(name) or None for name in ("NODE_NAME", "POD_NAMESPACE", "POD_NAME")))
    names = parse_prefix(options.kube_annotation_prefix)
    store = KubeStore(access, report, node=node, names=names, config_path=options.net_config_path)
    return Opened(store, node=store)


async def with_wishes(options: Options, node: OwnedNode | None) -> Options:
    """The options, with the addresses that an operator has set for this node in the store."""
    if node is None:
        return options
    wishes = await node.wishes()
    return replace(
        options,
        public_ip=wishes.public_ip or options.public_ip,
        public_ipv6=wishes.public_ipv6 or options.public_ipv6,
    )
