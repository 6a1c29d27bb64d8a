"""TLS between services: what each shows to the other, and by what it knows the other (ALL-3).

Certificates, keys and authorities are replaced while the service runs: files are read again when
they change, and calls go on meanwhile.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.runtime.settings import ServiceSettings, SettingsError, prefix_of

# What cryptography raises for bytes that are none of what they should be, or that need a password.
UNREADABLE = (OSError, ValueError, TypeError)


@dataclass(frozen=True)
class PeerTls:
    """What the other end's certificate must be signed by, and the certificate shown to it."""

    ca: bytes | None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    def current(self) -> "PeerTls":
        """For those who take files as well, which change."""
        return self

    def mistakes(self) -> list[str]:
        """Which of *ca* and *certificate* are not what they should be."""
        found = []
        try:
            if self.ca is not None:
                x509.load_pem_x509_certificates(self.ca)
        except UNREADABLE:
            found.append("ca")
        try:
            if self.certificate is not None and self.key is not None:
                leaf, *_ = x509.load_pem_x509_certificates(self.certificate)
                if load_pem_private_key(self.key, None).public_key() != leaf.public_key():
                    found.append("certificate")
        except UNREADABLE:
            found.append("certificate")
        return found


class Certificates:
    """What is in files, read again when they change.

    What cannot be used, as while files are being replaced, is logged once and leaves in force what
    was there before.
    """

    def __init__(
        self, ca: Path | None, certificate: Path | None, key: Path | None, log: logging.Logger
    ) -> None:
        """Raises Unusable unless the files can be used as they are."""
        self._files = (ca, certificate, key)
        self._log = log
        self._seen, self._current = self._stamps(), self._read()
        if wrong := self._current.mistakes():
            raise Unusable(wrong)

    def current(self) -> PeerTls:
        """The same object as long as the files are the same. Any thread may ask."""
        try:
            seen = self._stamps()
            if seen != self._seen:
                # Before what is read: a change meanwhile is then seen the next time.
                self._seen = seen
                self._take(self._read())
        except OSError:
            self._seen = ()
        return self._current

    def _take(self, found: PeerTls) -> None:
        if found == self._current:
            return
        if wrong := found.mistakes():
            text = "new TLS files are not in use, those before are: no usable %s"
            self._log.error(text, " and ".join(wrong))
            return
        self._current = found
        self._log.info("new TLS files are in use")

    def _stamps(self) -> tuple[tuple[int, ...], ...]:
        stats = [file.stat() for file in self._files if file]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)

    def _read(self) -> PeerTls:
        return PeerTls(*(file.read_bytes() if file else None for file in self._files))


class Unusable(Exception):
    """Files that TLS cannot be made with."""

    def __init__(self, wrong: Collection[str]) -> None:
        super().__init__(", ".join(wrong))
        self.wrong = wrong


Tls = PeerTls | Certificates


def peer_tls(settings: ServiceSettings) -> Certificates | None:
    """The TLS of calls to peers, or None where none is set up: then only this machine is called.

    Raises SettingsError.
    """
    if settings.peer_ca_file is None:
        return None
    return certificates_of(settings, "peer_ca_file")


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """What the service shows and asks for, or None for plain text. Raises SettingsError.

    gRPC takes any bytes for a certificate, and says of wrong ones only that it cannot listen.
    """
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    certificates = certificates_of(settings, "tls_client_ca_file")
    told = certificates.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at each handshake, one at a time; None says that nothing is new."""
        nonlocal told
        current = certificates.current()
        if current is told:
            return None
        told = current
        return configuration_of(current)

    return grpc.dynamic_ssl_server_credentials(
        configuration_of(told),
        changed,
        require_client_authentication=settings.tls_client_ca_file is not None,
    )


def configuration_of(tls: PeerTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], tls.ca)


def certificates_of(settings: ServiceSettings, ca: str) -> Certificates:
    """The service's certificate, and the authorities of the setting *ca*. Raises SettingsError."""
    prefix = prefix_of(type(settings))
    pair = f"{prefix}TLS_CERTIFICATE_FILE, {prefix}TLS_KEY_FILE"
    problems = {
        "certificate": f"{pair}: must be a PEM certificate and its own key",
        "ca": f"{prefix}{ca.upper()}: must be PEM certificates",
    }
    log = logging.getLogger(f"gatehouse.{settings.service}")
    files = (getattr(settings, ca), settings.tls_certificate_file, settings.tls_key_file)
    try:
        return Certificates(*files, log)
    except Unusable as error:
        raise SettingsError([problems[each] for each in error.wrong]) from None
    except OSError:
        raise SettingsError([f"{pair}: must be files that can be read"]) from None
