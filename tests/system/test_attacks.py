"""What a caller with a token of their own tries, against the suite (docs/security.md)."""

import gzip

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from tests.gateway_calls import Stage, client, clients

BOMB_BYTES = 64 * 1024 * 1024


async def test_a_message_that_unpacks_to_more_than_it_may_is_refused(crew: Stage) -> None:
    """ALL-1: compression does not carry a message past its bound, and costs little memory."""
    user = await crew.user()
    bomb = pb.ExecuteRequest(request_id="bomb", instruction="a" * BOMB_BYTES).SerializeToString()
    assert len(gzip.compress(bomb, 1)) < 4 * 1024 * 1024, "it would not pass the wire's bound"
    limits = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(crew.suite.addresses["gateway"], limits) as channel:
        execute = channel.unary_unary("/gatehouse.gateway.v1.GatewayService/Execute")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await execute(bomb, compression=grpc.Compression.Gzip, **user.call)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await user.execute([client("Ana")])).report.successes, "it still answers"


@pytest.mark.parametrize(
    "name",
    [
        "'; DROP TABLE clinic.clients; --",
        "%' OR '1'='1",
        "{ $token } { DATETIME($now) }",
        "../../etc/passwd",
        'x"\r\nauthorization: Bearer other',
        "${jndi:ldap://127.0.0.1/x}",
    ],
)
async def test_a_text_that_means_something_elsewhere_is_a_text(crew: Stage, name: str) -> None:
    """DOM-2: it is stored as it came, found by it alone, and told back as it is."""
    user = await crew.user()
    await user.execute([client("Other"), client(name)])
    assert sorted(await user.clients()) == sorted(["Other", name])
    found = await user.execute([clients(name=name)])
    [read] = found.report.successes
    assert [record["name"] for record in read.records] == [name]


async def test_anothers_clinic_in_a_request_changes_nothing_there(crew: Stage) -> None:
    """ALL-3: the clinic is the token's, also where a field names another or a record of theirs."""
    mine, theirs = await crew.user(), await crew.user()
    made = await theirs.execute([client("Theirs")], request_id="shared")
    record = made.report.successes[0].records[0]["id"]
    answer = await mine.execute([client("Mine", clinic_id=theirs.clinic_id)])
    assert not answer.report.successes
    read = await mine.execute([clients(id=record)])
    assert not [each for success in read.report.successes for each in success.records]
    assert await theirs.clients() == ["Theirs"]
    # The id of a request is the user's own: the same one of another's is neither theirs nor known.
    again = await mine.execute([client("Mine")], request_id="shared")
    assert not again.replayed
    listed = await crew.gateways[0].ListOperations(pb.ListOperationsRequest(), **mine.call)
    assert theirs.id not in str(listed)


async def test_a_users_token_administers_nothing(crew: Stage) -> None:
    """ALL-3: also one that names roles that do not exist, or in other letters."""
    user = await crew.user(roles=("user", "ADMIN", "root", "*"))
    assign = entitlements_pb2.AssignUserPlanRequest(user_id=user.id, plan_name="premium")
    failure = await user.refused(crew.entitlements.AssignUserPlan(assign, **user.call))
    assert failure.reason == "ROLE_REQUIRED"
