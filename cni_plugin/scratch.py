"""What DEL needs to know, written before ADD lets the delegate act, and removed once the delegate's DEL succeeded.

One file for each attachment (network, container, interface) in the data directory, locked as long as something acts on
the attachment. The delegate inherits the lock: when this process is killed in the middle, whoever comes next waits for
the orphaned delegate. The Go plugin's files are named after the container alone; no container ID has an @, so that both
live in one directory.

The file is renamed into place, but not synced, which would cost more than all the rest of ADD: a power failure can
leave it empty, and so can others; DEL then does without it (`detach`).
"""

import posix
import time
from errno import EACCES, EAGAIN, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from fcntl import LOCK_EX, LOCK_NB, flock

from cni_plugin import jsontext, result
from cni_plugin.jsontext import Object
from cni_plugin.result import CniError

MAX_BYTES = 8 << 20
LOCK_DEADLINE_S = 60.0
LOCK_POLL_S = 0.02

_NONE_THERE = (ENOENT, ENOTDIR, ENAMETOOLONG)


class Attachment:
    """What the specification keys state by."""

    __slots__ = ("container", "ifname", "network")

    def __init__(self, network: str, container: str, ifname: str) -> None:
        self.network = network
        self.container = container
        self.ifname = ifname

    def __str__(self) -> str:
        return f"interface {self.ifname} of container {self.container}"

    @property
    def file_name(self) -> str:
        # Neither of the first two can hold an @ or begin with a dot; the third may.
        return f"{self.network}@{self.container}@{self.ifname}"


class Record:
    """An attachment's file, open and locked. `config`: the delegate's; None if the file cannot be understood (`why`).

    `netns`: the path at ADD, if the same namespace is still there, else "". `go`: written by the Go plugin.
    """

    __slots__ = ("config", "fd", "go", "netns", "path", "why")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.config: Object | None = None
        self.netns = ""
        self.go = False
        self.why = ""

    def remove(self) -> None:
        """The file is gone, and the lock too. CniError if the file system refuses."""
        try:
            posix.unlink(self.path)
        except OSError as error:
            # Nobody else makes directories here; one that lies in the way of a file of the Go plugin is left alone.
            if error.errno not in (*_NONE_THERE, EISDIR):
                raise _refused("remove", self.path, error) from None
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1


def write(directory: str, attachment: Attachment, config: Object, netns: str) -> Record:
    """The record of an attachment that is about to be made. CniError if it cannot be written; then nothing is left."""
    path, temporary = _paths(directory, attachment)
    content: Object = {"delegate": config, "netns": netns, "namespace": namespace_id(netns)}
    data = jsontext.encode(content)
    fd = -1
    try:
        fd = _create(directory, temporary)
        flock(fd, LOCK_EX | LOCK_NB)
        _write_all(fd, data)
        posix.rename(temporary, path)
    except OSError as error:
        if fd >= 0:
            posix.close(fd)
            _unlink_if_there(temporary)
        raise _refused("write", path, error) from None
    record = Record(path, fd)
    record.config = config
    return record


def take(directory: str, attachment: Attachment) -> Record | None:
    """The attachment's record, once nobody else acts on it. None: there is none."""
    path, temporary = _paths(directory, attachment)
    _unlink_if_there(temporary)  # of an ADD that was killed before it did anything
    record = _open_locked(path)
    if record is None:
        return None
    _read(record, attachment)
    return record


def take_go(directory: str, container: str, network: str) -> Record | None:
    """The Go plugin's record for a container of this network. One that cannot be understood may be of any network."""
    path = f"{directory}/{container}"
    try:
        record = _open_locked(path)
    except CniError as error:
        record = Record(path, -1)
        record.why = error.details
    if record is None:
        return None
    record.go = True
    if record.fd < 0:
        return record
    try:
        config = jsontext.decode_object(_read_all(record.fd))
        if config.get("name", network) != network:
            record.close()
            return None
        _accept(record, config)
    except (OSError, ValueError) as error:
        record.why = str(error)
    return record


