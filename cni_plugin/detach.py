"""DEL: nothing of an attachment is left, however little is known of it."""

from cni_plugin import delegate, netconf, node, scratch
from cni_plugin.delegate import say
from cni_plugin.jsontext import Object
from cni_plugin.netconf import NetConf
from cni_plugin.request import Environment, Request
from cni_plugin.result import CniError
from cni_plugin.scratch import Attachment, Record
from cni_plugin.subnetenv import SubnetEnv


def delete(request: Request) -> None:
    """Nothing of the attachment is left, or CniError and the record is kept, so that a later DEL can do it."""
    asked = request.environment
    attachment = Attachment(request.name, asked.container, asked.ifname)
    directory = netconf.data_dir(request)
    netns = own_namespace_spared(asked)
    record = scratch.take(directory, attachment) or scratch.take_go(directory, asked.container, request.name)
    if record is None:
        _release_unrecorded(request, attachment)
        return
    config = record.config
    if config is None:
        say(f"the record {record.path} cannot be read ({record.why}): releasing by the present configuration")
        config = present_config(request)
    release(record, config, asked, attachment, netns or record.netns)


def release(
    record: Record, config: Object, asked: Environment, attachment: Attachment, netns: str, *, keep: bool = False
) -> None:
    """The delegate's DEL has succeeded, and then the record is removed, unless `keep`. CniError: it is still there."""
    delegate.run(
        "DEL",
        config,
        asked,
        record,
        CNI_CONTAINERID=attachment.container,
        CNI_IFNAME=attachment.ifname,
        CNI_NETNS=netns,
    )
    if keep:
        record.close()
    else:
        record.remove()


def own_namespace_spared(asked: Environment) -> str:
    """CNI_NETNS; "" if that is our own namespace, whose interfaces are no container's: only addresses are released."""
    namespace = scratch.namespace_id(asked.netns) if asked.netns else []
    if namespace and namespace == scratch.namespace_id("/proc/self/ns/net") and not asked.own_namespace_allowed:
        say("CNI_NETNS is the plugin's own namespace: no interface is removed, only the address is released")
        return ""
    return asked.netns


def present_config(request: Request) -> Object:
    """What the delegate would get now, so far as it is known."""
    conf = NetConf(request)
    env: SubnetEnv | None = None
    try:
        env = node.subnet_env(conf.subnet_file)
    except CniError as error:
        say(str(error))
    return netconf.release_config(conf, env)


def _release_unrecorded(request: Request, attachment: Attachment) -> None:
    """Releases an address whose record was lost. There mostly is none: DEL comes more than once, and without an ADD.

    The namespace is left alone, since an interface without a record may be another plugin's. DEL is best effort: what
    goes wrong here is only said.
    """
    try:
        config = present_config(request)
        asked = request.environment
        release(Record("", -1), config, asked, attachment, "", keep=True)
    except CniError as error:
        say(f"{attachment} has no record, and a look for an address failed: {error}")
