"""Finding records within a transaction: those that a selector matches, or a name (DOM-2)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from gatehouse.domain.v1 import domain_pb2 as pb
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from examples.clinic import refusals
from examples.clinic.entities import ENTITIES, Entity, fields_of, label_of, shown
from examples.clinic.selecting import Where, where_of
from services.runtime.identity import Caller

MOST_CANDIDATES = 10
MOST_LABELS = 3
# Of a change of many records, so many come back: an answer has to fit into one message.
MOST_SHOWN = 500
# The most that the contract lets a write touch.
MOST_AFFECTED = 10_000
Connection = AsyncConnection[TupleRow]
# SHARE keeps a record from being changed or deleted until the transaction ends.
Lock = Literal["", "FOR UPDATE OF r", "FOR SHARE OF r"]


@dataclass(frozen=True)
class Context:
    """For whom, where and when an operation is carried out."""

    caller: Caller
    clinic_id: UUID
    zone: ZoneInfo
    now: datetime
    # It is only tried, and undone.
    validate_only: bool = False

    @property
    def today(self) -> date:
        return self.now.astimezone(self.zone).date()


@dataclass(frozen=True)
class Found:
    """One record that a selector matches."""

    id: UUID
    label: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Records:
    """The records that one transaction sees."""

    connection: Connection
    context: Context

    async def matching(
        self, entity: Entity, where: Where, limit: int, lock: Lock = ""
    ) -> list[Found]:
        names = list(fields_of(entity.name))
        columns = ", ".join(entity.expression(name) for name in names)
        cursor = await self.connection.execute(
            f"SELECT r.id, {columns} FROM {entity.source} WHERE {where.text}"  # noqa: S608  expressions of ours
            f" ORDER BY {entity.order} LIMIT %(limit)s {lock}",
            {**where.values, "today": self.context.today, "limit": limit},
        )
        found = []
        for row in await cursor.fetchall():
            values = dict(zip(names, row[1:], strict=True))
            found.append(Found(row[0], label_text(entity, values, self.context.zone), values))
        return found

    async def count(self, entity: Entity, where: Where) -> int:
        cursor = await self.connection.execute(
            f"SELECT count(*) FROM {entity.source} WHERE {where.text}",  # noqa: S608  expressions of ours
            {**where.values, "today": self.context.today},
        )
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    async def with_ids(self, entity: Entity, ids: Sequence[UUID]) -> list[Found]:
        return await self.matching(entity, Where("r.id = ANY (%(ids)s)", {"ids": ids}), len(ids))

    async def target(
        self,
        entity: Entity,
        operation: pb.Operation,
        touches: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> list[Found]:
        """The records that a change is about, locked. Raises Refusal: none, too many, closed.

        Of many that match, those that *touches* says no to stand already as they shall, and do not
        count among those that may be touched.
        """
        where = where_of(entity, operation.selector, self.context.zone)
        allowed = operation.max_affected or 1
        most = MOST_CANDIDATES if allowed == 1 else MOST_AFFECTED
        found = await self.matching(entity, where, most + 1, "FOR UPDATE OF r")
        if not found:
            raise refusals.not_found(entity.name)
        if allowed == 1 and len(found) > 1:
            total = await self.count(entity, where)
            raise refusals.ambiguous(candidates(entity, found), total)
        touched = sum(touches(each.values) for each in found)
        if len(found) > most or touched > allowed:
            raise refusals.too_many(allowed)
        if any(each.values.get("locked") for each in found):
            raise refusals.locked(entity.name)
        return found

    async def client_named(self, name: str) -> Found:
        """The one client of that name, who stays as long as the transaction.

        Raises Refusal when there is none, or more than one.
        """
        entity = ENTITIES["client"]
        where = Where(
            "r.deleted_at IS NULL AND r.name_folded = clinic.folded(%(name)s)",
            {"name": name},
        )
        found = await self.matching(entity, where, MOST_CANDIDATES, "FOR SHARE OF r")
        if not found:
            raise refusals.no_client(name)
        if len(found) > 1:
            total = await self.count(entity, where)
            raise refusals.ambiguous(candidates(entity, found), total)
        return found[0]


def label_text(entity: Entity, values: dict[str, Any], zone: ZoneInfo) -> str:
    """What people tell a record by: its label, and when or how much where that is not enough."""
    label = str(values[label_of(entity.name)])
    if entity.name == "appointment":
        return f"{label}, {values['starts_at'].astimezone(zone):%Y-%m-%d %H:%M}"
    if entity.name == "invoice":
        return f"{label}, {values['client_name']}, {values['amount']}"
    return label


def candidates(entity: Entity, found: Sequence[Found]) -> list[tuple[str, str]]:
    """Ids and labels to choose by; people of one name are told apart by what else is known."""
    more = ("birth_date", "neighbourhood") if entity.name == "client" else ()
    return [
        (
            str(each.id),
            ", ".join([each.label, *(str(each.values[at]) for at in more if each.values[at])]),
        )
        for each in found[:MOST_CANDIDATES]
    ]


def touched(found: Sequence[Found], zone: ZoneInfo) -> pb.Applied:
    applied = pb.Applied(affected=len(found), label=label(found), labels=labels(found))
    add_records(applied, found[:MOST_SHOWN], zone)
    applied.truncated = len(found) > MOST_SHOWN
    return applied


def digest_of(found: Sequence[Found], values: Mapping[str, Any]) -> bytes:
    """Equal for the same records under the same names, with the same in place of *values*."""
    told = sorted(
        repr((each.id, each.label, [(name, each.values[name]) for name in sorted(values)]))
        for each in found
    )
    return hashlib.sha256("\n".join(told).encode()).digest()


def labels(found: Sequence[Found]) -> list[str]:
    """The names of the first of them, one each."""
    return [each.label for each in found[:MOST_LABELS]]


def label(found: Sequence[Found]) -> str:
    """The first of them, and that there are more."""
    shown = labels(found)
    return "; ".join([*shown, "…"] if len(found) > MOST_LABELS else shown)


def add_records(applied: pb.Applied, found: Sequence[Found], zone: ZoneInfo) -> None:
    for each in found:
        record = applied.records.add()
        record.update({"id": str(each.id)})
        record.update({name: shown(value, zone) for name, value in each.values.items()})
