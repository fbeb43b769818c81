"""A LabSpec as text: its record in JSON, and the options of the command line that make one."""

import re
from ipaddress import ip_network

from flanneld_py.errors import UsageError
from flanneld_py.lab.topology import Firewall, LabSpec, Option, PortMapping, Stack, Store, Underlay, Wiring
from flanneld_py.model.net import Net


def spec_to_json(spec: LabSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "nodes": spec.nodes,
        "pods": spec.pods,
        "stack": spec.stack.value,
        "underlay": spec.underlay.value,
        "backend": spec.backend,
        "backend_options": [list(pair) for pair in spec.backend_options],
        "networks": [str(net) for net in spec.networks],
        "store": spec.store.value,
        "wiring": spec.wiring.value,
        "firewall": spec.firewall.value,
        "published": [[one.pod, one.host, one.container] for one in spec.published],
        "go_nodes": list(spec.go_nodes),
        "go_binary": spec.go_binary,
        "daemon_flags": list(spec.daemon_flags),
        "manifest": spec.manifest,
        "images": list(spec.images),
    }


def spec_from_json(record: dict[str, object]) -> LabSpec:
    """The inverse of `spec_to_json`. KeyError, TypeError or ValueError: the record is not one."""
    fields = dict(record)
    fields["stack"] = Stack(fields["stack"])
    fields["underlay"] = Underlay(fields["underlay"])
    fields["store"] = Store(fields["store"])
    fields["wiring"] = Wiring(fields["wiring"])
    fields["firewall"] = Firewall(fields["firewall"])
    fields["published"] = tuple(PortMapping(*one) for one in fields["published"])  # type: ignore[attr-defined]
    fields["networks"] = tuple(ip_network(text) for text in _strings(fields["networks"]))
    fields["backend_options"] = tuple((key, value) for key, value in _pairs(fields["backend_options"]))
    fields["go_nodes"] = tuple(fields["go_nodes"])  # type: ignore[arg-type]
    fields["daemon_flags"] = tuple(_strings(fields["daemon_flags"]))
    fields["images"] = tuple(_strings(fields["images"]))
    return LabSpec(**fields)  # type: ignore[arg-type]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return [str(item) for item in value]


def _pairs(value: object) -> list[tuple[str, Option]]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return [(str(key), item) for key, item in value]


def parse_option(text: str) -> tuple[str, Option]:
    """`KEY=VALUE` of a backend option; numbers, true and false become JSON's, anything else is a string."""
    key, sep, value = text.partition("=")
    if not sep or not key:
        raise UsageError(f"--backend-option {text!r}: KEY=VALUE is wanted", hint="for example VNI=7")
    if value in ("true", "false"):
        return key, value == "true"
    return (key, int(value)) if re.fullmatch(r"-?\d+", value, re.ASCII) else (key, value)


def parse_mapping(text: str) -> PortMapping:
    """`POD:PORT` or `POD:HOSTPORT:PORT`."""
    pod, *ports = text.split(":")
    if not 1 <= len(ports) <= 2 or not all(port.isascii() and port.isdigit() for port in ports):
        raise UsageError(f"--publish {text!r}: POD:HOSTPORT:PORT is wanted", hint="for example pod1-1:8080:80")
    return PortMapping(pod, int(ports[0]), int(ports[-1]))


def parse_network(text: str) -> Net:
    try:
        return ip_network(text)
    except ValueError as err:
        raise UsageError(f"--network {text}: {err}", hint="for example 10.244.0.0/16") from None
