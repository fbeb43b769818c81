"""What the node's daemon left for us: subnet.env, and in status.json beside it why there is none."""

import posix
import time
from errno import ENOENT, ENOTDIR

from cni_plugin import jsontext, result
from cni_plugin.jsontext import Object
from cni_plugin.request import printable
from cni_plugin.result import CniError
from cni_plugin.subnetenv import SubnetEnv, parse_subnet_env

STATUS_FILE = "status.json"
FAILED = "failed"
_MAX_BYTES = 1 << 20


def subnet_env(path: str) -> SubnetEnv:
    """The node's networks and subnets. CniError, with the daemon's reason, if the file is missing or incomplete."""
    try:
        text = _read(path).decode()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    env, problems = parse_subnet_env(text)
    missing = env.missing()
    if missing:
        details = "; ".join([*problems, f"{path} is missing {', '.join(missing)}", _mend(path)])
        raise CniError(result.SUBNET_FILE, f"failed to load flannel 'subnet.env' file: {path} cannot be used", details)
    return env


def daemon_failed(path: str) -> str:
    """The last word of a daemon that gave up though subnet.env, at the path, is still there; "" if it did not."""
    status = _status(path)
    return _reason(status) if status.get("stage") == FAILED and status.get("error") else ""


def _unreadable(path: str, error: Exception) -> CniError:
    why = getattr(error, "strerror", None) or str(error)
    absent = getattr(error, "errno", None) in (ENOENT, ENOTDIR)
    cause = f"open {path}: {'no such file or directory' if absent else why}"
    # Whatever waits for the daemon clears up by itself, and the runtime may try again.
    code = result.TRY_AGAIN if absent else result.SUBNET_FILE
    return CniError(code, f"failed to load flannel 'subnet.env' file: {cause}", _mend(path))


def _mend(path: str) -> str:
    status = _status(path)
    if status:
        return _reason(status)
    return (
        f"flanneld has not run here since the node started, or is another flannel (there is no {_beside(path)}): "
        "look at its log (systemctl status flanneld, or the log of the node's kube-flannel pod)"
    )


def _reason(status: Object) -> str:
    """One sentence: `flanneld on n1: waiting for a lease since 12:03:05: <error>; <hint>`."""
    host, stage, since = status.get("host"), status.get("stage"), status.get("since")
    text = f"flanneld on {host}: {stage}" if isinstance(host, str) and host else f"flanneld: {stage}"
    if isinstance(since, int | float):
        text += f" since {_clock(since)}"
    for name, before in (("error", ": "), ("hint", "; ")):
        value = status.get(name)
        if isinstance(value, str) and value:
            text += before + value
    return printable_line(text)


def printable_line(text: str) -> str:
    return " ".join(text.encode(errors="replace").decode()[: result.MAX_DETAIL].split())


def _clock(seconds: float) -> str:
    """Time of day; with the date if that is not today."""
    try:
        then, now = time.localtime(seconds), time.localtime()
        return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)
    except (OverflowError, ValueError, OSError):
        return printable(repr(seconds))


def _status(subnet_file: str) -> Object:
    """{} if the daemon left nothing that can be read."""
    try:
        status = jsontext.decode_object(_read(_beside(subnet_file)))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status.get("stage"), str) else {}


def _beside(subnet_file: str) -> str:
    directory, slash, _ = subnet_file.rpartition("/")
    return f"{directory}{slash}{STATUS_FILE}"


def _read(path: str) -> bytes:
    # O_NONBLOCK: a FIFO in the place of the file must not make the runtime wait.
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    try:
        data = b""
        while chunk := posix.read(fd, 1 << 16):
            data += chunk
            if len(data) > _MAX_BYTES:
                raise ValueError(f"larger than {_MAX_BYTES} bytes")
    finally:
        posix.close(fd)
    return data
