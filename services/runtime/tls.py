"""TLS between services: what each shows to the other, and by what it knows the other (ALL-3)."""

import ssl
from dataclasses import dataclass, field

import grpc

from services.runtime.settings import ServiceSettings, SettingsError, prefix_of


@dataclass(frozen=True)
class PeerTls:
    """What a peer's certificate must be signed by, and the certificate shown to it."""

    ca: bytes | None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def peer_tls(settings: ServiceSettings) -> PeerTls | None:
    """The TLS of calls to peers, or None where none is set up: then only this machine is called."""
    if settings.peer_ca_file is None:
        return None
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    return PeerTls(
        settings.peer_ca_file.read_bytes(),
        certificate.read_bytes() if certificate else None,
        key.read_bytes() if key else None,
    )


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """What the service shows and asks for, or None for plain text. Raises SettingsError.

    gRPC takes any bytes for a certificate, and says of wrong ones only that it cannot listen.
    """
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None or key is None:
        return None
    ca = settings.tls_client_ca_file
    prefix = prefix_of(type(settings))
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=no_password)
    except (OSError, ValueError):
        pair = f"{prefix}TLS_CERTIFICATE_FILE, {prefix}TLS_KEY_FILE"
        raise SettingsError([f"{pair}: must be a PEM certificate and its own key"]) from None
    try:
        if ca is not None:
            context.load_verify_locations(ca)
    except (OSError, ValueError):
        wrong = f"{prefix}TLS_CLIENT_CA_FILE: must be PEM certificates"
        raise SettingsError([wrong]) from None
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        ca.read_bytes() if ca else None,
        require_client_auth=ca is not None,
    )


def no_password() -> str:
    """Instead of the question at the terminal that an encrypted key would make OpenSSL ask."""
    raise ValueError("the key is encrypted")