def recorded(directory: str, network: str) -> list[Attachment]:
    """The attachments of the network that have a record, and those whose ADD was killed while it wrote one."""
    found = {}
    for name in _names(directory):
        parts = name.removeprefix(".").split("@", 2)
        if len(parts) == 3 and parts[0] == network:
            found[parts[1], parts[2]] = Attachment(network, parts[1], parts[2])
    return [found[key] for key in sorted(found)]


def recorded_go(directory: str) -> list[str]:
    """The containers, of any network, for which the Go plugin may have left a record."""
    return sorted(name for name in _names(directory) if "@" not in name and not name.startswith("."))


def namespace_id(path: str) -> list[int]:
    """What identifies a network namespace as long as it lives; [] if there is none at the path."""
    try:
        status = posix.stat(path)
    except (OSError, ValueError):
        return []
    return [status.st_dev, status.st_ino]


def _read(record: Record, attachment: Attachment) -> None:
    try:
        content = jsontext.decode_object(_read_all(record.fd))
        config = content.get("delegate")
        if not isinstance(config, dict) or config.get("name") != attachment.network:
            raise ValueError("it is no record of this network")
        _accept(record, config)
    except (OSError, ValueError) as error:
        record.why = str(error)
        return
    netns = content.get("netns")
    # The path of a process may by now be another process's.
    if isinstance(netns, str) and netns and not netns.startswith("/proc/"):
        namespace = namespace_id(netns)
        record.netns = netns if namespace and namespace == content.get("namespace") else ""


def _accept(record: Record, config: Object) -> None:
    if not isinstance(config.get("type"), str) or not config["type"]:
        raise ValueError("it does not name the plugin")
    record.config = config


def _open_locked(path: str) -> Record | None:
    end = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NONE_THERE:
                return None
            raise _refused("read", path, error) from None
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except OSError as error:
            posix.close(fd)
            if error.errno not in (EAGAIN, EACCES):
                raise _refused("lock", path, error) from None
        else:
            if _still_at(path, fd):
                return Record(path, fd)
            posix.close(fd)
            continue
        if time.monotonic() > end:
            raise CniError(
                result.TRY_AGAIN, f"another command still acts on {path}", "it, or a plugin it started, hangs"
            )
        time.sleep(LOCK_POLL_S)


def _still_at(path: str, fd: int) -> bool:
    try:
        there, ours = posix.stat(path), posix.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _create(directory: str, path: str) -> int:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
    try:
        return posix.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != ENOENT:
            raise
    _make_directory(directory)
    return posix.open(path, flags, 0o600)


def _make_directory(path: str) -> None:
    try:
        posix.mkdir(path, 0o700)
    except OSError as error:
        if error.errno == EEXIST:
            return
        above = path.rstrip("/").rpartition("/")[0]
        if error.errno != ENOENT or not above:
            raise
        _make_directory(above)
        _make_directory(path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


def _read_all(fd: int) -> bytes:
    data = b""
    while chunk := posix.read(fd, 1 << 16):
        data += chunk
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return data


def _names(directory: str) -> list[str]:
    try:
        return posix.listdir(directory)
    except OSError as error:
        if error.errno in _NONE_THERE:
            return []
        raise _refused("list", directory, error) from None


def _unlink_if_there(path: str) -> None:
    try:
        posix.unlink(path)
    except OSError as error:
        if error.errno not in _NONE_THERE:
            raise _refused("remove", path, error) from None


def _paths(directory: str, attachment: Attachment) -> tuple[str, str]:
    name = attachment.file_name
    return f"{directory}/{name}", f"{directory}/.{name}"


def _refused(verb: str, path: str, error: OSError) -> CniError:
    why = "it is a symbolic link" if error.errno == ELOOP else error.strerror or str(error)
    return CniError(result.SCRATCH, "the record of the attachment cannot be kept", f"cannot {verb} {path}: {why}")
