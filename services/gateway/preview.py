"""What operations would touch: for what is unclear, and for what must be confirmed (GAT-4, GAT-5).

The domains are asked with validate_only; nothing is changed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from services.gateway import dispatch
from services.gateway.admission import operation_id
from services.gateway.authorization import Planned
from services.gateway.changes import changes_of, records_changed
from services.gateway.dispatch import Done, ended
from services.gateway.failures import ConfirmationRefused, DomainUnavailable
from services.gateway.interpret.checking import entity_of
from services.gateway.peers import Domains, is_allowed
from services.gateway.reading import Reading
from services.gateway.references import DependencyFailed, RolledBack
from services.runtime.failure import RETRY_AFTER, DeadlineExceeded, Failure, NotFound

MOST_LOOKED_AT = 500
MOST_CONDITIONS = 16
AWAY = (DomainUnavailable, DeadlineExceeded)
TARGETED = (domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)


class ConfirmationUnsupported(Failure):
    """A domain cannot hold a change to the records that were counted, so none is confirmed."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "CONFIRMATION_UNSUPPORTED"

    def __init__(self) -> None:
        super().__init__("the domain cannot hold the change to the records that were counted")


class TooManyAffected(Failure):
    """It would touch more records than it may; so would its domain say."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "TOO_MANY_AFFECTED"

    def __init__(self) -> None:
        super().__init__("more records match than may be touched")


@dataclass(frozen=True)
class Touched:
    """What each operation would do, in the request's order, and to which records."""

    done: list[Done]
    # What each change selects, by index, where its domain lets all of it be read.
    records: Mapping[int, Sequence[Struct]]
    records_digest: bytes

    @property
    def affected(self) -> list[int]:
        return [each.applied.affected if each.applied else 0 for each in self.done]

    def changes(self, done: Done) -> list[pb.Change]:
        return changes_of(done.planned.operation, self.records.get(done.planned.index))


async def touched(
    planned: Sequence[Planned],
    descriptors: Mapping[str, DomainDescriptor],
    domains: Domains,
    use_id: UUID,
    reading: Reading,
) -> Touched:
    """What each of *planned* would do. Beside each change its records are looked at.

    What refers to a record that is yet to be made cannot be asked about: it touches what it
    selects, or one record where that cannot be looked at.
    """
    batches: dict[str, list[Planned]] = {}
    for each in planned:
        if not each.refused:
            batches.setdefault(each.operation.domain, []).append(each)
    found = await asyncio.gather(
        *(
            previewed(
                looks_before(each, descriptors[name], use_id),
                [one for one in each if not one.operation.references],
                descriptors[name],
                domains,
                reading,
            )
            for name, each in batches.items()
        )
    )
    records = {index: each for _, looked in found for index, each in looked.items()}
    every = [ended(each, failure=each.refused) for each in planned if each.refused]
    every += [one for done, _ in found for one in done]
    every += [
        outcome_by_records(each, records.get(each.index))
        for each in planned
        if each.operation.references and not each.refused
    ]
    every.sort(key=lambda each: each.planned.index)
    every = whole_batches(every)
    return Touched(every, records, digest_of(every, records, descriptors))


def outcome_by_records(planned: Planned, records: Sequence[Struct] | None) -> Done:
    """What an operation with a reference would do, by the records that it selects."""
    if records is None:
        return ended(planned, applied=domain_pb2.Applied(affected=1))
    if not records:
        return ended(planned, failure=NotFound("no record matches"))
    applied = domain_pb2.Applied(affected=len(records))
    if not is_allowed(planned.operation, applied):
        return ended(planned, failure=TooManyAffected())
    return ended(planned, applied=applied)


def whole_batches(done: Sequence[Done]) -> list[Done]:
    """*done* as batches: where one operation of a domain fails, none of that domain is done.

    What refers to an operation that is not done fails as well, and its batch with it (GAT-6).
    """
    every = list(done)
    while True:
        made = {each.planned.index for each in every if each.applied is not None}
        failing = {each.planned.operation.domain for each in every if each.applied is None}
        then = [fate_of(each, made, failing) for each in every]
        if all(new is old for new, old in zip(then, every, strict=True)):
            return then
        every = then


def fate_of(done: Done, made: set[int], failing: set[str]) -> Done:
    """*done*, or how it fails by what else of the request fails."""
    operation = done.planned.operation
    if done.applied is None:
        return done
    if not all(each.operation in made for each in operation.references):
        return ended(done.planned, failure=DependencyFailed())
    if operation.domain in failing:
        return ended(done.planned, failure=RolledBack())
    return done


async def previewed(
    looks: Sequence[Planned],
    planned: Sequence[Planned],
    descriptor: DomainDescriptor,
    domains: Domains,
    reading: Reading,
) -> tuple[list[Done], dict[int, list[Struct]]]:
    """What one domain says of *planned*, and what *looks* found where that is all, by index."""
    (done, failure), (looked, _) = await asyncio.gather(
        tried(planned, descriptor, domains, reading), tried(looks, descriptor, domains, reading)
    )
    if failure is not None:
        return [ended(each, failure=failure) for each in planned], {}
    return done, {
        each.planned.index: list(each.applied.records)
        for each in looked
        if each.applied is not None and is_whole(each.applied)
    }


def is_whole(looked: domain_pb2.Applied) -> bool:
    """Whether a look found all that there is, each record with its id."""
    named = sum("id" in each for each in looked.records)
    return not looked.truncated and named == looked.affected


