"""What operations would touch: for what is unclear, and for what must be confirmed (GAT-4, GAT-5).

The domains are asked with validate_only; nothing is changed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import dispatch
from services.gateway.admission import operation_id
from services.gateway.authorization import Planned
from services.gateway.dispatch import Done, ended
from services.gateway.failures import ConfirmationRefused, DomainUnavailable
from services.gateway.interpret.checking import entity_of
from services.gateway.peers import Domains
from services.gateway.references import DependencyFailed, RolledBack
from services.runtime.failure import RETRY_AFTER, DeadlineExceeded, Failure

MOST_LOOKED_AT = 500
MOST_CONDITIONS = 16
AWAY = (DomainUnavailable, DeadlineExceeded)
TARGETED = (domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)


@dataclass(frozen=True)
class Touched:
    """What each operation would do, in the request's order, and to which records."""

    done: list[Done]
    # The ids of what each change selects, by index, as far as its domain lets it be read.
    records: Mapping[int, Sequence[str]]
    records_digest: bytes

    @property
    def affected(self) -> list[int]:
        return [each.applied.affected if each.applied else 0 for each in self.done]


async def touched(
    planned: Sequence[Planned],
    descriptors: Mapping[str, DomainDescriptor],
    domains: Domains,
    use_id: UUID,
    time_zone: str,
) -> Touched:
    """What each of *planned* would do. Beside each change its records are looked at.

    What refers to a record that is yet to be made cannot be asked about: it touches one record.
    """
    batches: dict[str, list[Planned]] = {}
    for each in planned:
        if not each.refused and not each.operation.references:
            batches.setdefault(each.operation.domain, []).append(each)
    found = await asyncio.gather(
        *(
            previewed(
                looks_before(each, descriptors[name], use_id),
                each,
                descriptors[name],
                domains,
                time_zone,
            )
            for name, each in batches.items()
        )
    )
    every = [ended(each, failure=each.refused) for each in planned if each.refused]
    every += [one for done, _ in found for one in done]
    every += referring(planned, every)
    records = {index: ids for _, looked in found for index, ids in looked.items()}
    every.sort(key=lambda each: each.planned.index)
    return Touched(every, records, digest_of(every, records, descriptors))


def referring(planned: Sequence[Planned], known: Sequence[Done]) -> list[Done]:
    """How operations that refer to others would end, by how those would."""
    would = {each.planned.index: each.applied is not None for each in known}
    every: list[Done] = []
    for each in planned:
        references = each.operation.references
        if each.refused or not references:
            continue
        would[each.index] = all(would.get(one.operation, False) for one in references)
        if would[each.index]:
            every.append(ended(each, applied=domain_pb2.Applied(affected=1)))
        else:
            every.append(ended(each, failure=DependencyFailed()))
    return every


async def previewed(
    looks: Sequence[Planned],
    planned: Sequence[Planned],
    descriptor: DomainDescriptor,
    domains: Domains,
    time_zone: str,
) -> tuple[list[Done], dict[int, list[str]]]:
    """What one domain says of *planned*, and the ids of what *looks* found, by index."""
    (done, failure), (looked, _) = await asyncio.gather(
        tried(planned, descriptor, domains, time_zone), tried(looks, descriptor, domains, time_zone)
    )
    if failure is not None:
        return [ended(each, failure=failure) for each in planned], {}
    return as_one(done), {
        each.planned.index: ids_in(each.applied) for each in looked if each.applied
    }


async def tried(
    planned: Sequence[Planned], descriptor: DomainDescriptor, domains: Domains, time_zone: str
) -> tuple[list[Done], Failure | None]:
    """What a domain says of each of *planned*, or why it says nothing."""
    if not planned:
        return [], None
    request = dispatch.request_of(planned, time_zone, validate_only=True)
    try:
        response = await domains.execute_batch(descriptor, request)
    except Failure as failure:
        return [], failure
    pairs = zip(planned, response.results, strict=True)
    return [dispatch.result_of(each, result) for each, result in pairs], None


def as_one(done: Sequence[Done]) -> list[Done]:
    """*done* as a batch: where one of its operations could not be done, none of it would be."""
    if all(each.applied is not None for each in done):
        return list(done)
    undone = RolledBack()
    return [ended(each.planned, failure=each.failure or undone) for each in done]


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
        if each.operation.verb in TARGETED and readable:
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


def ids_in(applied: domain_pb2.Applied) -> list[str]:
    return sorted(str(each["id"]) for each in applied.records if "id" in each)


def digest_of(
    done: Sequence[Done],
    records: Mapping[int, Sequence[str]],
    descriptors: Mapping[str, DomainDescriptor],
) -> bytes:
    """Equal as long as the same changes would touch the same records of the same domains."""
    told = [
        (
            each.planned.index,
            each.applied.affected if each.applied else 0,
            name_of(each),
            list(records.get(each.planned.index, ())),
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
    for each, shown in zip(now.done, confirmed.operations, strict=True):
        if each.planned.modifies:
            pin(each.planned.operation, shown.affected, now.records.get(each.planned.index, ()))
    return [
        replace(each.planned, refused=each.failure) if each.planned.modifies else each.planned
        for each in now.done
    ]


def pin(operation: pb.Operation, affected: int, ids: Sequence[str]) -> None:
    """Have *operation* touch no more records than were shown, and none but *ids*, if they are all.

    What it selects them by must still hold of them as well.
    """
    operation.max_affected = affected
    conditions = operation.selector.conditions.conditions
    if conditions and len(conditions) < MOST_CONDITIONS and len(ids) == affected:
        only = conditions.add(field="id", comparison=domain_pb2.COMPARISON_IN)
        only.value.list_value.extend(ids)
