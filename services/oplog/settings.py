"""What the service is told by its environment, with the prefix GATEHOUSE_OPLOG_."""

from typing import ClassVar

from pydantic import Field, SecretStr

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    service: ClassVar[str] = "oplog"

    # A role that cannot bypass row level security: gatehouse_oplog.
    database_url: SecretStr
    pool_min_size: int = Field(default=2, ge=1, le=100)
    pool_max_size: int = Field(default=8, ge=1, le=100)
    # Exports that may wait for the store; past them a sender is told to come back (RetryInfo).
    max_waiting_exports: int = Field(default=1000, ge=1)
    # Where OTLP over HTTP is served besides, host:port on this machine; nowhere when not set.
    http_listen: str | None = None

    # A sign of life on a tail at least this often.
    heartbeat_seconds: float = Field(default=1.0, gt=0, le=60)
    # Where the descriptors are, for asking domains what became of an intent; without it nobody is.
    entitlements_target: str | None = None
    # How long an intent may be without its outcome before the domain is asked.
    settle_after_seconds: float = Field(default=60.0, gt=0)
    settle_every_seconds: float = Field(default=15.0, gt=0)
