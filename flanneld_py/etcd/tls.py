"""The operator's TLS files, checked when they are read, for gRPC and for Python's own ssl."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanneld_py.errors import UsageError

# Where distributions keep the bundle of trusted roots, as Go's crypto/x509 looks for it (root_linux.go).
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files, None where none was given. Without `ca` the system's roots count."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def given(self) -> bool:
        return any((self.ca, self.cert, self.key))

    def stamp(self) -> tuple[tuple[int, int] | None, ...]:
        """Changes when a file is replaced or rewritten."""
        return tuple(map(_stamp, (self.ca, self.cert, self.key)))

    def context(self) -> ssl.SSLContext:
        """A client context, TLS 1.2 or later. Raises UsageError that names the file which is missing or unsound."""
        if bool(self.cert) != bool(self.key):
            missing = "--etcd-keyfile" if self.cert else "--etcd-certfile"
            raise UsageError(f"a client certificate needs its key: {missing} is not given", hint=f"give {missing}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            flag, path = "--etcd-cafile", self.ca or ""
            if self.ca:
                context.load_verify_locations(self.ca)
            else:
                context.load_default_certs()
            if self.cert and self.key:
                flag, path = "--etcd-certfile/--etcd-keyfile", f"{self.cert}, {self.key}"
                # A key under a passphrase must not make the daemon ask on its terminal.
                context.load_cert_chain(self.cert, self.key, password="")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
            raise UsageError(f"cannot use {flag} {path}: {why}", hint="give a readable PEM file") from None
        return context

    def grpc_arguments(self) -> dict[str, Any]:
        """What `grpc.ssl_channel_credentials` takes; gRPC itself asks for TLS 1.2 or later. Raises UsageError."""
        self.context()
        roots = Path(self.ca).read_bytes() if self.ca else _system_roots()
        return {
            "root_certificates": roots,
            "private_key": Path(self.key).read_bytes() if self.key else None,
            "certificate_chain": Path(self.cert).read_bytes() if self.cert else None,
        }


def _stamp(path: str | None) -> tuple[int, int] | None:
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino)


def _system_roots() -> bytes | None:
    """The system's bundle; None: there is none, and gRPC takes the one it brings along."""
    configured = ssl.get_default_verify_paths().cafile
    for path in (configured, *_BUNDLES):
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    return None
