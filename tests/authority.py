"""Certificate authorities made for a run, and what they sign (ALL-3)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A certificate authority, with its file."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    folder: Path

    @property
    def pem(self) -> bytes:
        return pem_of(self.certificate)

    @property
    def file(self) -> Path:
        return self.folder / "ca.crt"

    def issue(self, name: str, *, ends: timedelta = DAY) -> dict[str, Path]:
        """A certificate for *name* and localhost, and its key, as the settings want them."""
        names = [x509.DNSName(name), x509.DNSName("localhost")]
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            builder(name, self.certificate.subject, key, ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        files = {
            "tls_certificate_file": self.folder / f"{name}.crt",
            "tls_key_file": self.folder / f"{name}.key",
        }
        files["tls_certificate_file"].write_bytes(pem_of(certificate))
        files["tls_key_file"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


def builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + ends)
    )


def pem_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def authority(folder: Path) -> Authority:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    certificate = (
        builder(folder.name, subject, key, DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(pem_of(certificate))
    return Authority(key, certificate, folder)


def served_by(ca: Authority) -> dict[str, Any]:
    """What a service is told that takes callers of *ca* alone."""
    return {
        **ca.issue("server"),
        "tls_client_ca_file": ca.file,
        "peer_ca_file": ca.file,
        "peers": "*",
    }
