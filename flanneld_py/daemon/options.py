"""The daemon's options: flags and `FLANNELD_*` variables, as values that are checked."""

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeVar, cast

from flanneld_py.daemon.flags import Flag, Given, Setting, Value, parse_flags
from flanneld_py.daemon.flagtable import ETCD_FLAGS, FLAGS, KUBE_FLAGS, LATER
from flanneld_py.errors import UsageError
from flanneld_py.etcd.endpoints import parse_endpoint
from flanneld_py.firewall.engine import WISHES
from flanneld_py.kube.address import parse_api_url
from flanneld_py.model.extiface import compile_pattern
from flanneld_py.model.net import Addr

A = TypeVar("A", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator asks for. A field is called like its flag; files are read by those who use them."""

    etcd_endpoints: tuple[str, ...]
    etcd_prefix: str
    etcd_keyfile: str | None
    etcd_certfile: str | None
    etcd_cafile: str | None
    etcd_username: str | None
    etcd_password: str | None = field(repr=False)
    etcd_password_file: Path | None
    iface: tuple[str, ...]
    iface_regex: tuple[str, ...]
    iface_can_reach: Addr | None
    subnet_file: Path
    public_ip: IPv4Address | None
    public_ipv6: IPv6Address | None
    subnet_lease_renew_margin: int
    """Minutes."""
    reacquire: bool
    replace: bool
    udp_linger: int
    """Seconds. Then port and device are free for another implementation."""
    install_cni: bool
    install_cni_args: str
    """Words as in a shell."""
    ip_masq: bool
    ip_masq_fully_random_disable: bool
    iptables_resync: int
    """Seconds."""
    iptables_forward_rules: bool
    ip_blackhole_route: bool
    packet_filter: str
    fix_foreign_forward: bool
    cni_resident: bool
    healthz_ip: Addr
    healthz_port: int
    """0: no probes are answered."""
    kube_subnet_mgr: bool
    kube_api_url: str | None
    kube_annotation_prefix: str
    kubeconfig_file: Path | None
    net_config_path: Path
    set_node_network_unavailable: bool
    v: int
    log_format: str
    version: bool = False
    help: bool = False


def parse_options(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """The options. Raises UsageError, which names the flag or the variable.

    Where help or version are asked for, everything else is as if nothing was given.
    """
    given = parse_flags(FLAGS, argv, environ)
    version = "version" in given.settings and given.settings["version"].value is True
    if given.help or version:
        return _options(_Settings({}), help_=given.help, version=version)
    _refuse_later(given)
    return _options(_Settings(given.settings))


def parse_etcd_options(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[Options, tuple[str, ...]]:
    """The options, of which only those for etcd may be given, and the words among them that are no flags."""
    given = parse_flags(ETCD_FLAGS, argv, environ, operands=True)
    return _options(_Settings(given.settings), help_=given.help), given.operands


def describe(options: Options) -> str:
    """The flags that differ from their defaults, on one line; a secret is only said to be there."""
    words = []
    for flag in FLAGS:
        value = getattr(options, flag.name.replace("-", "_"), None)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        if value in (None, ()) or text == str(flag.default):
            continue
        if isinstance(value, bool):
            text = text.lower()
        words.append(f"--{flag.name}={'***' if flag.secret else text}")
    return " ".join(words) or "with default options"


def usage(flags: Sequence[Flag] = FLAGS) -> str:
    """The help text: every flag with its default, and a mark at those that this version refuses."""
    lines = [
        "flanneld [FLAGS]",
        "",
        "Flags begin with one dash or two; a boolean takes its value with =. For each there is a variable, FLANNELD_",
        "and the flag's name in capitals with _ for -; the command line wins.",
        "",
        "  --help",
        "        print this and end",
    ]
    for flag in flags:
        boolean = isinstance(flag.default, bool)
        lines.append(f"  --{flag.name}" + ("" if boolean else f" {flag.metavar}"))
        text = flag.help
        if flag.default not in ("", ()) and flag.default is not False:
            text += f" (default {str(flag.default).lower() if boolean else flag.default})"
        if isinstance(flag.default, tuple):
            text += " (may be repeated)"
        if flag.name in LATER:
            text += f" [refused: this version {LATER[flag.name].what}]"
        lines.append(f"        {text}")
    return "\n".join(lines) + "\n"


class _Settings:
    """The value that was given, else the table's default; its type is that of the flag's row."""

    def __init__(self, given: Mapping[str, Setting]) -> None:
        self._given = given
        self._defaults = {flag.name: flag.default for flag in FLAGS}

    def origin(self, name: str) -> str:
        return self._given[name].origin if name in self._given else f"--{name}"

    def _value(self, name: str) -> Value:
        return self._given[name].value if name in self._given else self._defaults[name]

    def differs(self, name: str) -> bool:
        """Whether it is another value than the default."""
        return self._value(name) != self._defaults[name]

    def text(self, name: str) -> str:
        return cast(str, self._value(name))

    def optional(self, name: str) -> str | None:
        return self.text(name) or None

    def integer(self, name: str, low: int, high: int) -> int:
        value = cast(int, self._value(name))
        if not low <= value <= high:
            raise UsageError(f"{self.origin(name)}={value}: is not from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        return self._value(name) is True

    def several(self, name: str) -> tuple[str, ...]:
        """Without empty ones, which ask for nothing: units often pass a variable that may be empty."""
        return tuple(text for text in cast(tuple[str, ...], self._value(name)) if text)


def _refuse_later(given: Given) -> None:
    for name, later in LATER.items():
        setting = given.settings.get(name)
        if setting is None or setting.value in later.harmless:
            continue
        value = str(setting.value).lower() if isinstance(setting.value, bool) else setting.value
        mend = "leave the flag out" if setting.origin.startswith("--") else "unset the variable"
        raise UsageError(f"{setting.origin}={value}: this version {later.what}", hint=mend)


def _options(given: _Settings, *, help_: bool = False, version: bool = False) -> Options:
    _check_pairs(given)
    return Options(
        etcd_endpoints=_endpoints(given),
        etcd_prefix=_prefix(given),
        etcd_keyfile=given.optional("etcd-keyfile"),
        etcd_certfile=given.optional("etcd-certfile"),
        etcd_cafile=given.optional("etcd-cafile"),
        etcd_username=given.optional("etcd-username"),
        etcd_password=given.optional("etcd-password"),
        etcd_password_file=Path(text) if (text := given.text("etcd-password-file")) else None,
        iface=given.several("iface"),
        iface_regex=tuple(_pattern(text, given.origin("iface-regex")) for text in given.several("iface-regex")),
        iface_can_reach=_address(given, "iface-can-reach"),
        subnet_file=_subnet_file(given),
        public_ip=_public(given, "public-ip", IPv4Address),
        public_ipv6=_public(given, "public-ipv6", IPv6Address),
        subnet_lease_renew_margin=given.integer("subnet-lease-renew-margin", 1, 1439),
        reacquire=given.boolean("reacquire"),
        replace=given.boolean("replace"),
        udp_linger=given.integer("udp-linger", 0, 86400),
        install_cni=given.boolean("install-cni"),
        install_cni_args=_shell_words(given, "install-cni-args"),
        ip_masq=given.boolean("ip-masq"),
        ip_masq_fully_random_disable=given.boolean("ip-masq-fully-random-disable"),
        iptables_resync=given.integer("iptables-resync", 1, 86400),
        iptables_forward_rules=given.boolean("iptables-forward-rules"),
        ip_blackhole_route=given.boolean("ip-blackhole-route"),
        packet_filter=_one_of(given, "packet-filter", WISHES),
        fix_foreign_forward=given.boolean("fix-foreign-forward"),
        cni_resident=given.boolean("cni-resident"),
        healthz_ip=_healthz_ip(given),
        healthz_port=given.integer("healthz-port", 0, 65535),
        kube_subnet_mgr=given.boolean("kube-subnet-mgr"),
        kube_api_url=_api_url(given),
        kube_annotation_prefix=given.text("kube-annotation-prefix"),
        kubeconfig_file=Path(text) if (text := given.text("kubeconfig-file")) else None,
        net_config_path=Path(given.text("net-config-path")),
        set_node_network_unavailable=given.boolean("set-node-network-unavailable"),
        v=given.integer("v", 0, 10),
        log_format=_one_of(given, "log-format", ("text", "json")),
        version=version,
        help=help_,
    )


def _check_pairs(given: _Settings) -> None:
    """Flags that are of no use, or of no clear meaning, without or with each other."""
    key, certificate = given.text("etcd-keyfile"), given.text("etcd-certfile")
    if bool(key) != bool(certificate):
        there, missing = ("etcd-keyfile", "etcd-certfile") if key else ("etcd-certfile", "etcd-keyfile")
        raise UsageError(f"{given.origin(there)}: needs --{missing}", hint="a client certificate is both files")
    passwords = [name for name in ("etcd-password", "etcd-password-file") if given.text(name)]
    if len(passwords) == 2:
        both = " and ".join(map(given.origin, passwords))
        raise UsageError(f"{both}: both are given", hint="leave one out")
    useless = [name for name in KUBE_FLAGS if given.differs(name)]
    if useless and not given.boolean("kube-subnet-mgr"):
        raise UsageError(f"{given.origin(useless[0])}: leases are kept in etcd", hint="give --kube-subnet-mgr too")
    if passwords and not given.text("etcd-username"):
        raise UsageError(f"{given.origin(passwords[0])}: whose password is it?", hint="give --etcd-username")
    if given.text("etcd-username") and not passwords:
        reason = f"{given.origin('etcd-username')}: needs a password"
        raise UsageError(reason, hint="give --etcd-password-file")
    if given.text("install-cni-args") and not given.boolean("install-cni"):
        raise UsageError(f"{given.origin('install-cni-args')}: nothing is installed", hint="give --install-cni")


def _endpoints(given: _Settings) -> tuple[str, ...]:
    tls = any(given.text(name) for name in ("etcd-keyfile", "etcd-certfile", "etcd-cafile"))
    texts = [text for text in given.text("etcd-endpoints").split(",") if text.strip()]
    if not texts:
        raise UsageError(f"{given.origin('etcd-endpoints')}: names none", hint="such as http://10.0.0.1:2379")
    try:
        return tuple(str(parse_endpoint(text, tls=tls)) for text in texts)
    except UsageError as err:
        raise UsageError(f"{given.origin('etcd-endpoints')}: {err.message}", hint=err.hint) from None


def _api_url(given: _Settings) -> str | None:
    url = given.optional("kube-api-url")
    try:
        return None if url is None else parse_api_url(url)
    except UsageError as err:
        raise UsageError(f"{given.origin('kube-api-url')}: {err.message}", hint=err.hint) from None


def _prefix(given: _Settings) -> str:
    """Without doubled and closing slashes, as Go flannel joins it with the rest of a key."""
    text = given.text("etcd-prefix")
    if not text.strip("/ "):
        raise UsageError(f"{given.origin('etcd-prefix')}={text!a}: is empty", hint="such as /coreos.com/network")
    clean = posixpath.normpath(text)
    return "/" + clean.lstrip("/") if text.startswith("/") else clean


def _subnet_file(given: _Settings) -> Path:
    text = given.text("subnet-file")
    if not text or text.endswith("/"):
        raise UsageError(
            f"{given.origin('subnet-file')}={text!a}: is not a file", hint="such as /run/flannel/subnet.env"
        )
    return Path(text)


def _address(given: _Settings, name: str) -> Addr | None:
    text = given.text(name)
    if not text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        raise UsageError(f"{given.origin(name)}={text[:60]!a}: is not an IP address") from None
    if "%" in text:
        raise UsageError(f"{given.origin(name)}={text[:60]!a}: has a zone", hint="leave % and what follows out")
    if address.is_unspecified or address.is_multicast:
        raise UsageError(f"{given.origin(name)}={text}: is not the address of one node")
    return address


def _healthz_ip(given: _Settings) -> Addr:
    text = given.text("healthz-ip")
    try:
        return ip_address(text)
    except ValueError:
        reason = f"{given.origin('healthz-ip')}={text[:60]!a}: is not an IP address"
        raise UsageError(reason, hint="0.0.0.0 is every IPv4 address of the node, :: every one") from None


def _public(given: _Settings, name: str, kind: type[A]) -> A | None:
    address = _address(given, name)
    if address is None or isinstance(address, kind):
        return address
    other = "--public-ipv6" if kind is IPv4Address else "--public-ip"
    raise UsageError(f"{given.origin(name)}={address}: is of the other address family", hint=f"give it to {other}")


def _shell_words(given: _Settings, name: str) -> str:
    """The text, if a shell could split it."""
    text = given.text(name)
    try:
        shlex.split(text)
    except ValueError as err:
        reason = f"{given.origin(name)}={text[:60]!a}: {str(err).lower()}"
        raise UsageError(reason, hint="write quotes as in a shell") from None
    return text


def _pattern(text: str, origin: str) -> str:
    """`text`, if it is a pattern."""
    try:
        compile_pattern(text)
    except ValueError as err:
        raise UsageError(f"{origin}={text[:60]!a}: {err}") from None
    return text


def _one_of(given: _Settings, name: str, words: Sequence[str]) -> str:
    text = given.text(name)
    if text not in words:
        mend = f"write {', '.join(words[:-1])} or {words[-1]}"
        raise UsageError(f"{given.origin(name)}={text[:60]!a}: is not known", hint=mend)
    return text
