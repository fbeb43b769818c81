"""Addresses in the files of the plugin host-local, so that it and we may take turns on one node.

For each network a directory; in it for each address a file that is called like it and holds `container CR LF
interface`, for each range the address that was given last, and `lock`, held by whoever changes anything
(plugins/ipam/host-local/backend/disk of the CNI project's plugins).
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from flanneld_py.model.net import Addr, Net, first_address
from flanneld_py.pods.network import Attachment
from flanneld_py.pods.place import PlaceError, make_directory

LOCK = "lock"
LAST = "last_reserved_ip."
LOCK_PATIENCE_S = 10.0
_LOCK_POLL_S = 0.001
_MAX_BYTES = 4096
_FILE_MODE, _DIRECTORY_MODE, _LOCK_MODE = 0o644, 0o755, 0o750
_NEW = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

Interface = IPv4Interface | IPv6Interface


class Held(PlaceError):
    """The attachment has an address already, which no second one may join."""


class Exhausted(PlaceError):
    """No address of a range is free."""


class AddressFiles:
    """One network's directory, locked. Its descriptor is closed by `locked`."""

    def __init__(self, directory: int) -> None:
        self._directory = directory

    def reserve(self, attachment: Attachment, ranges: tuple[Net, ...]) -> list[Interface]:
        """One address of each range, with its length; after an error none is reserved.

        As host-local does it: the one after the last that was given, and never the first, which is the gateway's.
        """
        names = self._names()
        if self._of(attachment, names):
            raise Held(f"{attachment.container} has an address of {attachment.network} already")
        taken = set(names)
        found: list[Interface] = []
        try:
            for number, net in enumerate(ranges):
                address = self._choose(net, number, taken)
                self._write(str(address), f"{attachment.container}\r\n{attachment.ifname}", os.O_EXCL)
                found.append(ip_interface((address, net.prefixlen)))
                self._write(f"{LAST}{number}", str(address), os.O_TRUNC)
        except BaseException as error:
            for one in found:
                self._remove(str(one.ip))
            if isinstance(error, OSError):
                raise PlaceError(f"cannot write an address file: {error.strerror}") from error
            raise
        return found

    def release(self, attachment: Attachment) -> None:
        """The attachment has none any more. PlaceError: the file system refuses."""
        try:
            for name in self._of(attachment, self._names()):
                self._remove(name)
        except OSError as error:
            raise PlaceError(f"cannot remove an address file: {error.strerror}") from error

    def _names(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return [entry.name for entry in entries]

    def _of(self, attachment: Attachment, names: list[str]) -> list[str]:
        """The attachment's files. host-local before 0.8 did not write the interface; that counts if nothing else is."""
        exact = f"{attachment.container}\r\n{attachment.ifname}".encode()
        legacy = attachment.container.encode()
        held: dict[bytes, list[str]] = {exact: [], legacy: []}
        for name in names:
            content = self._read(name) if _is_address(name) else b""
            if content in held:
                held[content].append(name)
        return held[exact] or held[legacy]

    def _choose(self, net: Net, number: int, taken: set[str]) -> Addr:
        """The next free one, from behind the last that was given, once around."""
        gateway = first_address(net)
        first, last = int(gateway), int(net.broadcast_address) - (1 if net.version == 4 else 0)
        before = self._last(number)
        start = int(before) if before is not None and before in net and first <= int(before) <= last else last
        count = last - first + 1
        for step in range(1, count + 1):
            address = net.network_address + (first - int(net.network_address) + (start - first + step) % count)
            if address != gateway and str(address) not in taken:
                return address
        raise Exhausted(f"no address of {net} is free")

    def _last(self, number: int) -> Addr | None:
        try:
            return ip_address(self._read(f"{LAST}{number}").decode())
        except ValueError:
            return None

    def _read(self, name: str) -> bytes:
        """Without blanks around it; b"" for what cannot be read, which host-local passes over too."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._directory)
        except OSError:
            return b""
        try:
            return os.read(fd, _MAX_BYTES).strip()
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _write(self, name: str, text: str, how: int) -> None:
        fd = os.open(name, _NEW | how, _FILE_MODE, dir_fd=self._directory)
        try:
            os.fchmod(fd, _FILE_MODE)
            os.write(fd, text.encode())
        except OSError:
            if how & os.O_EXCL:
                self._remove(name)
            raise
        finally:
            os.close(fd)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory)


@contextlib.contextmanager
def locked(base: int, network: str) -> Iterator[AddressFiles]:
    """The network's files below the directory `base`, with host-local's lock held. PlaceError: they cannot be had."""
    directory = lock = -1
    try:
        make_directory(base, network, _DIRECTORY_MODE)
        directory = os.open(network, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
        lock = _open_lock(directory)
        _wait_for(lock)
    except OSError as error:
        for fd in (lock, directory):
            if fd >= 0:
                os.close(fd)
        raise PlaceError(f"cannot lock the addresses of {network}: {error.strerror}") from error
    try:
        yield AddressFiles(directory)
    finally:
        os.close(lock)
        os.close(directory)


def _open_lock(directory: int) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(LOCK, flags, dir_fd=directory)
    except FileNotFoundError:
        return os.open(LOCK, flags | os.O_CREAT, _LOCK_MODE, dir_fd=directory)


def _wait_for(lock: int) -> None:
    """Whoever holds the lock holds it for moments; a hung one must not hang us. BlockingIOError."""
    end = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_LOCK_POLL_S)
        else:
            return


def _is_address(name: str) -> bool:
    return name[:1].isalnum() and not name.startswith((LAST, LOCK))
