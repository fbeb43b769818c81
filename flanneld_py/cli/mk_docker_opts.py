"""`mk-docker-opts`: turns subnet.env into an environment file with options for dockerd.

Flags and output bytes are those of flannel's dist/mk-docker-opts.sh, which units and guides call. It runs before docker
at every boot, so it imports little.
"""

import getopt
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from flanneld_py.errors import FlannelError, UsageError
from flanneld_py.model.dotenv import is_name, parse_dotenv

USAGE = """\
mk-docker-opts [-f SUBNET-ENV] [-d DOCKER-ENV] [-i] [-c] [-m] [-k KEY]

Writes an environment file with options for dockerd, made from flanneld's subnet.env.
  -f FILE  read this; default /run/flannel/subnet.env
  -d FILE  write this; default /run/docker_opts.env
  -i       one variable for each option: DOCKER_OPT_MTU="--mtu=1450"
  -c       all options in one variable; without -i and -c: both
  -k KEY   name of that variable; default DOCKER_OPTS
  -m       leave --ip-masq out
"""

_OPTION = "DOCKER_OPT_"
_DOCKER_MASQUERADES = {"true": "false", "false": "true"}
"""By FLANNEL_IPMASQ: exactly one of the two hides the pods' addresses."""
_ROUTES = Path("/proc/net/route")
_RTF_GATEWAY = 0x2  # include/uapi/linux/route.h


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    source: str
    target: str
    individual: bool
    combined: bool
    masquerade: bool
    key: str


def parse_arguments(argv: Sequence[str]) -> Request | None:
    """None: help is asked for."""
    try:
        flags, rest = getopt.getopt(list(argv), "f:d:icmk:?h")
    except getopt.GetoptError as err:
        raise UsageError(f"mk-docker-opts: {err}", hint="-h lists the options") from None
    if rest:
        raise UsageError(f"mk-docker-opts: unexpected argument {rest[0]!a}", hint="-h lists the options")
    given = dict(flags)
    if given.keys() & {"-h", "-?"}:
        return None
    key = given.get("-k", "DOCKER_OPTS")
    if not is_name(key):
        raise UsageError(f"mk-docker-opts: -k {key!a}: is not the name of a variable", hint="such as DOCKER_OPTS")
    both = not given.keys() & {"-i", "-c"}
    return Request(
        source=given.get("-f", "/run/flannel/subnet.env"),
        target=given.get("-d", "/run/docker_opts.env"),
        individual=both or "-i" in given,
        combined=both or "-c" in given,
        masquerade="-m" not in given,
        key=key,
    )


def docker_environment(request: Request, variables: Mapping[str, str]) -> str:
    """The output file. `variables`: the environment, overridden by what subnet.env assigns, as after sourcing it."""
    options = {name: value for name, value in variables.items() if name.startswith(_OPTION)}
    if subnet := variables.get("FLANNEL_SUBNET"):
        options["DOCKER_OPT_BIP"] = f"--bip={subnet}"
    if mtu := variables.get("FLANNEL_MTU"):
        options["DOCKER_OPT_MTU"] = f"--mtu={mtu}"
    if (ipmasq := variables.get("FLANNEL_IPMASQ")) and request.masquerade:
        if ipmasq not in _DOCKER_MASQUERADES:
            raise FlannelError(f"{request.source}: FLANNEL_IPMASQ = {ipmasq!a}: is neither true nor false")
        options["DOCKER_OPT_IPMASQ"] = f"--ip-masq={_DOCKER_MASQUERADES[ipmasq]}"
    lines = [f'{name}="{options[name]}"\n' for name in sorted(options)] if request.individual else []
    if request.combined:
        # Two blanks after what was there and one before the first option: the bytes that the script writes.
        before = variables.get(request.key, "")
        joined = "".join(f" {options[name]}" for name in sorted(options))
        lines.append(f'{request.key}="{before + " " if before else ""}{joined}"\n')
    return "".join(lines)


def route_in_the_way(subnet: IPv4Network, table: str) -> str | None:
    """The line's meaning if `table` (text of /proc/net/route) sends exactly `subnet` to a gateway."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 8 or not int(columns[3], 16) & _RTF_GATEWAY:
            continue
        destination, gateway, mask = (_address(columns[i]) for i in (1, 2, 7))
        if IPv4Network(f"{destination}/{mask}") == subnet:
            return f"{subnet} via {gateway} dev {columns[0]}"
    return None


def _address(column: str) -> str:
    """/proc/net/route prints the address's four bytes as one number of the host's byte order."""
    return ".".join(str(byte) for byte in int(column, 16).to_bytes(4, sys.byteorder))


def _read(path: str) -> str | None:
    """None: there is no such file, which is no error, since docker can do without."""
    if not Path(path).is_file():
        return None
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as err:
        raise FlannelError(f"cannot read {path}: {err.strerror}") from None


def run(argv: Sequence[str], environ: Mapping[str, str], *, routes: Path = _ROUTES) -> int:
    """The exit code. FlannelError: what kept the file from being written, or docker from using it."""
    request = parse_arguments(argv)
    if request is None:
        print(USAGE, end="", file=sys.stderr)
        return 1
    text = _read(request.source)
    if text is None:
        print(f"mk-docker-opts: there is no {request.source}: no options from flanneld", file=sys.stderr)
    assigned, problems = parse_dotenv(text or "")
    for problem in problems:
        print(f"mk-docker-opts: {request.source}: {problem}", file=sys.stderr)
    variables = {**environ, **assigned}
    subnet = _subnet(variables.get("FLANNEL_SUBNET"), request.source)
    try:
        text = docker_environment(request, variables)
        Path(request.target).write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as err:
        raise FlannelError(f"cannot write {request.target}: {err.strerror}", hint="choose another with -d") from None
    if subnet is not None and routes.is_file():
        route = route_in_the_way(subnet, routes.read_text(encoding="ascii"))
        if route is not None:
            raise FlannelError(f"docker cannot use {subnet}: there is a route {route}", hint=f"ip route del {route}")
    return 0


def _subnet(text: str | None, source: str) -> IPv4Network | None:
    if not text:
        return None
    try:
        return IPv4Interface(text).network
    except ValueError:
        raise FlannelError(f"{source}: FLANNEL_SUBNET = {text!a}: is not an address with a length") from None


def main() -> int:
    try:
        return run(sys.argv[1:], os.environ)
    except FlannelError as err:
        print(err if str(err).startswith("mk-docker-opts") else f"mk-docker-opts: {err}", file=sys.stderr)
        return 1