async def tried(
    planned: Sequence[Planned], descriptor: DomainDescriptor, domains: Domains, reading: Reading
) -> tuple[list[Done], Failure | None]:
    """What a domain says of each of *planned*, or why it says nothing."""
    if not planned:
        return [], None
    request = dispatch.request_of(
        planned, reading.time_zone.key, reading.locale, validate_only=True
    )
    try:
        response = await domains.execute_batch(descriptor, request)
    except Failure as failure:
        return [], failure
    pairs = zip(planned, response.results, strict=True)
    return [dispatch.result_of(each, result) for each, result in pairs], None


def looks_before(
    planned: Sequence[Planned], descriptor: DomainDescriptor, use_id: UUID
) -> list[Planned]:
    """Reads of what the changes select, where the domain lets it be read.

    In a batch of their own: after a change that is tried its records may no longer be selected.
    """
    looks: list[Planned] = []
    for each in planned:
        entity = entity_of(each.operation, descriptor)
        readable = entity is not None and domain_pb2.VERB_READ in entity.operations
        selects = each.operation.selector.WhichOneof("target") is not None
        if each.operation.verb in TARGETED and readable and selects:
            look = pb.Operation(
                domain=each.operation.domain,
                verb=domain_pb2.VERB_READ,
                entity=each.operation.entity,
                selector=each.operation.selector,
                limit=MOST_LOOKED_AT,
            )
            id_ = operation_id(use_id, f"look/{each.index}")
            looks.append(Planned(each.index, id_, look))
    return looks


def ids_in(records: Sequence[Struct]) -> list[str]:
    return sorted(str(each["id"]) for each in records if "id" in each)


def digest_of(
    done: Sequence[Done],
    records: Mapping[int, Sequence[Struct]],
    descriptors: Mapping[str, DomainDescriptor],
) -> bytes:
    """Equal as long as the same changes would touch the same records of the same domains.

    A domain's own digest covers all of them; without one the ids that could be read have to do.
    """
    told = [
        (
            each.planned.index,
            each.applied.affected if each.applied else 0,
            name_of(each),
            each.applied.records_digest if each.applied else b"",
            ids_in(records.get(each.planned.index, ())),
            records_changed(changes_of(each.planned.operation, records.get(each.planned.index))),
        )
        for each in done
        if each.planned.modifies
    ]
    names = sorted({each.planned.operation.domain for each in done})
    domains = [(name, descriptors[name].etag) for name in names if name in descriptors]
    return hashlib.sha256(repr((told, domains)).encode()).digest()


def name_of(done: Done) -> str:
    """What people were shown the one record as; of several, some are named in no certain order."""
    return done.applied.label if done.applied and done.applied.affected == 1 else ""


def confirmable(now: Touched) -> Touched:
    """*now* without the changes that could not be held to the records which they would touch.

    They are not offered for confirmation: confirmed, they might touch records nobody counted.
    """
    done = [
        each
        if each.applied is None or can_pin(each, now.records.get(each.planned.index))
        else ended(each.planned, failure=ConfirmationUnsupported())
        for each in now.done
    ]
    return replace(now, done=whole_batches(done))


def can_pin(done: Done, records: Sequence[Struct] | None) -> bool:
    """Whether a change can be held to its records: by its one id, a digest, or all of the ids."""
    operation = done.planned.operation
    if operation.verb not in TARGETED or operation.selector.WhichOneof("target") != "conditions":
        return True
    if done.applied is not None and done.applied.records_digest:
        return True
    return bool(records) and len(operation.selector.conditions.conditions) < MOST_CONDITIONS


def held(confirmed: pb.ConfirmationRequired, records_digest: bytes, now: Touched) -> list[Planned]:
    """What is to be carried out of what was summarised: it touches those records, and no others.

    What was shown as touching nothing is not tried. Raises ConfirmationRefused where it would not
    do the same any more, and DomainUnavailable where that cannot be known.
    """
    if now.records_digest != records_digest:
        if any(isinstance(each.failure, AWAY) for each in now.done):
            raise DomainUnavailable("a domain does not answer", retry_after=RETRY_AFTER)
        raise ConfirmationRefused(
            "what was confirmed would no longer do the same", reason="CONFIRMATION_OUTDATED"
        )
    every = confirmable(now).done
    changed = {each.planned.operation.domain for each in every if each.planned.modifies}
    return [
        pin(done, shown.affected, now.records.get(done.planned.index))
        if done.planned.operation.domain in changed
        else done.planned
        for done, shown in zip(every, confirmed.operations, strict=True)
    ]


def pin(done: Done, affected: int, records: Sequence[Struct] | None) -> Planned:
    """A change that touches no more records than were shown, and no others (see can_pin).

    What it selects them by must still hold of them as well. What failed when it was tried is
    refused, and its batch with it.
    """
    planned = replace(done.planned, refused=done.failure)
    if done.applied is None or not planned.modifies:
        return planned
    planned.operation.max_affected = affected
    if done.applied.records_digest:
        return replace(planned, records_digest=done.applied.records_digest)
    selector = planned.operation.selector
    if records is not None and selector.WhichOneof("target") == "conditions":
        only = selector.conditions.conditions.add(field="id", comparison=domain_pb2.COMPARISON_IN)
        only.value.list_value.extend(ids_in(records))
    return planned
