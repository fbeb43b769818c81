"""Which interface carries the overlay, and which addresses peers are told. Pure.

The order is flannel's (main.go, pkg/ipmatch/match.go): the first wish that fits wins; with a wish that fits nothing the
default route is never taken instead. Without any interface wish a public address is one, and must then be a local one.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from flanneld_py.errors import InterfaceError
from flanneld_py.model.net import Addr
from flanneld_py.model.node import ExternalInterface, Interface, InterfaceAddress

_SHOWN = 24
_POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
    "space": r"\s",
    "word": r"\w",
}


@dataclass(frozen=True, slots=True)
class InterfaceWish:
    """What the operator asked for, as text. `versions`: the families that the network has, 4 first."""

    versions: tuple[int, ...] = (4,)
    ifaces: tuple[str, ...] = ()
    regexes: tuple[str, ...] = ()
    can_reach: str = ""
    public_ip: str = ""
    public_ipv6: str = ""

    def public_text(self, version: int) -> str:
        return self.public_ip if version == 4 else self.public_ipv6


@dataclass(frozen=True, slots=True)
class Reached:
    """The way to the address that must be reachable: the interface, and the source address the kernel would take."""

    dev: str
    source: Addr | None


@dataclass(frozen=True, slots=True)
class Underlay:
    """Facts about routes. `default4`, `default6`: the interface of the first default route. `unreached`: why
    `reached` is None."""

    default4: str | None = None
    default6: str | None = None
    reached: Reached | None = None
    unreached: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason`: which wish or route decided. `rejected`: each wish that did not fit, or each other interface that has
    an address of the families, and why."""

    external: ExternalInterface
    reason: str
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pick:
    """An interface, with the addresses that the wish itself fixes."""

    interface: Interface
    reason: str
    fixed: tuple[Addr, ...] = ()


class _NoFitError(Exception):
    """Why one wish gives no interface."""


def choose(candidates: Sequence[Interface], wish: InterfaceWish, underlay: Underlay) -> Choice:
    """The external interface. `candidates` in index order, since the first that fits is taken.

    InterfaceError names what was asked for and every candidate with its addresses.
    """
    publics = {version: _public(wish, version) for version in (4, 6)}
    wishes = _wishes(candidates, wish, underlay, publics)
    asked = any(selector != "" for selector, _ in wishes)
    rejected: list[str] = []
    for selector, look in wishes:
        try:
            pick = look()
            external = _external(pick, wish.versions, publics)
        except _NoFitError as err:
            rejected.append(f"{selector}: {err}" if selector else str(err))
            continue
        others = rejected if asked else _others(candidates, external.name, wish.versions)
        return Choice(external, pick.reason, tuple(others))
    raise InterfaceError(
        f"no external interface: {'; '.join(rejected)} (interfaces: {describe(candidates) or 'none'})",
        hint=_mend(wish),
    )


def usable(interface: Interface, version: int) -> tuple[InterfaceAddress, ...]:
    """The addresses that peers can be told, best first: global before link-local, permanent before dynamic, then
    those that are not temporary, then the kernel's order. Deprecated ones never."""
    fit = [a for a in interface.addresses if a.ip.version == version and not a.deprecated and _is_unicast(a.ip)]
    return tuple(sorted(fit, key=lambda a: (a.ip.is_link_local, not a.permanent, a.temporary)))


