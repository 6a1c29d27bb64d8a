"""What the router is told by its environment, with the prefix GATEHOUSE_ROUTER_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from services.runtime.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """The catalogue says the rest; providers' keys are in the variables that it names."""

    service: ClassVar[str] = "router"

    catalogue_file: Path
    # How often the catalogue is compared with what is in force.
    catalogue_poll_seconds: float = Field(default=1.0, gt=0, le=3600)
    # A caller that gives no deadline, or a longer one, is answered or refused within it.
    longest_answer_seconds: float = Field(default=120.0, gt=0, le=3600)

    # A role that cannot bypass row level security: gatehouse_router. The records of attempts are
    # there; while it is away answers go on, but for those under a budget.
    database_url: SecretStr
    pool_min_size: int = Field(default=1, ge=1, le=100)
    pool_max_size: int = Field(default=4, ge=1, le=100)
    # Records wait here until Postgres has them; a folder of this replica's own.
    spool_directory: Path
    # How many days of attempts are kept.
    spending_days: int = Field(default=92, ge=1, le=1000)
