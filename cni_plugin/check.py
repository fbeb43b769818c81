"""CHECK and STATUS: is an attachment still as ADD left it, and would ADD work now."""

from cni_plugin import delegate, links, netconf, node, result, scratch
from cni_plugin.jsontext import Object
from cni_plugin.netconf import NetConf
from cni_plugin.request import Request
from cni_plugin.result import CniError
from cni_plugin.scratch import Attachment, Record


def check(request: Request) -> None:
    """CniError if the record, the interface, its addresses or its routes are not as ADD's result has them."""
    conf = NetConf(request)
    asked = request.environment
    attachment = Attachment(request.name, asked.container, asked.ifname)
    previous = request.config.get("prevResult")
    if not isinstance(previous, dict):
        raise CniError(result.BAD_CONFIG, "Required prevResult missing", "the runtime must give the result of ADD")
    record = _record(request, attachment)
    try:
        if record.config is None:
            raise CniError(result.SCRATCH, f"the record {record.path} of {attachment} cannot be read", record.why)
        if links.exists(asked.netns, asked.ifname) is False:
            raise _difference(f"the container has no interface {asked.ifname}")
        addresses = result.addresses_of(previous, asked.ifname)
        if not addresses:
            raise _difference(f"the result of ADD has no address for {asked.ifname}")
        _check_lease(conf, record.config, addresses)
        config = record.config | {"cniVersion": request.version, "prevResult": result.with_gateways(previous)}
        delegate.run("CHECK", config, asked, record)
    finally:
        record.close()


def status(request: Request) -> None:
    """CniError if an ADD would fail now: 50, or 51 if what is connected already suffers too."""
    conf = NetConf(request)
    try:
        env = node.subnet_env(conf.subnet_file)
    except CniError as error:
        raise CniError(result.NOT_AVAILABLE, error.message, error.details) from None
    failed = node.daemon_failed(conf.subnet_file)
    if failed:
        raise CniError(
            result.LIMITED_CONNECTIVITY, "flanneld has given up: nobody keeps the network of this node", failed
        )
    config = netconf.delegate_config(conf, env)
    try:
        delegate.run("STATUS", config, request.environment)
    except CniError as error:
        if error.code == result.INCOMPATIBLE_VERSION:
            raise CniError(result.NOT_AVAILABLE, error.message, error.details) from None
        if not delegate.lacks_verb(error):
            code = error.code if error.code == result.LIMITED_CONNECTIVITY else result.NOT_AVAILABLE
            raise CniError(code, error.message, error.details) from None


def _record(request: Request, attachment: Attachment) -> Record:
    directory = netconf.data_dir(request)
    record = scratch.take(directory, attachment) or scratch.take_go(directory, attachment.container, request.name)
    if record is None:
        raise _difference(f"there is no record of {attachment} in {directory}")
    return record


def _check_lease(conf: NetConf, config: Object, addresses: list[str]) -> None:
    """The node may have another subnet by now; then nobody routes to the addresses of the one before."""
    ipam = config.get("ipam")
    if not isinstance(ipam, dict) or ipam.get("type") != "host-local" or "subnet" in ipam:
        return
    try:
        subnets = node.subnet_env(conf.subnet_file).subnets
    except CniError:
        return  # the daemon is not ready; what is connected stays connected
    lost = [one for one in addresses if not any(one in net for net in subnets)]
    if lost:
        now = ", ".join(net.text for net in subnets)
        raise _difference(f"{', '.join(lost)} is not in the node's subnet, which is now {now}")


def _difference(what: str) -> CniError:
    return CniError(result.NOT_AS_ADDED, what, "delete the pod; its successor gets a working interface")
