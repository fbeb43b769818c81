"""GC: of the attachments of a network, only those that the runtime names are left."""

from cni_plugin import addressfiles, delegate, netconf, result, scratch
from cni_plugin.detach import present_config, release
from cni_plugin.jsontext import Object, kind
from cni_plugin.request import Request
from cni_plugin.result import CniError
from cni_plugin.scratch import Attachment, Record

_VALID_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The second is what drafts of the specification had; libcni gives both."""


def collect(request: Request) -> None:
    """Only attachments that the runtime names are left. A CniError tells what could not be removed, after all else."""
    valid = _valid_attachments(request.config)
    failures: list[str] = []
    if valid is not None:
        _collect_recorded(request, valid, failures)
        _collect_go(request, {container for container, _ in valid}, failures)
        _collect_addresses(request, valid, failures)
    config = present_config(request)
    keys = {key: value for key, value in request.config.items() if key in _VALID_KEYS}
    try:
        delegate.run("GC", config | keys, request.environment)
    except CniError as error:
        if not delegate.lacks_verb(error):
            failures.append(str(error))
    if failures:
        raise CniError(result.INTERNAL, f"{len(failures)} of the steps of GC failed", "; ".join(failures))


def _valid_attachments(config: Object) -> set[tuple[str, str]] | None:
    """(container, interface) of each. None: the runtime gave no list, which must not be taken for an empty one."""
    key = next((key for key in _VALID_KEYS if key in config), None)
    if key is None:
        return None
    given = config[key]
    if given is None:
        given = []
    if not isinstance(given, list):
        raise CniError(result.BAD_CONFIG, f"{key} must be a list, not {kind(given)}")
    found = set()
    for number, one in enumerate(given):
        container, ifname = (one.get("containerID"), one.get("ifname")) if isinstance(one, dict) else (None, None)
        if not isinstance(container, str) or not isinstance(ifname, str):
            raise CniError(result.BAD_CONFIG, f"{key}[{number}] must have the strings containerID and ifname")
        found.add((container, ifname))
    return found


def _collect_recorded(request: Request, valid: set[tuple[str, str]], failures: list[str]) -> None:
    directory = netconf.data_dir(request)
    for attachment in scratch.recorded(directory, request.name):
        if (attachment.container, attachment.ifname) in valid:
            continue
        try:
            record = scratch.take(directory, attachment)
            if record is not None:
                config = record.config or present_config(request)
                release(record, config, request.environment, attachment, record.netns)
        except CniError as error:
            failures.append(f"{attachment}: {error}")


def _collect_go(request: Request, containers: set[str], failures: list[str]) -> None:
    """The Go plugin's records name no interface; host-local's do, so further addresses are released after this."""
    directory = netconf.data_dir(request)
    for container in scratch.recorded_go(directory):
        if container in containers:
            continue
        try:
            record = scratch.take_go(directory, container, request.name)
            if record is not None and record.config is not None and "name" in record.config:
                release(record, record.config, request.environment, Attachment(request.name, container, "eth0"), "")
        except CniError as error:
            failures.append(f"container {container}: {error}")


def _collect_addresses(request: Request, valid: set[tuple[str, str]], failures: list[str]) -> None:
    config = present_config(request)
    ipam = config["ipam"]
    if not isinstance(ipam, dict) or ipam.get("type") != "host-local":
        return
    for container, ifname in addressfiles.holders(ipam.get("dataDir"), request.name):
        if (container, ifname) in valid or (not ifname and container in {one for one, _ in valid}):
            continue
        attachment = Attachment(request.name, container, ifname or "eth0")
        try:
            release(Record("", -1), config, request.environment, attachment, "", keep=True)
        except CniError as error:
            failures.append(f"{attachment}: {error}")
