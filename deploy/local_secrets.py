"""Prints the Secrets of the overlay `local`: fresh keys, certificates, passwords and tokens.

    python deploy/local_secrets.py | kubectl create --namespace gatehouse --filename -

Made once for a cluster, as the database keeps the first passwords. Keys of providers are taken from
the environment (OPENAI_API_KEY, OPENROUTER_API_KEY); without them their models answer nothing, and
all that needs no model works. Nothing here belongs into production.
"""

import os
import secrets
import sys
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.embedded_identity import Issuer, open_issuer

NAMESPACE = "gatehouse"
LIFETIME = timedelta(days=90)
LISTENING = ("entitlements", "gateway", "oplog")
WITH_DATABASE = ("entitlements", "usage", "router", "gateway", "oplog", "clinic")
WITH_TOKEN = ("entitlements", "usage", "gateway", "oplog", "otel-collector")
# Whoever calls from this machine through a port-forward: a certificate, a user and an admin.
CALLER = "caller"
WITH_CERTIFICATE = (*WITH_DATABASE, "router", "postgres", "valkey", "otel-collector", CALLER)
PROVIDER_KEYS = ("OPENAI_API_KEY", "OPENROUTER_API_KEY")
STORES_CA = "/etc/gatehouse/stores/ca.crt"


class Authority:
    """Signs the certificates of one cluster; its own key is never written anywhere."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Gatehouse, local")])
        self.certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str) -> dict[str, str]:
        """A key and a certificate for *name*, to serve and to call with, as a TLS Secret has it."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [name, f"{name}.{NAMESPACE}", f"{name}.{NAMESPACE}.svc", "localhost"]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(map(x509.DNSName, names)), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return {
            "tls.crt": certificate.public_bytes(serialization.Encoding.PEM).decode(),
            "tls.key": pem(key),
            "ca.crt": self.pem,
        }

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
        )


def pem(key: PrivateKeyTypes) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def local_secrets(issuer: Issuer, environ: dict[str, str]) -> dict[str, dict[str, str]]:
    """What is in each Secret, by its name."""
    authority = Authority()
    roles = ["migrator", *WITH_DATABASE]
    passwords = {f"gatehouse_{role}": secrets.token_urlsafe(24) for role in roles}
    valkey = secrets.token_urlsafe(24)
    found: dict[str, dict[str, str]] = {
        f"{name}-tls": authority.issue(name) for name in WITH_CERTIFICATE
    }
    found["stores-ca"] = {"ca.crt": authority.pem}
    found["jwks"] = {"jwks.json": issuer.jwks_file.read_text()}
    found["postgres"] = {"superuser": secrets.token_urlsafe(24), **passwords}
    found["valkey"] = {"password": valkey}
    found["migrations"] = {"database-url": database_url("migrator", passwords)}
    found["router-providers"] = {name: environ.get(name) or "none" for name in PROVIDER_KEYS}
    for name in WITH_DATABASE:
        found[name] = {"database-url": database_url(name, passwords)}
        if name in LISTENING:
            found[name]["listen-database-url"] = database_url(name, passwords)
    for name in WITH_TOKEN:
        found.setdefault(name, {})["token"] = issuer.mint(
            user_id=f"gatehouse-{name}", roles=["service"], lifetime=LIFETIME
        )
    found["usage"]["valkey-url"] = f"rediss://:{valkey}@valkey:6379/0?ssl_ca_certs={STORES_CA}"
    found["gateway"]["confirmation-key"] = secrets.token_urlsafe(48)
    found["oplog"]["sealing-key"] = pem(ed25519.Ed25519PrivateKey.generate())
    found[CALLER] = {
        role: issuer.mint(
            user_id=str(uuid.uuid4()), clinic_id=str(uuid.uuid4()), roles=[role], lifetime=LIFETIME
        )
        for role in ("user", "admin")
    }
    return found


def database_url(role: str, passwords: dict[str, str]) -> str:
    user = f"gatehouse_{role}"
    options = f"sslmode=verify-full&sslrootcert={STORES_CA}"
    return f"postgresql://{user}:{passwords[user]}@postgres:5432/gatehouse?{options}"


def manifest(name: str, content: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls" if name.endswith("-tls") else "Opaque",
        "stringData": content,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = local_secrets(open_issuer(Path(folder)), dict(os.environ))
    yaml.safe_dump_all((manifest(*each) for each in sorted(found.items())), sys.stdout)


if __name__ == "__main__":
    main()
