"""Access to etcd, as the options describe it and the password file completes it."""

from pathlib import Path
from typing import TYPE_CHECKING

from flanneld_py.daemon.options import Options
from flanneld_py.errors import FlannelError, UsageError

if TYPE_CHECKING:
    from flanneld_py.etcd.client import EtcdAccess

_MAX_BYTES = 4096


def etcd_access(options: Options) -> "EtcdAccess":
    """What the client needs. UsageError names the password file, never what is in it; FlannelError a missing library.

    etcd's libraries are imported only here: where leases are kept elsewhere, they may be missing.
    """
    try:
        from flanneld_py.etcd.client import EtcdAccess  # noqa: PLC0415
    except ImportError as err:
        raise FlannelError(
            f"leases in etcd need the Python package {err.name}, which is not installed",
            hint="pip install grpcio protobuf etcd3==0.12.0",
        ) from err
    path = options.etcd_password_file
    return EtcdAccess(
        endpoints=options.etcd_endpoints,
        prefix=options.etcd_prefix,
        ca_file=options.etcd_cafile,
        cert_file=options.etcd_certfile,
        key_file=options.etcd_keyfile,
        username=options.etcd_username,
        password=options.etcd_password if path is None else _read_password(path),
    )


def _read_password(path: Path) -> str:
    """The file's first line without its end; blanks are a part of it."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode()
    except OSError as err:
        raise UsageError(f"--etcd-password-file: cannot read {path}: {err.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--etcd-password-file: {path} is not UTF-8 text") from None
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise UsageError(f"--etcd-password-file: the first line of {path} is empty", hint="write the password there")
    return password
