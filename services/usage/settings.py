"""What the service is told by its environment, with the prefix GATEHOUSE_USAGE_."""

from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.runtime.settings import DatabaseSettings
from services.runtime.valkey import read_url
from services.usage.nouns import Thresholds


class Settings(DatabaseSettings):
    service: ClassVar[str] = "usage"

    # database_url is of the role gatehouse_usage.
    # One server, rediss://:password@host:6379/0, or a cluster's first nodes,
    # rediss+cluster://:password@one:6379,two:6379.
    valkey_url: SecretStr

    # What is abuse (USE-6): more than so many in a window starts the cool-down.
    abuse_queries: int = Field(default=12, ge=1, le=200)
    abuse_query_window_seconds: float = Field(default=60, gt=0, le=3600)
    abuse_modifies: int = Field(default=5, ge=1, le=200)
    abuse_modify_window_seconds: float = Field(default=600, gt=0, le=86400)
    cool_down_seconds: float = Field(default=900, gt=0, le=86400)

    # How often claims that nobody settled are looked for and released.
    sweep_seconds: float = Field(default=15.0, gt=0)

    # Where the operation log listens. Without it admin writes go on only if they may go unrecorded.
    oplog_target: str | None = None
    unrecorded_writes: bool = False
    spool_directory: Path | None = None

    @field_validator("valkey_url")
    @classmethod
    def _leads_to_valkey(cls, value: SecretStr) -> SecretStr:
        read_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _writes_are_recorded_unless_said(self) -> Self:
        if self.oplog_target is None and not self.unrecorded_writes:
            raise ValueError(
                "oplog_target is missing: name the operation log, or set unrecorded_writes=true"
            )
        if self.oplog_target is not None and self.spool_directory is None:
            raise ValueError(
                "spool_directory is missing: outcomes that the log cannot take wait there"
            )
        return self

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(
            self.abuse_queries,
            timedelta(seconds=self.abuse_query_window_seconds),
            self.abuse_modifies,
            timedelta(seconds=self.abuse_modify_window_seconds),
            timedelta(seconds=self.cool_down_seconds),
        )
