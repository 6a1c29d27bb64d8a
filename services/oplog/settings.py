"""What the service is told by its environment, with the prefix GATEHOUSE_OPLOG_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from services.oplog.seals import read_key, read_public_keys
from services.runtime.settings import LOOPBACK, ListeningSettings


class Settings(ListeningSettings):
    service: ClassVar[str] = "oplog"

    # database_url is of the role gatehouse_oplog.
    # Exports that may wait for the store; past them a sender is told to come back (RetryInfo).
    max_waiting_exports: int = Field(default=1000, ge=1)
    # Where OTLP over HTTP is served besides, host:port on this machine; nowhere when not set.
    http_listen: str | None = None

    # The Ed25519 private key that seals the chain, PEM; without it nothing is sealed (LOG-4).
    sealing_key_file: Path | None = None
    # The public keys of former ones, PEM, one after another: what they sealed can be checked still.
    sealing_public_keys_file: Path | None = None

    # How long rows are kept: a quarter of a year is dropped once all that is in it is older.
    retention_days: int = Field(default=5 * 366, ge=100, le=36_600)
    retain_every_seconds: float = Field(default=3600.0, gt=0)

    # A sign of life on a tail at least this often.
    heartbeat_seconds: float = Field(default=1.0, gt=0, le=60)
    # Where the descriptors are, for asking domains what became of an intent; without it nobody is.
    entitlements_target: str | None = None
    # How long an intent may be without its outcome before the domain is asked.
    settle_after_seconds: float = Field(default=60.0, gt=0)
    settle_every_seconds: float = Field(default=15.0, gt=0)
    # How often the whole chain is walked, by one replica at a time, for the alert on a broken one.
    verify_every_seconds: float = Field(default=86_400.0, gt=0)

    @field_validator("sealing_key_file", "sealing_public_keys_file")
    @classmethod
    def _holds_keys(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        try:
            read_key(value) if info.field_name == "sealing_key_file" else read_public_keys(value)
        except OSError:
            raise ValueError("must be a file that can be read") from None
        return value

    @field_validator("http_listen")
    @classmethod
    def _on_this_machine(cls, value: str | None) -> str | None:
        """It has no TLS of its own (ALL-3)."""
        if value is None or (
            value.startswith(LOOPBACK[:-1]) and value.rpartition(":")[2].isdigit()
        ):
            return value
        raise ValueError("must be 127.0.0.1, localhost or [::1] with a port: it is plain text")
