"""From options and the stored configuration to all that the daemon runs with; nothing is written yet."""

import logging
import random
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flanneld_py.backend.base import Backend
from flanneld_py.backend.table import read_backend
from flanneld_py.daemon.board import Board
from flanneld_py.daemon.options import Options
from flanneld_py.daemon.prelude import check_interface, choose_interface, link_alias, node_facts
from flanneld_py.daemon.rules import describe_rules, wish_of
from flanneld_py.daemon.stores import Opened, with_wishes
from flanneld_py.errors import ConfigError
from flanneld_py.firewall.plan import RuleWish
from flanneld_py.model.config import BackendConfig, NetworkConfig, check_config
from flanneld_py.model.lease import NodeIdentity
from flanneld_py.model.net import Net
from flanneld_py.model.node import NodeFacts
from flanneld_py.model.subnetenv import SubnetEnv, parse_subnet_env, previous_subnets
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.observe.status import Stage
from flanneld_py.store.base import LeaseRequest, LeaseStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Setup:
    """`former`: the networks that subnet.env held; `rejected`: interfaces that were not chosen, and why; `rules`: what
    is wanted of the packet filter."""

    config: NetworkConfig
    backend: Backend
    facts: NodeFacts
    request: LeaseRequest
    former: tuple[Net, ...]
    rejected: tuple[str, ...]
    rules: RuleWish


async def prepare(options: Options, identity: NodeIdentity, opened: Opened, sock: NetlinkSocket, board: Board) -> Setup:
    """Waits for the store and its configuration. ConfigError, InterfaceError: what cannot be used."""
    rng = random.SystemRandom()
    store = opened.store
    config, backend = await _configuration(store, board)
    rules = wish_of(options, config)
    options = await with_wishes(options, opened.node)
    versions = tuple(family.version for family in config.families)
    choice = choose_interface(sock, options, versions)
    external = choice.external
    check_interface(external, backend, versions)
    board.update(
        interface=external.name,
        interface_reason=choice.reason,
        public=tuple(str(a) for a in (external.public4, external.public6) if a is not None),
        backend=config.backend.type,
        networks=tuple(map(str, config.networks)),
        rules=describe_rules(rules),
    )
    board.at(Stage.LEASE)
    facts_with = partial(
        node_facts, sock, external, backend, networks=config.networks, alias=link_alias(options.subnet_file), rng=rng
    )
    stored = await store.stored(backend.attrs(facts_with({})))
    facts = facts_with({} if stored is None else backend.macs_in(stored))
    backend.mtu(facts)  # a hopeless MTU is told before a lease is taken
    env = _subnet_env(options.subnet_file)
    request = LeaseRequest(config, backend.attrs(facts), previous_subnets(env) if env else (), identity)
    return Setup(config, backend, facts, request, env.networks if env else (), choice.rejected, rules)


async def _configuration(store: LeaseStore, board: Board) -> tuple[NetworkConfig, Backend]:
    """All that is wrong is said in the log; the first of it is raised."""
    board.at(Stage.CONFIG)
    checked = judge(await store.config(), store.config_source())
    for warning in checked.warnings:
        log.warning("%s", warning)
    board.update(warnings=checked.warnings)
    if checked.config is None or checked.backend is None:
        for error in checked.errors[1:]:
            log.error("%s", error)
        raise checked.errors[0]
    log.info("Found network config - Backend type: %s", checked.config.backend.type)
    return checked.config, checked.backend


@dataclass(frozen=True, slots=True)
class Judged:
    """A configuration's text, judged. Without errors, `config` and `backend` are there."""

    config: NetworkConfig | None
    backend: Backend | None
    errors: tuple[ConfigError, ...]
    warnings: tuple[str, ...]


def judge(text: str, source: str) -> Judged:
    """All that can be said about a network configuration and its backend's options."""
    found: list[Backend | None] = []

    def check_backend(config: BackendConfig, versions: tuple[int, ...]) -> tuple[list[ConfigError], list[str]]:
        backend, errors, warnings = read_backend(config, versions, source)
        found.append(backend)
        return errors, warnings

    checked = check_config(text, source, check_backend)
    return Judged(checked.config, found[0] if found else None, checked.errors, checked.warnings)


async def follow_config(store: LeaseStore, running: NetworkConfig, board: Board) -> None:
    """Say what a configuration that differs from the `running` one will do; it applies at the next start."""
    async with aclosing(store.watch_config()) as texts:
        async for text in texts:
            judged = judge(text, store.config_source())
            pending: str | None = None
            if judged.config == running:
                log.info("the network configuration is again the one that runs")
            elif judged.errors:
                pending = f"changed, and cannot be used: {judged.errors[0]}"
                log.error("the network configuration has %s", pending)
            else:
                pending = "changed; the new one applies at the next start"
                log.warning("the network configuration has %s", pending)
            board.update(config_pending=pending)


def _subnet_env(path: Path) -> SubnetEnv | None:
    """What the run before wrote; None if there is nothing that can be read."""
    try:
        env, problems = parse_subnet_env(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s: %s", path, error.strerror)
        return None
    for problem in problems:
        log.warning("%s: %s", path, problem)
    return env
