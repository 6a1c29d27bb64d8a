"""What the example is told by its environment, with the prefix GATEHOUSE_CLINIC_."""

from typing import ClassVar

from services.runtime.settings import DatabaseSettings


class Settings(DatabaseSettings):
    service: ClassVar[str] = "clinic"

    # database_url is of the role gatehouse_clinic.
    # Where each domain listens.
    clients_listen: str = "127.0.0.1:0"
    finance_listen: str = "127.0.0.1:0"
    appointments_listen: str = "127.0.0.1:0"

    def listen_of(self, domain: str) -> str:
        return str(getattr(self, f"{domain}_listen"))
