"""What the service is told by its environment, with the prefix GATEHOUSE_ENTITLEMENTS_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from services.runtime.settings import ListeningSettings


class Settings(ListeningSettings):
    service: ClassVar[str] = "entitlements"

    # database_url is of the role gatehouse_entitlements.
    pool_min_size: int = Field(default=1, ge=1, le=100)

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
    unrecorded_writes: bool = Field(default=False, validate_default=True)
    spool_directory: Path | None = Field(default=None, validate_default=True)

    @field_validator("unrecorded_writes")
    @classmethod
    def _writes_are_recorded_unless_said(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("oplog_target", "") is None:
            raise ValueError("must be true where no oplog_target is set: writes then go unlogged")
        return value

    @field_validator("spool_directory")
    @classmethod
    def _outcomes_have_where_to_wait(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("oplog_target") is not None:
            raise ValueError("must be set where oplog_target is: outcomes wait there for the log")
        return value
