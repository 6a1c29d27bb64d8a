"""What the service is told by its environment, with the prefix GATEHOUSE_ENTITLEMENTS_."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    service: ClassVar[str] = "entitlements"

    # A role that cannot bypass row level security: gatehouse_entitlements.
    database_url: SecretStr
    pool_min_size: int = Field(default=1, ge=1, le=100)
    pool_max_size: int = Field(default=8, ge=1, le=100)

    # How long a cache without a live Watch may serve an answer.
    valid_seconds: float = Field(default=1.0, gt=0, le=60)
    # How long a call waits at most for the revision that it asks for, its deadline permitting.
    revision_wait_seconds: float = Field(default=2.0, gt=0, le=60)
    # Followers get a heartbeat at least this often; the protos promise 500 ms.
    heartbeat_seconds: float = Field(default=0.25, ge=0.02, le=0.45)
    # A follower that is further behind starts over from a snapshot.
    replay_limit: int = Field(default=10_000, ge=1)

    # Where the operation log listens. Without it admin writes go on only if they may go unrecorded.
    oplog_target: str | None = None
    unrecorded_writes: bool = False
    spool_directory: Path | None = None

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
