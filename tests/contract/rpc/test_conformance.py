"""What `gatehouse domains check` finds in a domain service (DOM-1)."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub

from services.conformance import CHECKS, Finding, Verdict, check_domain
from services.conformance.callers import Callers, Signer
from services.conformance.findings import named
from services.conformance.running import Left, Plan, UnusableDomain
from services.conformance.samples import Sample
from tests.clinic_calls import client, clinic_at
from tests.wrong_domain import Wrong, faults, serving_wrong

NAME = "Ana Conformance"
INVOICE = Sample(
    create={"number": "CHK-{n}", "client_name": NAME, "amount": 10, "due_date": "2099-01-01"},
    update={"amount": [20, 30]},
)
REMINDER = Sample(create={"client_name": NAME})


@pytest.fixture(scope="module")
async def addresses(database, tokens) -> AsyncIterator[Mapping[str, str]]:
    async with clinic_at(database.url_for("clinic"), tokens) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def signer(tokens) -> Signer:
    return Signer(tokens.issued_by.key, tokens.issuer, tokens.audience)


async def findings(address: str, callers: Callers, *only: str, **plan) -> list[Finding]:
    left = Left()
    async with (
        grpc.aio.insecure_channel(address) as channel,
        aclosing(check_domain(channel, callers, Plan(named(only), **plan), left)) as found,
    ):
        return [each async for each in found]


def told(found: list[Finding], verdict: Verdict) -> dict[str, str]:
    return {each.check: each.told for each in found if each.verdict is verdict}


async def ids_in(address: str, token: str, entity: str) -> int:
    """How many records a clinic has."""
    read = pb.Operation(operation_id=str(uuid.uuid4()), verb=pb.VERB_READ, entity=entity, limit=500)
    answer = await execute(address, token, read)
    return answer.results[0].applied.affected


async def execute(address: str, token: str, operation: pb.Operation) -> pb.ExecuteBatchResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await DomainServiceStub(channel).ExecuteBatch(
            pb.ExecuteBatchRequest(operations=[operation]),
            metadata=[("authorization", f"Bearer {token}")],
            timeout=10,
        )
    assert answer.committed
    return answer


async def test_the_example_keeps_every_promise(addresses, signer) -> None:
    """DOM-1, DOM-2: and of what the checks have made nothing is left."""
    callers = Callers.signed_by(signer)
    found = await findings(addresses["clients"], callers)
    assert told(found, Verdict.BROKEN) == {}
    assert set(told(found, Verdict.NOT_TRIED)) == {"refuse.not_offered", "select.not_selectable"}
    assert [each.check for each in found] == [each.name for each in CHECKS]
    assert await ids_in(addresses["clients"], callers.user, "client") == 0


@pytest.mark.parametrize(
    ("domain", "entity", "sample"),
    [("finance", "invoice", INVOICE), ("appointments", "reminder", REMINDER)],
)
async def test_records_that_need_others_are_made_as_a_sample_says(
    addresses, signer, domain: str, entity: str, sample: Sample
) -> None:
    """DOM-1, DOM-2: without the sample nothing can be made, and that is told."""
    callers = Callers.signed_by(signer)
    await execute(addresses["clients"], callers.user, client(NAME, contact_consent=True))
    with pytest.raises(UnusableDomain, match="say how with --sample"):
        await findings(addresses[domain], callers, "dry", entity=entity)
    found = await findings(addresses[domain], callers, entity=entity, samples={entity: sample})
    assert told(found, Verdict.BROKEN) == {}
    assert await ids_in(addresses[domain], callers.user, entity) == 0


@pytest.mark.parametrize("kind", faults(), ids=lambda kind: kind.__name__)
async def test_a_wrong_domain_is_told_what_it_gets_wrong(
    addresses, signer, tmp_path, kind: type[Wrong]
) -> None:
    """DOM-1: each check is seen to fail on a domain that is wrong in just that."""
    callers = Callers.signed_by(signer)
    async with serving_wrong(kind, addresses["clients"], callers.user, tmp_path) as address:
        found = await findings(address, callers, *kind.breaks)
    broken = told(found, Verdict.BROKEN)
    assert set(broken) == set(kind.breaks), found
    assert all(broken.values())


def test_every_check_is_broken_by_a_wrong_domain() -> None:
    """DOM-1: a check that cannot fail says nothing."""
    assert {name for kind in faults() for name in kind.breaks} == {each.name for each in CHECKS}
