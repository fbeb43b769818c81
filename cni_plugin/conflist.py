"""The configuration list that a runtime loads: what makes one usable, and which others are in its way; sans-I/O."""

import json
from dataclasses import dataclass
from typing import Any

from cni_plugin import netconf, request, result

FILE_NAME = "10-flannel.conflist"
LOADED_SUFFIXES = (".conf", ".conflist", ".json")
"""containerd and CRI-O load files with these endings, in the order of their names' bytes."""

DEFAULT = """\
{
  "name": "cbr0",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"""
"""1.0.0 is the newest version that the plugins of Debian 12 support too."""


class ConflistError(Exception):
    """A configuration list that no pod could be connected with."""


@dataclass(frozen=True)
class Conflist:
    """`plugins`: all that must be in the runtime's directories, delegates included, flannel itself left out."""

    name: str
    versions: tuple[str, ...]
    plugins: tuple[str, ...]
    data_dirs: tuple[str, ...]


def parse_conflist(text: bytes) -> Conflist:
    """ConflistError with the reason if a runtime, or our plugin, would refuse it."""
    content = _object(_decode(text), "the file")
    name = content.get("name")
    if not isinstance(name, str) or not request.is_name(name):
        raise ConflistError(f"name must be letters, digits and _.- after a letter or digit, not {name!a:.100}")
    plugins = content.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ConflistError("plugins must be a list with a plugin in it")
    needed: list[str] = []
    data_dirs: list[str] = []
    for number, value in enumerate(plugins):
        plugin = _object(value, f"plugins[{number}]")
        kind = plugin.get("type")
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise ConflistError(f"plugins[{number}].type must be the name of a plugin, not {kind!a:.100}")
        if kind == netconf.TYPE:
            if number:
                raise ConflistError(
                    f"plugins[{number}]: flannel must be the first plugin, the others extend its result"
                )
            needed += _delegates(plugin, name)
            data_dirs.append(plugin.get("dataDir") or netconf.DATA_DIR)
        else:
            needed.append(kind)
    if not data_dirs:
        raise ConflistError("there is no plugin of the type flannel in it")
    return Conflist(name, _versions(content), tuple(dict.fromkeys(needed)), tuple(data_dirs))


def rivals(files: dict[str, bytes | None], directories: set[str], ours: str, network: str) -> list[str]:
    """One line for each thing in the configuration directory that keeps a runtime from `ours`. None: cannot be read."""
    lines = []
    for name in sorted((name for name in files if name.endswith(LOADED_SUFFIXES)), key=str.encode):
        if name == ours:
            continue
        problem, other = _problem(files[name])
        before = name.encode() < ours.encode()
        if before and problem:
            lines.append(
                f"{name} comes before {ours} and cannot be used ({problem}): containerd then loads nothing at all"
            )
        elif before:
            lines.append(f"{name} (network {other!a}) comes before {ours}: runtimes take the first file, not ours")
        elif other == network:
            lines.append(f"{name} is for the network {other!a} too")
    if network in directories:
        lines.append(f"the directory {network}/ has the network's name: runtimes add the plugins in it to this network")
    return lines


def _problem(text: bytes | None) -> tuple[str, str]:
    """(why no runtime can use it, its network's name)."""
    if text is None:
        return "it cannot be read", ""
    try:
        content = _object(_decode(text), "it")
    except ConflistError as error:
        return str(error), ""
    name = content.get("name")
    if not isinstance(name, str) or not name:
        return "it has no name", ""
    if not content.get("plugins") and not content.get("type"):
        return "it has no plugins", name
    return "", name


def _delegates(plugin: dict[str, Any], network: str) -> list[str]:
    """The plugins that flannel calls, as it reads its own configuration."""
    environment = request.Environment({b"CNI_COMMAND": b"ADD"})
    try:
        conf = netconf.NetConf(request.Request(environment, plugin, network, result.NEWEST))
    except result.CniError as error:
        raise ConflistError(f"plugins[0]: {error}") from None
    return [str(conf.delegate.get("type", "bridge")), str(conf.ipam.get("type", "host-local"))]


def _versions(content: dict[str, Any]) -> tuple[str, ...]:
    """cniVersion, then those of cniVersions, of which a runtime takes the highest that it knows."""
    several = content.get("cniVersions", [])
    if not isinstance(several, list):
        raise ConflistError("cniVersions must be a list")
    versions = [content.get("cniVersion", "0.1.0"), *several]
    for version in versions:
        if version not in result.SUPPORTED:
            raise ConflistError(f"cniVersion {version!a:.100} is not one of {', '.join(result.SUPPORTED)}")
    return tuple(dict.fromkeys(versions))


def _decode(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConflistError(f"not JSON: {error}") from None


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConflistError(f"{what} must be a JSON object")
    return value
