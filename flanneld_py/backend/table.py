"""The backends there are, by their name in the configuration."""

from collections.abc import Callable

from flanneld_py.backend.alloc import AllocBackend
from flanneld_py.backend.base import Backend
from flanneld_py.backend.hostgw import HostGwBackend
from flanneld_py.backend.udp import UdpBackend
from flanneld_py.backend.vxlan import VxlanBackend
from flanneld_py.errors import ConfigError
from flanneld_py.model.config import BackendConfig
from flanneld_py.model.fields import Fields

BACKENDS: dict[str, Callable[[Fields, tuple[int, ...]], Backend]] = {
    "vxlan": VxlanBackend.parse,
    "host-gw": HostGwBackend.parse,
    "udp": UdpBackend.parse,
    "alloc": AllocBackend.parse,
}

OF_UPSTREAM_ONLY = frozenset({"ipip", "wireguard", "ipsec", "extension", "tencent-vpc"})


def read_backend(
    config: BackendConfig, versions: tuple[int, ...], source: str
) -> tuple[Backend | None, list[ConfigError], list[str]]:
    """The backend that `config` asks for, with all that is wrong or odd in its options.

    `versions`: the address families in use. No backend is returned where there is an error.
    """
    parse = BACKENDS.get(config.type)
    if parse is None:
        why = "this version has no such backend" if config.type in OF_UPSTREAM_ONLY else "there is no such backend"
        error = ConfigError(f'{source}: Backend.Type "{config.type}": {why}', hint=f"use one of {', '.join(BACKENDS)}")
        return None, [error], []
    options = Fields(config.options, f"{source}: Backend")
    backend = parse(options, versions)
    return (None if options.errors else backend), options.errors, options.warnings
