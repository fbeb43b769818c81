"""Records of attachments, as the plugin keeps them: written before anything is changed, and gone after DEL.

One file for each in the network's data directory, locked as long as something acts on the attachment
(cni_plugin/scratch.py): whoever comes next waits for us, and when we are killed the lock goes with us.
"""

import contextlib
import fcntl
import json
import os
from typing import Any

from flanneld_py.pods.exchange import NotForUs, Object, encode_record
from flanneld_py.pods.network import Attachment

_MAX_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Record:
    """An attachment's file, open and locked. `config`: what the delegate got, or would have got."""

    def __init__(self, directory: int, name: str, fd: int, config: Object) -> None:
        self._directory = directory
        self._name = name
        self._fd = fd
        self.config = config

    def remove(self) -> None:
        """The file is gone, then the lock. OSError if the file system refuses."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._directory)
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_there(directory: int, attachment: Attachment) -> bool:
    """Whether there is a record, or the begin of one, of whatever state."""
    name = attachment.record_name
    for one in (name, f".{name}"):
        with contextlib.suppress(FileNotFoundError):
            os.stat(one, dir_fd=directory, follow_symlinks=False)
            return True
    return False


def write(directory: int, attachment: Attachment, config: Object, netns: str, namespace: int) -> Record:
    """The record of an attachment that is about to be made. OSError: it cannot be written, and nothing is left.

    `namespace`: the container's, a descriptor.
    """
    status = os.fstat(namespace)
    data = encode_record({"delegate": config, "netns": netns, "namespace": [status.st_dev, status.st_ino]})
    name = attachment.record_name
    fd = os.open(f".{name}", _NEW, 0o600, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.rename(f".{name}", name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f".{name}", dir_fd=directory)
        raise
    return Record(directory, name, fd, config)


def take(directory: int, attachment: Attachment) -> Record:
    """The attachment's record, locked. NotForUs: there is none, another acts on it, or it cannot be understood."""
    name = attachment.record_name
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        raise NotForUs(f"there is no record to read: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, ours = os.stat(name, dir_fd=directory, follow_symlinks=False), os.fstat(fd)
        if not os.path.samestat(there, ours):
            raise NotForUs("another command acts on the attachment")
        return Record(directory, name, fd, _config(os.read(fd, _MAX_BYTES), attachment))
    except (OSError, ValueError) as error:
        os.close(fd)
        raise NotForUs(f"the record cannot be used: {error}") from None
    except BaseException:
        os.close(fd)
        raise


def _config(data: bytes, attachment: Attachment) -> Object:
    content: Any = json.loads(data)
    config = content.get("delegate") if isinstance(content, dict) else None
    if not isinstance(config, dict) or config.get("name") != attachment.network:
        raise ValueError("it is no record of this network")
    if not isinstance(config.get("type"), str):
        raise ValueError("it does not name the plugin")
    return config
