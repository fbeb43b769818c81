"""A certificate authority for one lab or test: its key is never written down, so nobody can issue more later."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flanneld_py.model.net import Addr

_VALID = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of a certificate and its key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """A CA whose certificate is at `path`."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.path = directory / f"{name}.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flanneld-lab-{name}")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self,
        file: str,
        name: str,
        *,
        groups: Sequence[str] = (),
        hosts: Iterable[str] = (),
        addresses: Iterable[Addr] = (),
    ) -> Identity:
        """A certificate for both ends of TLS. Kubernetes takes `name` for the user, and `groups` for its groups."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = self._builder(x509.Name(subject), key).add_extension(usage, critical=False)
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(address) for address in addresses]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        identity = Identity(self.directory / f"{file}.crt", self.directory / f"{file}.key")
        identity.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        write_key(identity.key, key)
        return identity

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Machines whose clocks differ by a little shall agree that it is valid.
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + _VALID)
        )


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> None:
    """Write the key, or a new one, where only its owner may read it."""
    made = key or ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    # The API server finds the public half of a service account's key in SEC 1's form only, not in PKCS 8.
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
