"""A clinic's records of its own making, seeded: the demo tells the same story on every date."""

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from psycopg import sql

from services.runtime.identity import Caller
from services.runtime.postgres import Pool

NAMESPACE = uuid.UUID("2d8f8c5e-6d1a-4f57-9f0e-7c1b3a9e4d21")
# The people of the story: who has agreed to be contacted.
PEOPLE = {
    "Ana Souza": True,
    "Bruno Lima": False,
    "Carla Dias": True,
    "Diego Alves": True,
    "Elena García": True,
}
FIRST = "Fernanda Gustavo Helena Igor Julia Karina Lucas Marta Nuno Olivia Paulo Rita Sofia"
LAST = "Andrade Barros Castro Duarte Esteves Ferreira Gomes Henriques Iglesias Jardim"
PLACES = ("Centro", "Jardim", "Praia", "Serra")
LOCKED_NUMBER = "1007"
FIRST_NUMBER = 1001
CLIENTS = 60
# Days of appointments before and after today. From its first day on, the month after this one ends
# at most 61 days later, so "next week" and "next month" are covered whole on every date.
PAST_DAYS = 90
AHEAD_DAYS = 62


@dataclass(frozen=True)
class Sample:
    """Rows by table, each with the columns' names."""

    clients: list[dict[str, Any]]
    appointments: list[dict[str, Any]]
    invoices: list[dict[str, Any]]


def make(seed: int, clinic_id: str, now: datetime, zone: ZoneInfo) -> Sample:
    """The same records for the same seed, clinic and day."""
    key = f"{seed}/{clinic_id}"
    clients = made_clients(chance_of(f"{key}/clients"), clinic_id)
    today = now.astimezone(zone).date()
    appointments = [
        each
        for day in range(-PAST_DAYS, AHEAD_DAYS + 1)
        for each in made_appointments(chance_of(f"{key}/{day}"), clients, clinic_id, day, now, zone)
    ]
    invoices = made_invoices(chance_of(f"{key}/invoices"), clients, clinic_id, today)
    return Sample(clients, appointments, invoices)


def chance_of(key: str) -> random.Random:
    """A generator for one part of the sample, so that the length of a part changes no other."""
    return random.Random(key)  # noqa: S311  it makes samples, not secrets


def made_clients(chance: random.Random, clinic_id: str) -> list[dict[str, Any]]:
    names = list(PEOPLE)
    while len(names) < CLIENTS:
        name = f"{chance.choice(FIRST.split())} {chance.choice(LAST.split())}"
        if name not in names:
            names.append(name)
    return [
        {
            "id": uuid.uuid5(NAMESPACE, f"{clinic_id}/client/{name}"),
            "clinic_id": clinic_id,
            "name": name,
            "phone": f"+55 27 9{chance.randrange(10**7, 10**8)}",
            "gender": chance.choice(("female", "male")),
            "neighbourhood": chance.choice(PLACES),
            "contact_consent": PEOPLE.get(name, chance.random() < 0.8),
            "source_id": f"sample/{name}",
        }
        for name in names
    ]


def made_appointments(
    chance: random.Random,
    clients: list[dict[str, Any]],
    clinic_id: str,
    day: int,
    now: datetime,
    zone: ZoneInfo,
) -> list[dict[str, Any]]:
    """Three to five a day. Ana Souza has exactly one ahead, and it is tomorrow's first."""
    date = now.astimezone(zone).date() + timedelta(days=day)
    made = []
    for place in range(chance.randrange(3, 6)):
        client = chance.choice(clients[1:] if day >= 0 else clients)
        source = f"sample/{date}/{place}"
        if day == 1 and place == 0:
            # A source of its own: in data kept from an earlier date the place is another client's.
            client, source = clients[0], f"sample/{date}/{clients[0]['name']}"
        starts_at = datetime.combine(date, time(9 + 2 * place), zone)
        past = ("kept", "kept", "kept", "missed", "cancelled")
        ahead = ("scheduled", "scheduled", "scheduled", "cancelled")
        status = chance.choice(past if starts_at < now else ahead)
        if client is clients[0] and starts_at >= now:
            status = "scheduled"
        made.append(
            {
                "id": uuid.uuid5(NAMESPACE, f"{clinic_id}/{source}"),
                "clinic_id": clinic_id,
                "client_id": client["id"],
                "starts_at": starts_at,
                "status": status,
                "sms_received": chance.random() < 0.5,
                "source_id": source,
            }
        )
    return made


def made_invoices(
    chance: random.Random, clients: list[dict[str, Any]], clinic_id: str, today: Any
) -> list[dict[str, Any]]:
    """Numbered from 1001 on, going round the clients; 1007 is closed."""
    made = []
    for place in range(2 * CLIENTS):
        number = str(FIRST_NUMBER + place)
        issued = today - timedelta(days=chance.randrange(1, 90))
        due = issued + timedelta(days=30)
        paid = chance.random() < 0.6
        status = "paid" if paid or number == LOCKED_NUMBER else "open"
        made.append(
            {
                "id": uuid.uuid5(NAMESPACE, f"{clinic_id}/invoice/{number}"),
                "clinic_id": clinic_id,
                "client_id": clients[place % CLIENTS]["id"],
                "number": number,
                "amount": Decimal(chance.randrange(4000, 60000)) / 100,
                "issued_date": issued,
                "due_date": due,
                "settled_date": min(due, today) if status == "paid" else None,
                "status": status,
                "locked": number == LOCKED_NUMBER,
            }
        )
    return made


async def store(pool: Pool, sample: Sample, caller: Caller) -> int:
    """Keep what is not there yet; how many rows that are. Raises StoreUnavailable."""
    new = 0
    async with pool.transaction(caller) as connection:
        for table in ("clients", "appointments", "invoices"):
            rows: list[dict[str, Any]] = getattr(sample, table)
            columns = list(rows[0])
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
                sql.Identifier("clinic", table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(map(sql.Placeholder, columns)),
            )
            async with connection.cursor() as cursor:
                await cursor.executemany(statement, rows)
                new += max(cursor.rowcount, 0)
    return new
