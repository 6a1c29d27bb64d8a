"""What the service is told by its environment, with the prefix GATEHOUSE_GATEWAY_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from services.runtime.settings import ListeningSettings


class Settings(ListeningSettings):
    service: ClassVar[str] = "gateway"

    # database_url is of the role gatehouse_gateway.

    entitlements_target: str = Field(min_length=1)
    usage_target: str = Field(min_length=1)
    oplog_target: str = Field(min_length=1)
    # Without a router rules, structured operations and plain summaries still work (GAT-12).
    router_target: str | None = None
    # Outcomes that the operation log cannot take wait here.
    spool_directory: Path
    # Once so much waits changes are refused, at twice as much reads too.
    spool_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)

    # Signs confirmation tokens; the same for every replica.
    confirmation_key: SecretStr = Field(min_length=32)
    confirmation_seconds: float = Field(default=600, gt=0, le=86400)
    # What needs confirmation (GAT-5): more than so many, or less sure than so.
    unconfirmed_operations: int = Field(default=5, ge=0, le=100)
    unconfirmed_domains: int = Field(default=3, ge=0, le=100)
    unconfirmed_confidence: float = Field(default=0.8, ge=0, le=1)

    # The longest that a domain, and a whole request, may take; a caller's deadline may be shorter.
    domain_seconds: float = Field(default=5.0, gt=0, le=120)
    request_seconds: float = Field(default=30.0, gt=0, le=600)
    # How long an answer is given again for the same request_id (GAT-2).
    replay_hours: float = Field(default=24, gt=0, le=720)
    # Recommendations are stored (GAT-10).
    keep_recommendations: bool = True
