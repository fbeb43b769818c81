"""What the runtime asks: the environment and standard input, checked in the order of the CNI project's plugins."""

from cni_plugin import jsontext, result
from cni_plugin.jsontext import Object
from cni_plugin.result import CniError

_ATTACHMENT = frozenset(("ADD", "CHECK", "DEL"))
_ALL = _ATTACHMENT | {"GC", "STATUS"}
_REQUIRED = (
    ("CNI_CONTAINERID", _ATTACHMENT),
    ("CNI_NETNS", frozenset(("ADD", "CHECK"))),
    ("CNI_IFNAME", _ATTACHMENT),
    ("CNI_PATH", _ALL),
)
_SINCE = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}

_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_NAME = _FIRST | frozenset("_.-")
_MAX_IFNAME_BYTES = 15
"""IFNAMSIZ without the closing zero."""


class Environment:
    """The CNI_ variables. `environ` is the whole environment, as the bytes given; delegates get it too."""

    __slots__ = ("command", "container", "environ", "ifname", "netns", "path")

    def __init__(self, environ: dict[bytes, bytes]) -> None:
        def variable(name: str) -> str:
            return environ.get(name.encode(), b"").decode(errors="surrogateescape")

        self.environ = environ
        self.command = variable("CNI_COMMAND")
        self.container = variable("CNI_CONTAINERID")
        self.netns = variable("CNI_NETNS")
        self.ifname = variable("CNI_IFNAME")
        self.path = variable("CNI_PATH")

    @property
    def own_namespace_allowed(self) -> bool:
        return self.environ.get(b"CNI_NETNS_OVERRIDE", b"").upper() in (b"1", b"TRUE")


def parse_environment(environ: dict[bytes, bytes]) -> Environment:
    """The variables that the command needs are there and well formed. An unknown command passes: input comes first."""
    environment = Environment(environ)
    missing = []
    for name, commands in _REQUIRED:
        if environment.command not in commands:
            continue
        value = environ.get(name.encode(), b"").decode(errors="surrogateescape")
        if not value:
            missing.append(name)
        elif name == "CNI_CONTAINERID" and not is_name(value):
            raise CniError(result.BAD_ENVIRONMENT, "invalid characters in CNI_CONTAINERID", printable(value))
        elif name == "CNI_IFNAME" and (why := ifname_problem(value)):
            raise CniError(result.BAD_ENVIRONMENT, f"CNI_IFNAME is no interface name: {why}", printable(value))
    if missing:
        raise CniError(result.BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    return environment


class Request:
    """A command that may run: `config` has the network name and a version that we support."""

    __slots__ = ("config", "environment", "name", "version")

    def __init__(self, environment: Environment, config: Object, name: str, version: str) -> None:
        self.environment = environment
        self.config = config
        self.name = name
        self.version = version


def parse_request(environment: Environment, data: bytes) -> Request:
    """The environment's command with the network configuration from standard input."""
    try:
        config = jsontext.decode_object(data)
    except ValueError as error:
        raise CniError(result.BAD_JSON, f"the network configuration on standard input is not usable: {error}") from None
    name, version = config.get("name"), config.get("cniVersion", "")
    if name is not None and not isinstance(name, str):
        raise CniError(result.BAD_JSON, f"name must be a string, not {jsontext.kind(name)}")
    if not isinstance(version, str):
        raise CniError(result.BAD_JSON, f"cniVersion must be a string, not {jsontext.kind(version)}")
    if not name:
        raise CniError(result.BAD_CONFIG, "missing network name")
    if not is_name(name):
        raise CniError(result.BAD_CONFIG, "invalid characters found in network name", printable(name))
    _check_version(environment.command, version or "0.1.0")
    return Request(environment, config, name, version or "0.1.0")


def _check_version(command: str, version: str) -> None:
    since = _SINCE.get(command)
    if since is not None:
        numbers = _numbers(version)
        if numbers is None:
            raise CniError(result.BAD_JSON, f"cniVersion {printable(version)!a} is no version")
        if numbers < since:
            raise CniError(result.INCOMPATIBLE_VERSION, f"config version does not allow {command}")
    if version not in result.SUPPORTED:
        details = f"config is {printable(version)!a}, plugin supports {', '.join(result.SUPPORTED)}"
        raise CniError(result.INCOMPATIBLE_VERSION, "incompatible CNI versions", details)


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        return tuple(int(part) for part in parts)
    return None


def is_name(text: str) -> bool:
    """Whether the specification takes it as a container ID or a network name."""
    return text[:1] in _FIRST and _NAME.issuperset(text) and text != ""


def ifname_problem(text: str) -> str:
    """Why the kernel would not take it as the name of an interface; "" if it would."""
    if len(text.encode(errors="surrogateescape")) > _MAX_IFNAME_BYTES:
        return f"longer than {_MAX_IFNAME_BYTES} bytes"
    if text in (".", ".."):
        return "not a name"
    if any(char in "/:" or char.isspace() for char in text):
        return "it has a slash, a colon or a blank"
    return ""


def printable(text: str) -> str:
    """Foreign text for an error: of limited length, without what is no text."""
    return text[:200].encode(errors="replace").decode(errors="replace")
