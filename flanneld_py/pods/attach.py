"""ADD and DEL of a container's interface: what the plugin would do, with the same records and the same addresses.

`prepare` looks whether it can be done, and changes nothing; the task that it gives does it as a whole or not at all.
Whatever is unusual is left to the plugin: a container that was added before, a bridge of an earlier lease, a record
that cannot be read. So there is one place that mends and explains, and one that is fast.
"""

import os
import threading
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, Protocol

from flanneld_py.errors import FlannelError, KernelError
from flanneld_py.model.subnetenv import SubnetEnv, parse_subnet_env
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.pods import addresses, records, wiring
from flanneld_py.pods.exchange import NotForUs, Object, Question, encode_document
from flanneld_py.pods.network import (
    Attachment,
    Network,
    attachment_of,
    check_addressed_to,
    check_arguments,
    data_dir,
    delegate_config,
    network_of,
    subnet_file_name,
    version_of,
)
from flanneld_py.pods.place import PlaceError, open_directory
from flanneld_py.pods.result import result_of
from flanneld_py.pods.wiring import Container, UndoError, WiringError

TRY_AGAIN = 11
_DATA_MODE, _ADDRESS_MODE = 0o700, 0o755

Interface = IPv4Interface | IPv6Interface


class Unfinished(FlannelError):
    """Something is left of what was to be done, and a record of it, so that DEL can go on."""


@dataclass(frozen=True, slots=True)
class Handles:
    """What the launcher sent with its question: descriptors, closed by who took them."""

    sock: NetlinkSocket
    namespace: int
    own_namespace: int
    root: int
    conf4: int
    conf6: int


class Task(Protocol):
    def run(self, sock: NetlinkSocket) -> bytes:
        """What goes to standard output. NotForUs: it is not done, and nothing is left of it. Unfinished."""

    def undo(self, sock: NetlinkSocket) -> None:
        """As if it had not been done. Unfinished."""

    def close(self) -> None: ...


class Pods:
    """The containers of one node. `subnet_file`: where its daemon writes; `socket_name`: of the launcher's socket."""

    def __init__(self, subnet_file: Path, socket_name: str) -> None:
        self._subnet_file = subnet_file
        self._socket_name = socket_name
        self._bridges = threading.Lock()
        self._read: tuple[tuple[int, int, int], SubnetEnv] | None = None

    def prepare(self, question: Question, handles: Handles, sock: NetlinkSocket) -> Task:
        """Changes nothing but directories that are to hold state. NotForUs."""
        check_addressed_to(question, self._socket_name)
        check_arguments(question)
        if not _same_namespace(handles.own_namespace, "/proc/thread-self/ns/net"):
            raise NotForUs("the plugin runs in another network namespace than the daemon")
        container = Container(handles.sock, handles.namespace, handles.conf4, handles.conf6, question.ifname)
        make = {"ADD": self._prepare_add, "DEL": self._prepare_delete}.get(question.command)
        if make is None:
            raise NotForUs(f"{question.command} is not for us")
        attachment, version = attachment_of(question), version_of(question)
        try:
            directory = open_directory(handles.root, data_dir(question), _DATA_MODE)
        except PlaceError as error:
            raise NotForUs(str(error)) from None
        try:
            return make(_Case(question, attachment, version, container, handles.root, directory), sock)
        except BaseException:
            os.close(directory)
            raise

    def _prepare_add(self, case: "_Case", sock: NetlinkSocket) -> Task:
        env = self._env(case.question)
        network = network_of(delegate_config(case.question, env), case.version)
        network = replace(network, gso_max_size=env.gso_max_size or 0)
        if records.is_there(case.directory, case.attachment):
            raise NotForUs("there is a record of it already")
        try:
            if wiring.find(case.container.sock, case.container.ifname) != [None]:
                raise NotForUs("the container has such an interface already")
            wiring.check_host(sock, network)
            wiring.check_container(case.container)
            base = open_directory(case.root, network.address_dir, _ADDRESS_MODE)
        except (WiringError, FlannelError) as error:
            raise NotForUs(str(error)) from None
        return Add(
            case.attachment, network, case.question.netns, case.container, case.directory, base, bridges=self._bridges
        )

    def _prepare_delete(self, case: "_Case", sock: NetlinkSocket) -> Task:
        record = records.take(case.directory, case.attachment)
        try:
            network = network_of(record.config, case.version)
            base = open_directory(case.root, network.address_dir, _ADDRESS_MODE)
        except (NotForUs, PlaceError) as error:
            record.close()
            raise NotForUs(str(error)) from None
        return Delete(case.attachment, record, case.container, case.directory, base)

    def _env(self, question: Question) -> SubnetEnv:
        if subnet_file_name(question) != self._subnet_file.name:
            raise NotForUs("it is for another daemon")
        try:
            status = self._subnet_file.stat()
            # It is replaced as a whole, so that another content is another file.
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._read is None or self._read[0] != version:
                self._read = version, parse_subnet_env(self._subnet_file.read_text())[0]
            env = self._read[1]
        except (OSError, ValueError) as error:
            raise NotForUs(f"{self._subnet_file} cannot be read: {error}") from None
        if not env.networks or not env.subnets or env.mtu is None or env.ipmasq is None:
            raise NotForUs(f"{self._subnet_file} is not complete")
        return env


