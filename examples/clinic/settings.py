"""What the example is told by its environment, with the prefix GATEHOUSE_CLINIC_."""

from typing import ClassVar

from pydantic import Field, SecretStr

from services.runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    service: ClassVar[str] = "clinic"

    # A role that cannot bypass row level security: gatehouse_clinic.
    database_url: SecretStr
    pool_min_size: int = Field(default=2, ge=1, le=100)
    pool_max_size: int = Field(default=8, ge=1, le=100)
    # Where each domain listens.
    clients_listen: str = "127.0.0.1:0"
    finance_listen: str = "127.0.0.1:0"
    appointments_listen: str = "127.0.0.1:0"

    def listen_of(self, domain: str) -> str:
        return str(getattr(self, f"{domain}_listen"))
