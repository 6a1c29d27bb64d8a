"""One operation on one kind of record, within a transaction (DOM-2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import grpc
import psycopg
from gatehouse.domain.v1 import domain_pb2 as pb
from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from examples.clinic import refusals
from examples.clinic.entities import (
    ENTITIES,
    VERBS,
    Entity,
    entity_descriptor,
    fields_of,
    label_of,
    schema_of,
    shown,
)
from examples.clinic.refusals import Refusal
from examples.clinic.selecting import Where, where_of, written_fields
from services.runtime.identity import Caller

DEFAULT_LIMIT = 50
MOST_CANDIDATES = 10
Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True)
class Context:
    """For whom, where and when an operation is carried out."""

    caller: Caller
    zone: ZoneInfo
    now: datetime


@dataclass(frozen=True)
class Found:
    """One record that a selector matches."""

    id: UUID
    label: str
    values: dict[str, Any]


async def carry_out(
    connection: Connection, domain: str, operation: pb.Operation, context: Context
) -> pb.Applied:
    """Carry one operation out. Raises Refusal; then nothing of the batch may stand."""
    entity = offered(domain, operation)
    match operation.verb:
        case pb.VERB_CREATE:
            return await create(connection, entity, operation, context)
        case pb.VERB_READ:
            return await read(connection, entity, operation, context)
        case pb.VERB_UPDATE:
            return await update(connection, entity, operation, context)
        case _:
            return await delete(connection, entity, operation, context)


def offered(domain: str, operation: pb.Operation) -> Entity:
    """The entity of *operation*. Raises Refusal when the domain does not offer it."""
    entity = ENTITIES.get(operation.entity)
    if entity is None or entity.domain != domain:
        raise Refusal(
            grpc.StatusCode.NOT_FOUND,
            "UNKNOWN_ENTITY",
            f"{domain} has no entity {operation.entity}",
        )
    if operation.verb not in entity_descriptor(entity.name).operations:
        verb = VERBS.get(operation.verb, "this")
        raise Refusal(
            grpc.StatusCode.UNIMPLEMENTED,
            "OPERATION_NOT_OFFERED",
            f"{entity.name} does not offer {verb}",
        )
    changes = operation.verb in (pb.VERB_UPDATE, pb.VERB_DELETE)
    if changes and operation.selector.WhichOneof("target") is None:
        raise refusals.invalid(("selector", "must be set"))
    return entity


async def read(
    connection: Connection, entity: Entity, operation: pb.Operation, context: Context
) -> pb.Applied:
    where = where_of(entity, operation.selector, context.zone, context.now)
    limit = operation.limit or DEFAULT_LIMIT
    found = await matching(connection, entity, where, limit + 1)
    applied = pb.Applied(affected=min(len(found), limit), truncated=len(found) > limit)
    add_records(applied, found[:limit], context.zone)
    return applied


async def create(
    connection: Connection, entity: Entity, operation: pb.Operation, context: Context
) -> pb.Applied:
    values = written_fields(entity, operation, context.zone)
    missing = [name for name in schema_of(entity.name).get("required", ()) if name not in values]
    if missing:
        raise refusals.invalid((f"fields.{missing[0]}", "must be set"))
    columns: dict[str, Any] = {"id": uuid4(), "clinic_id": UUID(context.caller.clinic_id)}
    if "client_name" in values:
        client = await client_named(connection, values.pop("client_name"), context)
        columns["client_id"] = client.id
        if entity.name == "reminder" and not client.values["contact_consent"]:
            raise refusals.consent_missing()
    if entity.name == "invoice":
        values.setdefault("issued_date", context.now.astimezone(context.zone).date())
        values["status"] = stored_status(values.get("status", "open"))
    columns |= values
    await insert(connection, entity, columns)
    where = Where("r.id = %(id)s", {"id": columns["id"], "today": today(context)})
    return touched(await matching(connection, entity, where, 1), context.zone)


async def insert(connection: Connection, entity: Entity, columns: dict[str, Any]) -> None:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier("clinic", entity.table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    try:
        await connection.execute(statement, list(columns.values()))
    except psycopg.errors.UniqueViolation:
        raise refusals.exists(entity.name) from None
    except psycopg.errors.CheckViolation:
        raise refusals.invalid(("fields", "do not fit each other")) from None


async def update(
    connection: Connection, entity: Entity, operation: pb.Operation, context: Context
) -> pb.Applied:
    values = written_fields(entity, operation, context.zone)
    if not values:
        raise refusals.invalid(("fields", "must be set"))
    if "client_name" in values:
        raise refusals.unknown_field("fields.client_name", "is set when a record is made only")
    found = await target(connection, entity, operation, context)
    if all(unchanged(each, values) for each in found):
        raise refusals.unchanged(entity.name)
    if entity.name == "invoice" and "status" in values:
        values["status"] = stored_status(values["status"])
        if values["status"] == "paid":
            values.setdefault("settled_date", today(context))
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
    )
    statement = sql.SQL("UPDATE {} SET {} WHERE id = ANY (%(ids)s)").format(
        sql.Identifier("clinic", entity.table), assignments
    )
    ids = [each.id for each in found]
    try:
        await connection.execute(statement, {**values, "ids": ids})
    except psycopg.errors.UniqueViolation:
        raise refusals.exists(entity.name) from None
    except psycopg.errors.CheckViolation:
        raise refusals.invalid(("fields", "do not fit the record")) from None
    where = Where("r.id = ANY (%(ids)s)", {"ids": ids, "today": today(context)})
    return touched(await matching(connection, entity, where, len(ids)), context.zone)


def unchanged(found: Found, values: dict[str, Any]) -> bool:
    return all(found.values.get(name) == value for name, value in values.items())


def stored_status(status: str) -> str:
    """`overdue` is not stored: it is what an open invoice becomes by itself."""
    return "open" if status == "overdue" else status


async def delete(
    connection: Connection, entity: Entity, operation: pb.Operation, context: Context
) -> pb.Applied:
    """Mark records as deleted; what refers to them forbids it."""
    found = await target(connection, entity, operation, context)
    ids = [each.id for each in found]
    if entity.name == "client":
        await check_unreferenced(connection, ids, context)
    statement = sql.SQL("UPDATE {} SET deleted_at = %s WHERE id = ANY (%s)").format(
        sql.Identifier("clinic", entity.table)
    )
    await connection.execute(statement, (context.now, ids))
    return pb.Applied(affected=len(ids), label=label(found))


async def check_unreferenced(
    connection: Connection, clients: Sequence[UUID], context: Context
) -> None:
    """Raises Refusal for clients who owe something, or who are expected."""
    open_invoices = await connection.execute(
        "SELECT 1 FROM clinic.invoices WHERE client_id = ANY (%s) AND deleted_at IS NULL"
        " AND status = 'open' LIMIT 1",
        (list(clients),),
    )
    if await open_invoices.fetchone():
        raise refusals.referenced("the client has open invoices")
    expected = await connection.execute(
        "SELECT 1 FROM clinic.appointments WHERE client_id = ANY (%s) AND deleted_at IS NULL"
        " AND status = 'scheduled' AND starts_at > %s LIMIT 1",
        (list(clients), context.now),
    )
    if await expected.fetchone():
        raise refusals.referenced("the client has appointments ahead")


async def target(
    connection: Connection, entity: Entity, operation: pb.Operation, context: Context
) -> list[Found]:
    """The records that a change touches, locked. Raises Refusal: none, too many, locked."""
    where = where_of(entity, operation.selector, context.zone, context.now)
    allowed = operation.max_affected or 1
    found = await matching(connection, entity, where, allowed + MOST_CANDIDATES, lock=True)
    if not found:
        raise refusals.not_found(entity.name)
    if len(found) > allowed:
        total = await count(connection, entity, where)
        if allowed == 1:
            candidates = [(str(each.id), each.label) for each in found[:MOST_CANDIDATES]]
            raise refusals.ambiguous(candidates, total)
        raise refusals.too_many(total, allowed)
    if any(each.values.get("locked") for each in found):
        raise refusals.locked(entity.name)
    return found


async def matching(
    connection: Connection, entity: Entity, where: Where, limit: int, *, lock: bool = False
) -> list[Found]:
    names = list(fields_of(entity.name))
    columns = ", ".join(entity.expression(name) for name in names)
    cursor = await connection.execute(
        f"SELECT r.id, {columns} FROM {entity.source} WHERE {where.text}"  # noqa: S608  expressions of ours
        f" ORDER BY {entity.order} LIMIT %(limit)s{' FOR UPDATE OF r' if lock else ''}",
        {**where.values, "limit": limit},
    )
    place = names.index(label_of(entity.name))
    found = []
    for row in await cursor.fetchall():
        values = dict(zip(names, row[1:], strict=True))
        found.append(Found(row[0], label_text(entity, values, row[1 + place]), values))
    return found


def label_text(entity: Entity, values: dict[str, Any], label: str) -> str:
    """What people tell a record by: its label, and when or how much where that is not enough."""
    if entity.name == "appointment":
        return f"{label}, {values['starts_at']:%Y-%m-%d %H:%M}"
    if entity.name == "invoice":
        return f"{label}, {values['client_name']}, {values['amount']}"
    return label


async def count(connection: Connection, entity: Entity, where: Where) -> int:
    cursor = await connection.execute(
        f"SELECT count(*) FROM {entity.source} WHERE {where.text}",  # noqa: S608  expressions of ours
        dict(where.values),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def client_named(connection: Connection, name: str, context: Context) -> Found:
    """The one client of that name. Raises Refusal when there is none, or more than one."""
    where = Where(
        "r.deleted_at IS NULL AND clinic.folded(r.name) = clinic.folded(%(name)s)",
        {"name": name, "today": today(context)},
    )
    found = await matching(connection, ENTITIES["client"], where, MOST_CANDIDATES)
    if not found:
        raise refusals.not_found("client")
    if len(found) > 1:
        raise refusals.ambiguous([(str(each.id), each.label) for each in found], len(found))
    return found[0]


def touched(found: Sequence[Found], zone: ZoneInfo) -> pb.Applied:
    applied = pb.Applied(affected=len(found), label=label(found))
    add_records(applied, found, zone)
    return applied


def label(found: Sequence[Found]) -> str:
    return ", ".join(each.label for each in found[:3])


def add_records(applied: pb.Applied, found: Sequence[Found], zone: ZoneInfo) -> None:
    for each in found:
        record = applied.records.add()
        record.update({"id": str(each.id)})
        record.update({name: shown(value, zone) for name, value in each.values.items()})


def today(context: Context) -> Any:
    return context.now.astimezone(context.zone).date()