def describe(candidates: Iterable[Interface]) -> str:
    """`eth0 (10.0.0.1, fd00::1), eth1 (no address)`; those with an address first, and not endlessly many."""
    ranked = sorted(candidates, key=lambda candidate: not candidate.addresses)
    shown = [f"{c.name} ({', '.join(str(a.ip) for a in c.addresses) or 'no address'})" for c in ranked[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else "")


def _wishes(
    candidates: Sequence[Interface], wish: InterfaceWish, underlay: Underlay, publics: dict[int, Addr | None]
) -> list[tuple[str, Callable[[], _Pick]]]:
    """What to try, in order, with the flag that asked for it; "" for the default route."""
    wishes: list[tuple[str, Callable[[], _Pick]]] = [
        (f"--iface={value}", partial(_by_value, candidates, value, wish.versions, publics)) for value in wish.ifaces
    ]
    wishes += [
        (f"--iface-regex={value}", partial(_by_regex, candidates, value, wish.versions)) for value in wish.regexes
    ]
    if wish.can_reach:
        wishes.append((f"--iface-can-reach={wish.can_reach}", partial(_by_reach, candidates, wish, underlay)))
    if wishes:
        return wishes
    for version, flag in ((4, "--public-ip"), (6, "--public-ipv6")):
        address = publics[version]
        if address is not None and version in wish.versions:
            return [(f"{flag}={address}", partial(_by_address, candidates, address, wish.versions, publics))]
    return [("", partial(_by_default, candidates, wish.versions, underlay))]


def _by_value(
    candidates: Sequence[Interface], value: str, versions: tuple[int, ...], publics: dict[int, Addr | None]
) -> _Pick:
    try:
        address = ip_address(value)
    except ValueError:
        return _Pick(_named(candidates, value), f"--iface={value} names it")
    return _by_address(candidates, address, versions, publics)


def _by_address(
    candidates: Sequence[Interface], address: Addr, versions: tuple[int, ...], publics: dict[int, Addr | None]
) -> _Pick:
    """The owner of `address`. In dual stack a public IPv6 address must be on the same interface, and is then taken as
    the interface's own."""
    if address.version not in versions:
        raise _NoFitError(f"it is an IPv{address.version} address, and the network has no IPv{address.version}")
    owner = _owner(candidates, address)
    if owner is None:
        raise _NoFitError(f"no interface has the address {address}")
    fixed: tuple[Addr, ...] = (address,)
    public6 = publics[6]
    if len(versions) == 2 and address.version == 4 and public6 is not None:
        owner6 = _owner(candidates, public6)
        if owner6 is None or owner6.name != owner.name:
            where = "on no interface" if owner6 is None else f"on {owner6.name}"
            raise _NoFitError(f"{address} is on {owner.name}, but the public IPv6 address {public6} is {where}")
        fixed = (address, public6)
    return _Pick(owner, f"it has the address {address}", fixed)


def _by_regex(candidates: Sequence[Interface], text: str, versions: tuple[int, ...]) -> _Pick:
    try:
        pattern = compile_pattern(text)
    except ValueError as err:
        raise _NoFitError(str(err)) from err
    for candidate in candidates:
        matched = [
            next((a.ip for a in usable(candidate, version) if pattern.search(str(a.ip))), None) for version in versions
        ]
        if None not in matched:
            fixed = tuple(ip for ip in matched if ip is not None)
            return _Pick(candidate, f"--iface-regex={text} matches {' and '.join(map(str, fixed))}", fixed)
    for candidate in candidates:
        if pattern.search(candidate.name):
            return _Pick(candidate, f"--iface-regex={text} matches its name")
    raise _NoFitError("matches no address and no name")


def _by_reach(candidates: Sequence[Interface], wish: InterfaceWish, underlay: Underlay) -> _Pick:
    reached = underlay.reached
    if reached is None:
        raise _NoFitError(underlay.unreached or "there is no route to it")
    interface = _named(candidates, reached.dev)
    fixed: tuple[Addr, ...] = ()
    if reached.source is not None and reached.source.version in wish.versions:
        fixed = (reached.source,)
    return _Pick(interface, f"the route to {wish.can_reach} leaves there", fixed)


def _by_default(candidates: Sequence[Interface], versions: tuple[int, ...], underlay: Underlay) -> _Pick:
    devs = {version: underlay.default4 if version == 4 else underlay.default6 for version in versions}
    for version, dev in devs.items():
        if dev is None:
            raise _NoFitError(f"there is no IPv{version} default route")
    names = {dev for dev in devs.values() if dev is not None}
    if len(names) > 1:
        raise _NoFitError(f"the default routes differ: IPv4 by {devs[4]}, IPv6 by {devs[6]}")
    return _Pick(_named(candidates, names.pop()), "the default route leaves there")


def _external(pick: _Pick, versions: tuple[int, ...], publics: dict[int, Addr | None]) -> ExternalInterface:
    interface = pick.interface
    if interface.mtu <= 0:
        raise _NoFitError(f"{interface.name} has MTU {interface.mtu}, so nothing can be sent through it")
    own: dict[int, Addr | None] = {4: None, 6: None}
    for version in versions:
        fixed = next((ip for ip in pick.fixed if ip.version == version), None)
        best = usable(interface, version)
        if fixed is None and not best:
            raise _NoFitError(f"{interface.name} has no usable IPv{version} address")
        own[version] = fixed if fixed is not None else best[0].ip
    told = {version: (publics[version] or own[version]) if version in versions else None for version in (4, 6)}
    return ExternalInterface(
        interface.name,
        interface.index,
        interface.mtu,
        addr4=own[4] if isinstance(own[4], IPv4Address) else None,
        addr6=own[6] if isinstance(own[6], IPv6Address) else None,
        public4=told[4] if isinstance(told[4], IPv4Address) else None,
        public6=told[6] if isinstance(told[6], IPv6Address) else None,
        steady=interface.steady,
    )


def _public(wish: InterfaceWish, version: int) -> Addr | None:
    text = wish.public_text(version)
    if not text:
        return None
    flag = "--public-ip" if version == 4 else "--public-ipv6"
    try:
        return IPv4Address(text) if version == 4 else IPv6Address(text)
    except ValueError as err:
        raise InterfaceError(
            f"{flag}={text}: not an IPv{version} address", hint=f"give one address without a prefix length to {flag}"
        ) from err


def _others(candidates: Iterable[Interface], chosen: str, versions: tuple[int, ...]) -> list[str]:
    found = []
    for candidate in candidates:
        best = [a.ip for version in versions for a in usable(candidate, version)[:1] if not a.ip.is_link_local]
        if candidate.name != chosen and best:
            found.append(f"{candidate.name} ({', '.join(map(str, best))}): not the way of the default route")
    return found


def _mend(wish: InterfaceWish) -> str:
    if wish.ifaces or wish.regexes or wish.can_reach:
        return "name one of the interfaces with --iface"
    if wish.public_ip or wish.public_ipv6:
        return "a public address that is not local (NAT) needs --iface=NAME as well"
    return "name the interface with --iface=NAME, or add the default route"


def _named(candidates: Iterable[Interface], name: str) -> Interface:
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    raise _NoFitError(f"there is no interface {name}")


def _owner(candidates: Iterable[Interface], address: Addr) -> Interface | None:
    return next((c for c in candidates if any(a.ip == address for a in c.addresses)), None)


def _is_unicast(ip: Addr) -> bool:
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip == IPv4Address("255.255.255.255"))


def compile_pattern(text: str) -> re.Pattern[str]:
    """A pattern of `--iface-regex`. Go reads it as RE2, which has POSIX classes and spells the end of text otherwise.

    ValueError says what is wrong with it.
    """
    text = re.sub(r"\[:(\w+):\]", lambda found: _POSIX_CLASSES.get(found[1], found[0]), text)
    try:
        return re.compile(text.replace(r"\z", r"\Z"), re.ASCII)
    except (re.error, OverflowError, RecursionError) as err:
        raise ValueError(f"is not a regular expression: {err}") from err
