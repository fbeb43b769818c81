"""What the daemon says of itself: a value, its JSON, and the text that `flanneld status` prints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Stage(Enum):
    """Where start-up stands. `status.json` holds the value, which CNI plugins and scripts may compare."""

    STARTING = "starting"
    STORE = "waiting for the store"
    CONFIG = "waiting for the network configuration"
    LEASE = "waiting for a lease"
    KERNEL = "configuring the kernel"
    READY = "ready"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """The part that is always current in `status.json`. Times are Unix seconds.

    `error` and `hint`: the gravest trouble of this moment, or what ended the daemon. `blocked`: it is that the kernel
    refuses a part of the node's own, so that there is no network; else it is the store's, and `store_ok` is false.
    `subnets`, `networks`, `public`: texts, IPv4 first. `entries`: how many we want; `difference`: how many of them are
    not so after the last pass; `repaired`: how many the last look at the kernel found otherwise. `offload`: what we ask
    of our devices' offloads, and why. `rules`: of the packet filter, who keeps them and which are wanted. `worker`:
    what the process counts that carries the udp backend's packets, as of a few seconds ago.
    """

    stage: Stage
    since: float
    pid: int
    version: str
    host: str
    error: str | None = None
    hint: str | None = None
    blocked: bool = False
    store: str | None = None
    store_ok: bool = True
    backend: str | None = None
    networks: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    public: tuple[str, ...] = ()
    expires: float | None = None
    reserved: bool = False
    interface: str | None = None
    interface_reason: str | None = None
    mtu: int | None = None
    peers: int = 0
    peers_unreached: int = 0
    entries: int = 0
    difference: int = 0
    repaired: int = 0
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    offload: tuple[str, ...] = ()
    config_pending: str | None = None
    rules: Mapping[str, Any] | None = None
    worker: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"stage": self.stage.value}


@dataclass(frozen=True, slots=True)
class PeerLine:
    """`missing`: how many of the peer's entries the kernel lacks or has otherwise."""

    subnets: tuple[str, ...]
    public: tuple[str, ...]
    path: tuple[str, ...]
    missing: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The whole answer of a living daemon. `ops`: the difference between what it wants and what is there now;
    `worker`: as in Status, but of this moment."""

    status: Status
    peers: tuple[PeerLine, ...] = ()
    ops: tuple[str, ...] = ()
    rejected: tuple[str, ...] = field(default=())
    worker: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        peers = [asdict(peer) for peer in self.peers]
        return self.status.as_json() | {
            "peer_list": peers,
            "ops": self.ops,
            "interfaces_rejected": self.rejected,
            "worker": self.worker,
        }
