"""How the gateway is reached: addresses, transport, retries and the token."""

import ipaddress
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import grpc

SERVICE = "gatehouse.gateway.v1.GatewayService"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PORT_DIGITS = "0123456789"

Token = str | Path | Callable[[], str]
"""A token, a file that has one (read for each call, so it may be replaced), or what gives one.

A callable is called for each call, from asyncio too: it has to answer at once.
"""

# UNAVAILABLE alone is sent again. That is safe for every method: those that count or change carry
# a request_id, and what comes twice with the same one is done and counted once.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A replica that is about to stop says so here, and gets no calls any more.
    "healthCheckConfig": {"serviceName": "gatehouse.accepting"},
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]


Metadata = tuple[tuple[str, str], ...]


class CallOptions(TypedDict):
    """What every call carries."""

    timeout: float
    metadata: Metadata


class PlainTextRefused(ValueError):
    """Without TLS a token would cross the network in the clear."""


@dataclass(frozen=True)
class Tls:
    """PEM files: who signs the gateway's certificate, and the certificate shown to it.

    Without *ca_file* the machine's authorities are trusted. The files are read when the client is
    made: make a new one when certificates are replaced.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        files = (self.ca_file, self.key_file, self.certificate_file)
        return grpc.ssl_channel_credentials(*(file and file.read_bytes() for file in files))


def target_of(addresses: str | Sequence[str]) -> str:
    """The gRPC target of one address, or of several replicas given by IP address and port.

    A name is looked up by DNS, and calls are spread over all that it stands for.
    """
    if isinstance(addresses, str):
        return addresses
    family = "ipv6" if all(each.startswith("[") for each in addresses) else "ipv4"
    return f"{family}:{','.join(addresses)}"


def credentials_for(target: str, tls: Tls | None) -> grpc.ChannelCredentials | None:
    """None for plain text. Raises PlainTextRefused where that would leave this machine."""
    if tls is not None:
        return tls.credentials()
    if not on_this_machine(target):
        raise PlainTextRefused(f"plain text is for this machine only: give tls= to reach {target}")
    return None


def on_this_machine(target: str) -> bool:
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("ipv4", "ipv6"):
        return all(is_loopback(each) for each in rest.split(","))
    return is_loopback(target.removeprefix("dns:").removeprefix("///"))


def is_loopback(address: str) -> bool:
    """By the host as a whole: `127.example.com` and `localhost.example.com` are elsewhere."""
    host, colon, port = address.rpartition(":")
    if not colon or port.strip(PORT_DIGITS):
        host = address
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenSource:
    """The token of the next call.

    While its file is being replaced, missing or empty for a moment, it stays the one before.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self._last = ""

    def metadata(self) -> Metadata:
        """Raises ValueError, which does not show it, for a token that no header can carry."""
        token = self._current().strip()
        if not (token.isascii() and token.isprintable()):
            raise ValueError("the token has characters that no token has")
        return (("authorization", f"Bearer {token}"),)

    def _current(self) -> str:
        if isinstance(self._token, str):
            return self._token
        if not isinstance(self._token, Path):
            return self._token()
        try:
            self._last = self._token.read_text().strip() or self._last
        except OSError:
            if not self._last:
                raise
        return self._last
