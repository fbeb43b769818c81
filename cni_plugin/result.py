"""What the plugin answers: the versions and codes of the CNI specification, errors, and results of delegates."""

from cni_plugin import jsontext
from cni_plugin.jsontext import Object

VERSION = "0.1.0"
SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]

INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
BAD_ENVIRONMENT = 4
IO_FAILURE = 5
BAD_JSON = 6
BAD_CONFIG = 7
OWN_NAMESPACE = 8
"""Not in the specification; the plugins of the CNI project use it."""
TRY_AGAIN = 11
NOT_AVAILABLE = 50
LIMITED_CONNECTIVITY = 51

SUBNET_FILE = 100
"""Codes from here on are ours. The file that flanneld writes holds something that cannot be used."""
DELEGATE = 101
"""The delegate is missing, crashed, or answered with something that is no CNI answer."""
SCRATCH = 102
"""Our record of an attachment cannot be read or written."""
ATTACHED = 103
"""The interface is there already."""
NOT_AS_ADDED = 104
"""CHECK found a difference."""
BRIDGE_ADDRESS = 105
"""The bridge has the address of an earlier lease."""
INTERNAL = 999

MAX_DETAIL = 2000
"""Characters of foreign text that an error repeats."""


class CniError(Exception):
    """Ends the command; `as_json` goes to standard output. `details` says why, and what mends it."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}; {self.details}" if self.details else self.message

    def with_details(self, more: str) -> "CniError":
        """The same error that says `more` as well."""
        return CniError(self.code, self.message, f"{self.details}; {more}" if self.details else more)

    def as_json(self, version: str) -> Object:
        answer: Object = {"cniVersion": version, "code": self.code, "msg": self.message}
        return answer | {"details": self.details} if self.details else answer


def version_answer(asked: object) -> Object:
    """The answer to VERSION: the version that was asked with, if we know it."""
    return {"cniVersion": asked if asked in SUPPORTED else NEWEST, "supportedVersions": list(SUPPORTED)}


def about() -> str:
    return f"CNI plugin flannel {VERSION}\nCNI protocol versions supported: {', '.join(SUPPORTED)}\n"


def parse_delegate_result(plugin: str, output: bytes, version: str) -> Object:
    """What a delegate printed on success. It was asked in `version`, so it answered in it; it may leave that out."""
    try:
        result = jsontext.decode_object(output)
    except ValueError as error:
        raise CniError(DELEGATE, f"the result of plugin {plugin!a} is not usable: {error}", excerpt(output)) from None
    if not result.get("cniVersion"):
        result["cniVersion"] = version
    return result


def parse_delegate_error(plugin: str, output: bytes, diagnostics: bytes, ended: str) -> CniError:
    """The error of a delegate that failed, as it gave it; if it gave none, what it left on standard error."""
    try:
        error = jsontext.decode_object(output)
    except ValueError:
        error = {}
    code, message, details = error.get("code"), error.get("msg"), error.get("details", "")
    if isinstance(code, int) and isinstance(message, str) and isinstance(details, str) and (code or message):
        return CniError(code, message, details)
    said = excerpt(diagnostics) or excerpt(output) or "it said nothing"
    return CniError(DELEGATE, f"plugin {plugin!a} {ended}", said)


def excerpt(data: bytes) -> str:
    """The end of foreign output, on one line."""
    return " ".join(data[-MAX_DETAIL:].decode(errors="replace").split())


def list_of_objects(value: object) -> list[Object]:
    """The objects in a list of a result; whatever else stands there is of no use to us."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def family(text: object) -> int:
    """4 or 6 for an address or network in text."""
    return 6 if isinstance(text, str) and ":" in text else 4


def with_gateways(result: Object) -> Object:
    """The result whose routes all name their gateway; one for which there is none is left out.

    bridge up to 1.2 looks for a route without a gateway in vain: it has given such a route the gateway of the first
    address of the same family when it made it (containernetworking/plugins, pull request 887).
    """
    gateways = {family(one["gateway"]): one["gateway"] for one in reversed(list_of_objects(result.get("ips")))
                if one.get("gateway")}  # fmt: skip
    routes = []
    for route in list_of_objects(result.get("routes")):
        gateway = route.get("gw") or gateways.get(family(route.get("dst")))
        if gateway:
            routes.append(route | {"gw": gateway})
    return result | {"routes": routes} if "routes" in result else result


def addresses_of(result: Object, ifname: str) -> list[str]:
    """The addresses, with length, that the result gives to the container's interface."""
    interfaces = list_of_objects(result.get("interfaces"))
    found = []
    for one in list_of_objects(result.get("ips")):
        index, address = one.get("interface"), one.get("address")
        holder: Object = {"name": ifname, "sandbox": True}
        if isinstance(index, int):
            holder = interfaces[index] if 0 <= index < len(interfaces) else {}
        if holder.get("name") == ifname and holder.get("sandbox") and isinstance(address, str):
            found.append(address)
    return found
