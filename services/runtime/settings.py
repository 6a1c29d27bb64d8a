"""Settings come from the environment once, and are checked whole (ALL-5)."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from services.runtime.peers import Peers

LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:", "unix:")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
# gRPC counts milliseconds in 32 bits.
LONGEST_SECONDS = 2_000_000


class SettingsError(Exception):
    """The environment is wrong; the message names every mistake, and no value."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("the settings are wrong:\n" + "\n".join(f"  {each}" for each in mistakes))
        self.mistakes = mistakes


class ServiceSettings(BaseModel):
    """What every service is told. A service's own settings derive from it and name the service."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    service: ClassVar[str]

    # Where to listen: host:port, port 0 for a free one, or unix:/path.
    listen: str = "127.0.0.1:0"
    # How long running calls may go on once the service is told to stop.
    grace_seconds: float = Field(default=20.0, ge=0, le=600)
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    # Calls past it are refused at once with OVERLOADED.
    max_concurrent_calls: int = Field(default=1000, ge=1, le=100_000)
    # How long a connection may take until it speaks TLS and HTTP/2.
    handshake_seconds: float = Field(default=10.0, ge=0.001, le=LONGEST_SECONDS)
    keepalive_seconds: float = Field(default=30.0, ge=0.001, le=LONGEST_SECONDS)
    # Connections are closed after it, so that new replicas get their share.
    max_connection_age_seconds: float = Field(default=3600.0, ge=0.001, le=LONGEST_SECONDS)

    # Whose tokens are taken (ALL-3); jwks is a file or an http(s) URL.
    jwt_issuer: str = Field(min_length=1)
    jwt_audience: str = Field(min_length=1)
    jwks: str = Field(min_length=1)
    clock_leeway_seconds: float = Field(default=30.0, ge=0, le=300)

    # TLS with client certificates; plain text is refused off this machine.
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    # Who may call, by a name in its certificate: names with spaces between them, `name=service` or
    # `name=service/method` for that alone, `*` for whoever has a certificate of tls_client_ca_file.
    peers: str = ""
    # What the service trusts when it calls its peers; it shows the certificate above.
    peer_ca_file: Path | None = None
    # The token that it presents when it calls on its own behalf; read again when the file changes.
    service_token_file: Path | None = None

    # Where spans and metrics go, an OTLP endpoint host:port; nowhere when not set. Off this machine
    # by TLS, as to any peer.
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
        if value.startswith("unix:/") or is_host_and_port(value):
            return value
        raise ValueError("must be host:port or unix:/path")

    @field_validator("otlp_endpoint")
    @classmethod
    def _an_endpoint(cls, value: str | None) -> str | None:
        if value is None or is_host_and_port(value):
            return value
        raise ValueError("must be host:port")

    @field_validator("jwks")
    @classmethod
    def _keys_come_safely(cls, value: str) -> str:
        if value.startswith("http://") and urlsplit(value).hostname not in LOOPBACK_HOSTS:
            raise ValueError("must be https off this machine: whoever changes keys makes tokens")
        return value

    @field_validator("tls_certificate_file", "tls_key_file", "tls_client_ca_file", "peer_ca_file")
    @classmethod
    def _can_be_read(cls, value: Path | None) -> Path | None:
        if value is not None and not (value.is_file() and os.access(value, os.R_OK)):
            raise ValueError("must be a file that can be read")
        return value

    @field_validator("peers")
    @classmethod
    def _names(cls, value: str) -> str:
        Peers(value)
        return value

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        return self

    @model_validator(mode="after")
    def _client_ca_needs_a_certificate(self) -> Self:
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_client_ca_file needs tls_certificate_file and tls_key_file")
        return self

    @model_validator(mode="after")
    def _peers_are_known_by_their_certificates(self) -> Self:
        if self.tls_client_ca_file is not None and not self.peers:
            raise ValueError("tls_client_ca_file needs peers: the names that may call, or *")
        if self.peers and self.tls_client_ca_file is None:
            raise ValueError("peers needs tls_client_ca_file: names are in certificates")
        return self

    @model_validator(mode="after")
    def _callers_from_elsewhere_show_certificates(self) -> Self:
        given = (self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file)
        if not self.listen.startswith(LOOPBACK) and None in given:
            raise ValueError(
                "listen is not on this machine: plain text is for loopback and Unix sockets only,"
                " so set tls_certificate_file, tls_key_file and tls_client_ca_file"
            )
        return self

    @model_validator(mode="after")
    def _peers_are_called_by_tls(self) -> Self:
        if self.peer_ca_file is None:
            for name in type(self).model_fields:
                target = getattr(self, name) if name.endswith("_target") else None
                if target and not on_this_machine(target):
                    raise ValueError(f"{name} is not on this machine: set peer_ca_file")
        return self

    @model_validator(mode="after")
    def _spans_leave_by_tls(self) -> Self:
        endpoint = self.otlp_endpoint
        if endpoint and not endpoint.startswith(LOOPBACK) and self.peer_ca_file is None:
            raise ValueError("otlp_endpoint is not on this machine: set peer_ca_file")
        return self


class DatabaseSettings(ServiceSettings):
    """What a service that keeps tables in Postgres is told besides."""

    # A URL or a connection string of libpq. Its role cannot bypass row level security.
    database_url: SecretStr
    pool_min_size: int = Field(default=2, ge=1, le=100)
    pool_max_size: int = Field(default=8, ge=1, le=100)
    # Whether statements that are repeated are prepared in the session. false where a pooler lends
    # sessions by transaction and does not follow prepared statements: PgBouncer before 1.21.
    prepared_statements: bool = True


class ListeningSettings(DatabaseSettings):
    """What a service is told that waits for notifications of Postgres."""

    # Where notifications are heard; database_url where it is not set. It must lead to Postgres
    # itself, or to a pooler that keeps sessions: others lend a session to the next transaction.
    listen_database_url: SecretStr | None = None

    @property
    def listen_url(self) -> str:
        return (self.listen_database_url or self.database_url).get_secret_value()


def on_this_machine(target: str) -> bool:
    """Whether a gRPC target is on this machine alone, so that plain text may go there."""
    scheme, _, addresses = target.partition(":")
    if scheme in ("ipv4", "ipv6"):
        return all(each.startswith(LOOPBACK) for each in addresses.split(","))
    return target.startswith(LOOPBACK)


def is_host_and_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and re.fullmatch("[0-9]{1,5}", port) is not None and int(port) < 65536


S = TypeVar("S", bound=ServiceSettings)


def prefix_of(cls: type[ServiceSettings]) -> str:
    return f"GATEHOUSE_{cls.service.upper()}_"


def load(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read the settings of *cls*. Raises SettingsError that names every mistake, and no value.

    A variable with the service's prefix that means nothing is a mistake too: it is likely misspelt.
    An empty variable counts as not set. A secret may be in a file instead, which the variable with
    _FILE at its end names; the end of its last line is not part of it.
    """
    environ = os.environ if environ is None else environ
    prefix = prefix_of(cls)
    given: dict[str, Any] = {
        name.removeprefix(prefix).lower(): value
        for name, value in environ.items()
        if name.startswith(prefix) and value != ""
    }
    unread = dict(read_secrets(cls, given, prefix))
    try:
        settings = cls.model_validate(given)
        if not unread:
            return settings
        found = []
    except ValidationError as error:
        found = [each for each in error.errors() if each["loc"] and each["loc"][0] not in unread]
    mistakes = [*unread.values(), *(mistake(each, prefix) for each in found)]
    wrong = {str(each["loc"][0]) for each in found} | set(unread)
    raise SettingsError(
        mistakes + [f"{prefix}*: {each}" for each in disagreements(cls, given, wrong)]
    )


