"""What operations would touch: for what is unclear, and for what must be confirmed (GAT-4, GAT-5).

The domains are asked with validate_only; nothing is changed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import dispatch
from services.gateway.admission import operation_id
from services.gateway.authorization import Planned
from services.gateway.dispatch import Done, ended
from services.gateway.failures import ConfirmationRefused
from services.gateway.interpret.checking import entity_of
from services.gateway.peers import Domains
from services.gateway.references import DependencyFailed
from services.runtime.failure import Failure
from services.runtime.identity import Caller

MOST_LOOKED_AT = 500
TARGETED = (domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)


@dataclass(frozen=True)
class Touched:
    """What each operation would do, in the request's order, and to which records."""

    done: list[Done]
    records_digest: bytes

    @property
    def affected(self) -> list[int]:
        return [each.applied.affected if each.applied else 0 for each in self.done]


async def touched(
    planned: Sequence[Planned],
    descriptors: Mapping[str, DomainDescriptor],
    domains: Domains,
    caller: Caller,
    request_id: str,
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
                looks_before(each, descriptors[name], caller, request_id),
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
    return Touched(every, digest_of(every, records))


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
    asked = [*looks, *planned]
    request = dispatch.request_of(asked, time_zone, validate_only=True)
    try:
        response = await domains.execute_batch(descriptor, request)
    except Failure as failure:
        return [ended(each, failure=failure) for each in planned], {}
    every = [
        dispatch.result_of(each, result)
        for each, result in zip(asked, response.results, strict=True)
    ]
    looked = {
        each.planned.index: ids_in(each.applied) for each in every[: len(looks)] if each.applied
    }
    return every[len(looks) :], looked


def looks_before(
    planned: Sequence[Planned], descriptor: DomainDescriptor, caller: Caller, request_id: str
) -> list[Planned]:
    """Reads of what the changes select, where the domain lets it be read.

    They go first: after a change that is tried its records may no longer be selected.
    """
    looks: list[Planned] = []
    for each in planned:
        entity = entity_of(each.operation, descriptor)
        readable = entity is not None and domain_pb2.VERB_READ in entity.operations
        if each.operation.verb in TARGETED and readable and len(planned) + len(looks) < 100:
            look = pb.Operation(
                domain=each.operation.domain,
                verb=domain_pb2.VERB_READ,
                entity=each.operation.entity,
                selector=each.operation.selector,
                limit=MOST_LOOKED_AT,
            )
            id_ = operation_id(caller, request_id, f"look/{each.index}")
            looks.append(Planned(each.index, id_, look))
    return looks


def ids_in(applied: domain_pb2.Applied) -> list[str]:
    return sorted(str(each["id"]) for each in applied.records if "id" in each)


def digest_of(done: Sequence[Done], records: Mapping[int, Sequence[str]]) -> bytes:
    """Equal as long as the same changes would touch the same records."""
    told = [
        (
            each.planned.index,
            each.applied.affected if each.applied else 0,
            list(records.get(each.planned.index, ())),
        )
        for each in done
        if each.planned.modifies
    ]
    return hashlib.sha256(repr(told).encode()).digest()


def hold(confirmed: pb.ConfirmationRequired, records_digest: bytes, now: Touched) -> None:
    """Hold what is about to be done to what was summarised, and let it touch no more.

    Raises ConfirmationRefused where it would not do the same any more.
    """
    if now.records_digest != records_digest:
        raise ConfirmationRefused(
            "what was confirmed would no longer do the same", reason="CONFIRMATION_OUTDATED"
        )
    for each, shown in zip(now.done, confirmed.operations, strict=True):
        if each.planned.modifies and shown.affected:
            each.planned.operation.max_affected = shown.affected