@dataclass(frozen=True, slots=True)
class _Case:
    """A question that may be for us. `root`, `directory`: descriptors of the host's root and of the records."""

    question: Question
    attachment: Attachment
    version: str
    container: Container
    root: int
    directory: int


@dataclass(slots=True)
class Add:
    """`directory`, `base`: descriptors of the directories of records and of addresses, the task's own.

    The record stays locked until the end, so that a DEL of the impatient comes after `undo`.
    """

    attachment: Attachment
    network: Network
    netns: str
    container: Container
    directory: int
    base: int
    bridges: threading.Lock
    host: str = ""
    """The outer end of the pair, once it is made."""
    record: records.Record | None = None

    def run(self, sock: NetlinkSocket) -> bytes:
        try:
            record = records.write(
                self.directory, self.attachment, self.network.config, self.netns, self.container.namespace
            )
        except OSError as error:
            raise NotForUs(f"the record cannot be written: {error}") from None
        try:
            document = self._connect(sock)
        except (PlaceError, WiringError, KernelError, NotForUs) as error:
            _remove(record)
            raise NotForUs(str(error)) from None
        except BaseException:
            record.close()
            raise
        self.record = record
        return encode_document(document)

    def _connect(self, sock: NetlinkSocket) -> Object:
        with addresses.locked(self.base, self.attachment.network) as files:
            reserved = files.reserve(self.attachment, self.network.ranges)
        try:
            wired = wiring.connect(sock, self.network, self.container, reserved, self.bridges)
        except UndoError as error:
            raise Unfinished(f"{self.attachment.ifname} could not be made: {error}") from error
        except BaseException:
            self._release()
            raise
        self.host = wired.host
        return result_of(self.network, self.netns, self.container.ifname, wired, reserved)

    def _release(self) -> None:
        try:
            with addresses.locked(self.base, self.attachment.network) as files:
                files.release(self.attachment)
        except PlaceError as error:
            raise Unfinished(f"the address of {self.attachment.container} is not released: {error}") from error

    def undo(self, sock: NetlinkSocket) -> None:
        if self.record is None:
            return
        try:
            wiring.remove_pair(sock, self.host)
            self._release()
            self.record.remove()
        except (WiringError, KernelError, OSError) as error:
            raise Unfinished(f"{self.host} is not removed: {error}") from error

    def close(self) -> None:
        if self.record is not None:
            self.record.close()
        os.close(self.directory)
        os.close(self.base)


@dataclass(slots=True)
class Delete:
    """`record` is locked until it is done, and gone then."""

    attachment: Attachment
    record: records.Record
    container: Container
    directory: int
    base: int

    def run(self, sock: NetlinkSocket) -> bytes:
        try:
            wiring.disconnect(self.container)
            with addresses.locked(self.base, self.attachment.network) as files:
                files.release(self.attachment)
            self.record.remove()
        except (WiringError, KernelError, PlaceError, OSError) as error:
            # DEL may be repeated, and the plugin's goes on where this one stopped.
            self.record.close()
            raise NotForUs(str(error)) from None
        return b""

    def undo(self, sock: NetlinkSocket) -> None:
        """There is nothing to undo: what is deleted is deleted, whoever hears of it."""

    def close(self) -> None:
        self.record.close()
        os.close(self.directory)
        os.close(self.base)


def error_document(error: Exception) -> bytes:
    details = "DEL undoes what is left; see the log of flanneld"
    document: dict[str, Any] = {"code": TRY_AGAIN, "msg": str(error), "details": details}
    return encode_document(document)


def _remove(record: records.Record) -> None:
    try:
        record.remove()
    except OSError as error:
        record.close()
        raise Unfinished(f"the record is not removed: {error.strerror}") from error


def _same_namespace(fd: int, path: str) -> bool:
    return os.path.samestat(os.fstat(fd), Path(path).stat())
