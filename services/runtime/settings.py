"""Settings come from the environment once, and are checked whole (ALL-5)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")


class SettingsError(Exception):
    """The environment is wrong; the message names every mistake, and no value."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("the settings are wrong:\n" + "\n".join(f"  {each}" for each in mistakes))
        self.mistakes = mistakes


class ServiceSettings(BaseModel):
    """What every service is told. A service's own settings derive from it and name the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    service: ClassVar[str]

    # Where to listen: host:port, port 0 for a free one, or unix:/path.
    listen: str = "127.0.0.1:0"
    # How long running calls may go on once the service is told to stop.
    grace_seconds: float = Field(default=20.0, ge=0, le=600)
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    # Calls past it are refused at once with OVERLOADED.
    max_concurrent_calls: int = Field(default=1000, ge=1, le=100_000)
    keepalive_seconds: float = Field(default=30.0, gt=0)
    # Connections are closed after it, so that new replicas get their share.
    max_connection_age_seconds: float = Field(default=3600.0, gt=0)

    # Whose tokens are taken (ALL-3); jwks is a file or an http(s) URL.
    jwt_issuer: str = Field(min_length=1)
    jwt_audience: str = Field(min_length=1)
    jwks: str = Field(min_length=1)
    clock_leeway_seconds: float = Field(default=30.0, ge=0, le=300)

    # TLS with client certificates; plain text is refused off this machine.
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    # What the service trusts and shows when it calls its peers.
    peer_ca_file: Path | None = None
    # The token that it presents when it calls on its own behalf; read again when the file changes.
    service_token_file: Path | None = None

    # Where spans and metrics go, an OTLP endpoint host:port; nowhere when not set.
    otlp_endpoint: str | None = None
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    log_level: str = "INFO"

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        levels = ("DEBUG", "INFO", "WARNING", "ERROR")
        if value.upper() not in levels:
            raise ValueError(f"must be one of {', '.join(levels)}")
        return value.upper()

    @field_validator("listen")
    @classmethod
    def _an_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value.startswith("unix:/") or (host and port.isdigit() and int(port) < 65536):
            return value
        raise ValueError("must be host:port or unix:/path")

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [self.tls_certificate_file, self.tls_key_file]
        if any(given) and not all(given):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        if self.tls_client_ca_file and not all(given):
            raise ValueError("tls_client_ca_file needs tls_certificate_file and tls_key_file")
        if not any(given) and not self.listen.startswith(LOOPBACK):
            raise ValueError(
                "listen is not on this machine: plain text is for loopback and Unix sockets only,"
                " so set tls_certificate_file, tls_key_file and tls_client_ca_file"
            )
        return self


S = TypeVar("S", bound=ServiceSettings)


def prefix_of(cls: type[ServiceSettings]) -> str:
    return f"GATEHOUSE_{cls.service.upper()}_"


def load(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read the settings of *cls*. Raises SettingsError that names every mistake, and no value.

    A variable with the service's prefix that means nothing is a mistake too: it is likely misspelt.
    An empty variable counts as not set.
    """
    environ = os.environ if environ is None else environ
    prefix = prefix_of(cls)
    given: dict[str, Any] = {
        name.removeprefix(prefix).lower(): value
        for name, value in environ.items()
        if name.startswith(prefix) and value != ""
    }
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise SettingsError([mistake(each, prefix) for each in error.errors()]) from None


def mistake(error: Any, prefix: str) -> str:
    name = prefix + str(error["loc"][0]).upper() if error["loc"] else prefix + "*"
    match error["type"]:
        case "missing":
            return f"{name} is not set"
        case "extra_forbidden":
            return f"{name} is not a setting of this service"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
            return f"{name}: {text[:1].lower()}{text[1:]}"