def read_secrets(
    cls: type[ServiceSettings], given: dict[str, Any], prefix: str
) -> Iterator[tuple[str, str]]:
    """Put into *given* the secrets that files hold; yields each that has none, and the mistake."""
    for name, field in cls.model_fields.items():
        if not is_secret(field.annotation):
            continue
        file = given.pop(f"{name}_file", None)
        if file is None:
            continue
        variable = prefix + name.upper()
        if name in given:
            yield name, f"{variable}, {variable}_FILE: only one of them may be set"
            continue
        try:
            given[name] = secret_in(file)
        except (OSError, ValueError):
            yield name, f"{variable}_FILE: must be a file with the secret that can be read"


def is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or SecretStr in get_args(annotation)


def secret_in(file: str) -> str:
    """Raises OSError, or ValueError for one that has none."""
    secret = Path(file).read_text().rstrip("\r\n")
    if not secret:
        raise ValueError("the file is empty")
    return secret


def disagreements(
    cls: type[ServiceSettings], given: Mapping[str, Any], wrong: Collection[str]
) -> Iterator[str]:
    """What is wrong about settings that are each right by themselves.

    pydantic asks for it only once nothing else is wrong, and stops at the first that it finds. Here
    every such check is asked alone, with the settings that are right; one that needs a setting that
    is *wrong* itself has nothing to say.
    """
    checks = cls.__pydantic_decorators__.model_validators
    silent: dict[str, Any] = {name: model_validator(mode="after")(unchecked) for name in checks}
    unknowable: dict[str, Any] = {
        name: (Any, Field(default_factory=Wrong)) for name in wrong if name in cls.model_fields
    }
    right = create_model(cls.__name__, __base__=cls, __validators__=silent, **unknowable)
    settings = right.model_validate({n: value for n, value in given.items() if n not in wrong})
    for check in checks.values():
        try:
            check.func(settings)
        except ValueError as error:
            yield str(error)
        except (CannotSay, TypeError):  # as of one that cannot be compared
            continue


def unchecked(settings: S) -> S:
    return settings


class CannotSay(Exception):
    """A check looked at a setting that is wrong itself."""


class Wrong:
    """Stands for a setting that is wrong: whatever is asked of it, it cannot say."""

    def __getattr__(self, name: str) -> NoReturn:
        raise CannotSay

    def __bool__(self) -> NoReturn:
        raise CannotSay


def mistake(error: Any, prefix: str) -> str:
    name = prefix + str(error["loc"][0]).upper()
    match error["type"]:
        case "missing":
            return f"{name} is not set"
        case "extra_forbidden":
            return f"{name} is not a setting of this service"
        case _:
            text = str(error["msg"]).removeprefix("Value error, ")
            return f"{name}: {text[:1].lower()}{text[1:]}"
