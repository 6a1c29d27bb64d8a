"""Confirmed changes: the records that were counted, all of them and no others (GAT-5)."""

from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import NotTried, check, expect
from services.conformance.subject import Subject

SHORTEST_DIGEST, LONGEST_DIGEST = 16, 64
MOST = 10_000


async def digest_of(subject: Subject, group: str) -> bytes:
    """The digest of a delete of *group* that is validated. Raises NotTried without one."""
    answer = await subject.run(subject.delete(group=group, max_affected=MOST), validate_only=True)
    digest = answer.results[0].applied.records_digest
    if not digest:
        raise NotTried("changes that are validated have no records_digest")
    return digest


def pinned(subject: Subject, group: str, digest: bytes) -> pb.Operation:
    return subject.delete(group=group, max_affected=MOST, records_digest=digest)


@check("confirm.digest")
async def digest(subject: Subject) -> None:
    """The records_digest of a validated change is the same for the same records alone."""
    group, other = subject.group(), subject.group()
    await subject.make(group, 2)
    await subject.make(other, 2)
    first = await digest_of(subject, group)
    length = len(first)
    expect(SHORTEST_DIGEST <= length <= LONGEST_DIGEST, f"the digest has {length} bytes")
    expect(await digest_of(subject, group) == first, "asked again, the digest is another")
    expect(await digest_of(subject, other) != first, "other records have the same digest")
    await subject.make(group)
    expect(await digest_of(subject, group) != first, "with one more record it is the same")


@check("confirm.held")
async def held(subject: Subject) -> None:
    """A change that has the digest of other records is refused whole with RECORDS_CHANGED."""
    group = subject.group()
    records = await subject.make(group, 2)
    outdated = await digest_of(subject, group)
    await subject.done(subject.delete(id=records[0]["id"]))
    await subject.make(group)
    (reason,) = await subject.refused(pinned(subject, group, outdated))
    expect(reason == "RECORDS_CHANGED", f"it was refused with {reason}")
    expect(len(await subject.standing(group)) == 2, "records are gone all the same")
    (applied,) = await subject.done(pinned(subject, group, await digest_of(subject, group)))
    expect(applied.affected == 2, f"of 2 records it affected {applied.affected}")
