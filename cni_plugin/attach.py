"""ADD: connect a container's interface, or leave everything as it was."""

import posix

from cni_plugin import delegate, links, netconf, node, result, scratch
from cni_plugin.delegate import say
from cni_plugin.detach import release
from cni_plugin.jsontext import Object
from cni_plugin.netconf import NetConf
from cni_plugin.request import Request
from cni_plugin.result import CniError
from cni_plugin.scratch import Attachment, Record
from cni_plugin.subnetenv import SubnetEnv


def add(request: Request) -> Object:
    """The delegate's result. After a CniError nothing of this ADD is left, or what is left has a record for DEL."""
    conf = NetConf(request)
    env = node.subnet_env(conf.subnet_file)
    config = netconf.delegate_config(conf, env)
    for plugin in (config["type"], conf.ipam.get("type", "host-local")):
        delegate.find(str(plugin), request.environment.path)
    asked = request.environment
    attachment = Attachment(request.name, asked.container, asked.ifname)
    directory = netconf.data_dir(request)
    there = links.exists(asked.netns, asked.ifname)
    if there:
        raise CniError(
            result.ATTACHED,
            f"the container has an interface {asked.ifname} already",
            "it stays as it is; DEL must come before another ADD",
        )
    _release_earlier(request, directory, attachment, there)
    bridge = str(config.get("bridge") or "cni0")
    if config["type"] == "bridge" and links.give_hardware_address(bridge):
        # With its first port, before it had an address, it lost its own; bridge 1.1 then fails at every ADD.
        say(f"{bridge} had no hardware address, left so by an ADD that failed: it gets one")
    try:
        return _attach(request, directory, attachment, config, there)
    except CniError as error:
        stale = _stale_addresses(config, env)
        if not stale:
            raise
        if config.get("forceAddress") is None and not _ports(bridge):
            # Nobody uses the old address: no pod hangs on the bridge.
            say(f"{bridge} has {', '.join(stale)} of an earlier lease and no ports: it gets the present one's")
            return _attach(request, directory, attachment, config | {"forceAddress": True}, there)
        raise _stale_error(bridge, stale, env, error) from error


def _attach(request: Request, directory: str, attachment: Attachment, config: Object, there: bool | None) -> Object:
    record = scratch.write(directory, attachment, config, request.environment.netns)
    try:
        plugin, output = delegate.run("ADD", config, request.environment, record)
        answer = result.parse_delegate_result(plugin, output, request.version)
    except CniError as error:
        raise _undo(request, attachment, record, error, there) from None
    record.close()
    return answer


def _undo(request: Request, attachment: Attachment, record: Record, error: CniError, there: bool | None) -> CniError:
    """The error to report, after the delegate's DEL."""
    # An interface that we could not look for before may be another's: then only the address is given back here.
    netns = request.environment.netns if there is False else ""
    try:
        release(record, record.config or {}, request.environment, attachment, netns, keep=there is None)
    except CniError as undo:
        if str(undo) == str(error):
            # DEL stops where ADD did (the configuration cannot be read, say): it never had anything to undo.
            record.remove()
            return error
        record.close()
        return error.with_details(f"undoing it failed too, DEL will try again: {undo}")
    return error


def _release_earlier(request: Request, directory: str, attachment: Attachment, there: bool | None) -> None:
    """What an ADD left that was killed, or whose container is gone, is released: its address would block this one."""
    record = scratch.take(directory, attachment)
    if record is None:
        return
    if there is None and record.netns:
        record.close()
        raise CniError(result.ATTACHED, f"{attachment} is attached already", "DEL must come before another ADD")
    config = record.config or netconf.release_config(NetConf(request), None)
    say(f"{attachment} was added before and not deleted: releasing what that left")
    # What was not there before we waited for an orphaned delegate to end, is its work.
    netns = request.environment.netns if there is False else ""
    release(record, config, request.environment, attachment, netns)


def _stale_addresses(config: Object, env: SubnetEnv) -> list[str]:
    """The bridge's IPv4 addresses, if it has some and the one that this lease calls for is not among them.

    The bridge plugin refuses only in IPv4; in IPv6 an interface has many addresses.
    """
    wanted = [net.gateway for net in env.subnets if net.version == 4]
    if config["type"] != "bridge" or not (config.get("isGateway") or config.get("isDefaultGateway")) or not wanted:
        return []
    present = [one for one in links.addresses(str(config.get("bridge") or "cni0")) if ":" not in one]
    return [] if wanted[0] in present else present


def _stale_error(bridge: str, stale: list[str], env: SubnetEnv, error: CniError) -> CniError:
    subnet = next(net.text for net in env.subnets if net.version == 4)
    return CniError(
        result.BRIDGE_ADDRESS,
        f"{bridge} has {', '.join(stale)} of an earlier lease; this node's subnet is now {subnet}",
        f"delete the pods of the earlier lease, or set forceAddress to true under delegate (they lose their gateway), "
        f"or run: ip addr del {stale[0]} dev {bridge} ({error})",
    )


def _ports(bridge: str) -> list[str]:
    try:
        return posix.listdir(f"/sys/class/net/{bridge}/brif")
    except (OSError, ValueError):
        return []
