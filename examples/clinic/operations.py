"""One operation on one kind of record, within a transaction (DOM-2)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
from gatehouse.domain.v1 import domain_pb2 as pb
from psycopg import sql

from examples.clinic import refusals
from examples.clinic.entities import ENTITIES, VERBS, Entity, entity_descriptor, schema_of
from examples.clinic.records import (
    Found,
    Records,
    add_records,
    digest_of,
    label,
    labels,
    touched,
)
from examples.clinic.refusals import Refusal
from examples.clinic.selecting import where_of, written_fields
from examples.clinic.states import check_changes, is_changed, kept_values

DEFAULT_LIMIT = 50
# What the tables refuse, by the constraint's name, as a field of the operation.
CONSTRAINTS = {
    "due_not_before_issue": ("fields.due_date", "must not be before issued_date"),
    "settled_when_paid": ("fields.settled_date", "goes with the status paid, and with no other"),
}
# The tables whose rows name a client, and what their rows are.
REFERRING = {"invoices": "invoice", "appointments": "appointment", "reminders": "reminder"}


async def carry_out(records: Records, domain: str, operation: pb.Operation) -> pb.Applied:
    """Carry one operation out. Raises Refusal; then nothing of the batch may stand."""
    entity = offered(domain, operation)
    check_parts(operation)
    match operation.verb:
        case pb.VERB_CREATE:
            return await create(records, entity, operation)
        case pb.VERB_READ:
            return await read(records, entity, operation)
        case pb.VERB_UPDATE:
            return await update(records, entity, operation)
        case _:
            return await delete(records, entity, operation)


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
    return entity


def check_parts(operation: pb.Operation) -> None:
    """Raises Refusal for an operation with a part that its verb lacks, or has no use for."""
    selects = operation.selector.WhichOneof("target") is not None
    if operation.verb in (pb.VERB_UPDATE, pb.VERB_DELETE) and not selects:
        raise refusals.invalid(("selector", "must be set"))
    if operation.verb == pb.VERB_CREATE and selects:
        raise refusals.invalid(("selector", "is not for create"))
    if operation.verb in (pb.VERB_READ, pb.VERB_DELETE) and operation.fields.fields:
        raise refusals.invalid(("fields", "are for create and update only"))


async def read(records: Records, entity: Entity, operation: pb.Operation) -> pb.Applied:
    where = where_of(entity, operation.selector, records.context.zone)
    limit = operation.limit or DEFAULT_LIMIT
    found = await records.matching(entity, where, limit + 1)
    applied = pb.Applied(affected=min(len(found), limit), truncated=len(found) > limit)
    add_records(applied, found[:limit], records.context.zone)
    return applied


async def create(records: Records, entity: Entity, operation: pb.Operation) -> pb.Applied:
    context = records.context
    values = written_fields(entity, operation, context.zone)
    missing = [name for name in schema_of(entity.name).get("required", ()) if name not in values]
    if missing:
        raise refusals.invalid((f"fields.{missing[0]}", "must be set"))
    values = kept_values(entity.name, values, context.today)
    columns: dict[str, Any] = {"id": uuid4(), "clinic_id": context.clinic_id}
    if "client_name" in values:
        client = await records.client_named(values.pop("client_name"))
        columns["client_id"] = client.id
        if entity.name == "reminder" and not client.values["contact_consent"]:
            raise refusals.consent_missing()
    if entity.name == "reminder":
        columns["created_at"] = context.now  # by the clock that says what is due, not the store's
    if entity.name == "invoice":
        values.setdefault("issued_date", context.today)
    columns |= values
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier("clinic", entity.table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    with constraints_told(entity):
        await records.connection.execute(statement, list(columns.values()))
    return touched(await records.with_ids(entity, [columns["id"]]), context.zone)


async def update(records: Records, entity: Entity, operation: pb.Operation) -> pb.Applied:
    """Change the records that are not so already; the others stay as they are."""
    context = records.context
    values = written_fields(entity, operation, context.zone)
    if not values:
        raise refusals.invalid(("fields", "must be set"))
    if "client_name" in values:
        raise refusals.unknown_field("fields.client_name", "is set when a record is made only")
    kept = kept_values(entity.name, values, context.today)
    found = await records.target(entity, operation, lambda standing: is_changed(standing, values))
    check_changes(entity.name, [each.values for each in found], values)
    changing = [each for each in found if is_changed(each.values, values)]
    digest = check_digest(operation, changing, values)
    ids = [each.id for each in changing]
    assignments = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in kept
    )
    statement = sql.SQL("UPDATE {} SET {} WHERE id = ANY (%(ids)s)").format(
        sql.Identifier("clinic", entity.table), assignments
    )
    with constraints_told(entity):
        await records.connection.execute(statement, {**kept, "ids": ids})
    if context.validate_only:  # what is to be confirmed is called as it is now
        return pb.Applied(
            affected=len(ids), label=label(changing), labels=labels(changing), records_digest=digest
        )
    return touched(await records.with_ids(entity, ids), context.zone)


async def delete(records: Records, entity: Entity, operation: pb.Operation) -> pb.Applied:
    """Mark records as deleted; what refers to them forbids it."""
    found = await records.target(entity, operation)
    digest = check_digest(operation, found, {})
    if entity.name == "client":
        await check_unreferenced(records, found)
    statement = sql.SQL("UPDATE {} SET deleted_at = %s WHERE id = ANY (%s)").format(
        sql.Identifier("clinic", entity.table)
    )
    await records.connection.execute(statement, (records.context.now, [each.id for each in found]))
    return pb.Applied(
        affected=len(found), label=label(found), labels=labels(found), records_digest=digest
    )


def check_digest(
    operation: pb.Operation, found: Sequence[Found], values: Mapping[str, Any]
) -> bytes:
    """The digest of *found* and of what *values* would replace in them.

    Raises Refusal where it is not the one that was confirmed.
    """
    digest = digest_of(found, values)
    if operation.records_digest and operation.records_digest != digest:
        raise refusals.records_changed()
    return digest


async def check_unreferenced(records: Records, clients: Sequence[Found]) -> None:
    """Raises Refusal for clients whom a record names that is there.

    The foreign key does not see this, since nothing is removed. Who makes such a record meanwhile
    holds the client, so that this waits for it.
    """
    ids: list[UUID] = [each.id for each in clients]
    for table, entity in REFERRING.items():
        statement = sql.SQL(
            "SELECT 1 FROM {} WHERE client_id = ANY (%s) AND deleted_at IS NULL LIMIT 1"
        ).format(sql.Identifier("clinic", table))
        found = await records.connection.execute(statement, (ids,))
        if await found.fetchone():
            raise refusals.referenced(entity)


@contextmanager
def constraints_told(entity: Entity) -> Iterator[None]:
    """Turn what the tables refuse into Refusals; the constraint is the rule."""
    try:
        yield
    except psycopg.errors.UniqueViolation:
        raise refusals.exists(entity.name) from None
    except psycopg.errors.CheckViolation as error:
        name = error.diag.constraint_name or ""
        if name in CONSTRAINTS:
            raise refusals.invalid(CONSTRAINTS[name], name) from None
        raise refusals.invalid(("fields", "do not fit each other")) from None
