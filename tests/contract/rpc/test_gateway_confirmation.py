"""What is unclear is asked, and what is grave is confirmed, exactly (GAT-4, GAT-5)."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from bench.fault_provider import Behaviour
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    another_gateway,
    client,
    clients,
    eventually,
    indexes,
    invoice,
    operation,
    reasons,
    refused,
    with_models,
)

SIX = [client(f"Client {number}") for number in range(6)]


async def asked(user: User, what: str | Sequence[pb.Operation], id_: str) -> str:
    """The token that the gateway gives out for *what*."""
    answer = await user.execute(what, request_id=id_)
    assert answer.HasField("confirmation"), answer
    return answer.confirmation.confirmation_token


async def with_clients(stage: Stage, *names: str) -> User:
    user = await stage.user()
    await user.execute([client(name) for name in names])
    return user


@pytest.fixture
def id_() -> str:
    return str(uuid.uuid4())


async def test_an_ambiguous_target_is_asked_back(stage: Stage) -> None:
    """GAT-4: with the candidates; nothing is changed, and each answer can be sent as it is."""
    user = await with_clients(stage, "Ana", "Ana")
    rename = operation("clients", UPDATE, where={"name": "Ana"}, phone="123")
    answer = await user.execute([rename])
    assert answer.clarification.ambiguity == pb.AMBIGUITY_TARGET
    assert answer.clarification.question
    assert [option.label for option in answer.clarification.options] == ["Ana", "Ana"]
    phones = "SELECT phone FROM clinic.clients WHERE clinic_id = %s ORDER BY phone"
    assert await stage.rows(phones, user.clinic_id) == [(None,), (None,)]
    chosen = await user.execute(answer.clarification.options[1].operations.operations)
    assert chosen.report.outcome == pb.OUTCOME_SUCCEEDED
    assert await stage.rows(phones, user.clinic_id) == [("123",), (None,)]
    assert (await user.usage())[1] == 3


async def test_words_for_several_records_change_none(stage: Stage) -> None:
    """GAT-4: not guessed, and not counted."""
    user = await with_clients(stage, "Ana", "Ana")
    answer = await user.execute("change the phone of client Ana to 555")
    assert answer.WhichOneof("result") == "clarification"
    assert await user.usage() == (0, 2)
    phones = "SELECT count(*) FROM clinic.clients WHERE clinic_id = %s AND phone IS NOT NULL"
    assert await stage.rows(phones, user.clinic_id) == [(0,)]


async def test_an_answer_to_a_question_keeps_the_rest_of_the_request(stage: Stage) -> None:
    """GAT-4: a choice is sent with all that was asked for beside it."""
    user = await with_clients(stage, "Ana", "Ana", "Bea")
    request = [
        operation("clients", DELETE, "client", where={"name": "Bea"}),
        operation("clients", UPDATE, "client", where={"name": "Ana"}, phone="1"),
    ]
    answer = await user.execute(request)
    option = answer.clarification.options[0].operations.operations
    assert [each.verb for each in option] == [DELETE, UPDATE]
    assert option[0] == request[0]
    assert option[1].selector.id


async def test_more_than_five_changes_are_confirmed(stage: Stage, id_: str) -> None:
    """GAT-5, USE-6: five are not; what was summarised is done, as one modifying request."""
    user = await stage.user()
    assert (await user.execute(SIX[:5])).HasField("report")
    answer = await user.execute(SIX, request_id=id_)
    assert answer.confirmation.reasons == [pb.CONFIRMATION_REASON_MANY_OPERATIONS]
    assert [each.affected for each in answer.confirmation.operations] == [1] * 6
    assert [each.operation for each in answer.confirmation.operations] == SIX
    assert "6" in answer.confirmation.summary
    assert len(await user.clients()) == 5
    assert await user.usage() == (0, 5)
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED
    assert len(await user.clients()) == 11
    assert await user.usage() == (0, 11)
    receipts = "SELECT kind, granted FROM usage.receipts WHERE user_id = %s ORDER BY kind, granted"
    assert await stage.rows(receipts, user.id) == [
        ("modify", 5),
        ("modify", 6),
        ("query", 0),
        ("query", 0),
    ]


async def test_more_than_three_domains_are_confirmed(stage: Stage) -> None:
    """GAT-5: three are not; reads alone never are."""
    user = await with_clients(stage, "Ana")
    async with stage.lab() as lab:
        three = [client("Bea"), *(operation(name, READ) for name in ("finance", "appointments"))]
        assert (await user.execute(three)).HasField("report")
        four = [*three, operation(lab.name, READ)]
        answer = await user.execute(four)
        assert answer.confirmation.reasons == [pb.CONFIRMATION_REASON_MANY_DOMAINS]
        reading = [clients(), *four[1:]]
        assert (await user.execute(reading)).report.outcome == pb.OUTCOME_SUCCEEDED


async def test_a_delete_in_a_sensitive_domain_is_confirmed(stage: Stage, id_: str) -> None:
    """GAT-5: in one of medium sensitivity it is not."""
    user = await with_clients(stage, "Ana")
    delete = [operation("clients", DELETE, where={"name": "Ana"})]
    answer = await user.execute(delete, request_id=id_)
    assert answer.confirmation.reasons == [pb.CONFIRMATION_REASON_SENSITIVE_DELETE]
    assert await user.clients() == ["Ana"]
    token = answer.confirmation.confirmation_token
    # With the payload as well as without it.
    await user.execute(delete, request_id=id_, confirmation_token=token)
    assert await user.clients() == []
    async with stage.lab(sensitivity_level=entitlements_pb2.SENSITIVITY_LEVEL_MEDIUM) as lab:
        assert (await user.execute([operation(lab.name, DELETE, record="1")])).HasField("report")


async def test_what_cannot_be_shown_is_not_tried(stage: Stage) -> None:
    """GAT-5: a grave change whose domain does not say what it would do is not carried out."""
    user = await stage.user()
    async with stage.lab(sensitivity_level=entitlements_pb2.SENSITIVITY_LEVEL_HIGH) as lab:

        async def only_for_real(request):
            if request.validate_only:
                raise RuntimeError
            return await lab.apply(request)

        lab.answers = only_for_real
        answer = await user.execute([operation(lab.name, DELETE, record="1")])
        assert reasons(answer.report) == ["DOMAIN_MALFUNCTION"]
        assert lab.done == []
        assert await user.usage() == (0, 0)
        assert [row[2] for row in await user.log()] == ["failed"]


async def test_asked_again_it_is_the_same_question(stage: Stage, id_: str) -> None:
    """GAT-2, GAT-5: a retry before the confirmation gets the same token, and nothing is done."""
    user = await stage.user()
    first = await user.execute(SIX, request_id=id_)
    second = await user.execute(SIX, request_id=id_, replica=1)
    assert second.replayed
    assert second.confirmation == first.confirmation
    assert await user.clients() == []


async def test_a_token_that_is_used_twice_at_once_does_it_once(stage: Stage, id_: str) -> None:
    """GAT-5: over two replicas; both are told the one report."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    answers = await asyncio.gather(
        *(
            user.execute(None, request_id=id_, confirmation_token=token, replica=each % 2)
            for each in range(8)
        )
    )
    assert len({answer.report.id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(await user.clients()) == 6
    assert await user.usage() == (0, 6)
    assert [row[2] for row in await user.log()] == ["succeeded"] * 6


async def test_a_token_is_for_its_user_and_request_alone(stage: Stage, id_: str) -> None:
    """GAT-5: nobody else's, no other request's, no other clinic's, none that was tampered with."""
    user, other = await stage.user(), await stage.user()
    token = await asked(user, SIX, id_)
    await asked(other, SIX, id_)
    second = str(uuid.uuid4())
    await asked(user, SIX, second)
    elsewhere = User(stage, user.id, str(uuid.uuid4()))
    body, _, signature = token.rpartition(".")
    forged = f"{body}.{signature[:-1]}{'0' if signature[-1] != '0' else '1'}"
    later = token.replace(body.rpartition(".")[2], "9999999999")
    for caller, request_id, given in (
        (other, id_, token),
        (user, second, token),
        (user, str(uuid.uuid4()), token),
        (elsewhere, id_, token),
        (user, id_, forged),
        (user, id_, later),
        (user, id_, "no token at all"),
        (user, id_, "ü"),
    ):
        call = caller.execute(None, request_id=request_id, confirmation_token=given)
        failure = await refused(call)
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.reason == "CONFIRMATION_INVALID"
    assert await user.clients() == await other.clients() == []


async def test_a_confirmation_is_of_what_was_asked_alone(stage: Stage, id_: str) -> None:
    """GAT-5, GAT-2: the token with another payload is refused."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    other = [*SIX[:5], client("Somebody else")]
    failure = await refused(user.execute(other, request_id=id_, confirmation_token=token))
    assert failure.reason == "REQUEST_ID_REUSED"
    dry = user.execute(SIX, request_id=id_, confirmation_token=token, validate_only=True)
    assert (await refused(dry)).reason == "INVALID_ARGUMENT"
    assert await user.clients() == []


async def test_a_token_ends_and_the_question_comes_anew(stage: Stage, id_: str) -> None:
    """GAT-5: expired it is refused; the same request then gets a new summary."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    await stage.rows(
        "UPDATE gateway.requests SET token_expires_at = now() WHERE user_id = %s", user.id
    )
    late = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert late.reason == "CONFIRMATION_EXPIRED"
    fresh = await asked(user, SIX, id_)
    assert fresh != token
    old = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert old.reason == "CONFIRMATION_OUTDATED"
    await user.execute(None, request_id=id_, confirmation_token=fresh)
    assert len(await user.clients()) == 6


async def test_a_token_says_how_long_it_is_good(stage: Stage, id_: str) -> None:
    """GAT-5: as the setting has it, and not a moment longer."""
    user = await stage.user()
    async with another_gateway(stage.suite, confirmation_seconds="0.2") as gateway:
        request = pb.ExecuteRequest(request_id=id_, operations=pb.OperationList(operations=SIX))
        answer = await gateway.Execute(request, **user.call)
        lifetime = answer.confirmation.expires_at.ToMilliseconds()
        assert lifetime > 0
        request.confirmation_token = answer.confirmation.confirmation_token

        async def ended() -> bool:
            rows = await stage.rows(
                "SELECT token_expires_at <= now() FROM gateway.requests WHERE user_id = %s", user.id
            )
            return bool(rows[0][0])

        await eventually(ended)
        failure = await refused(gateway.Execute(request, **user.call))
        assert failure.reason == "CONFIRMATION_EXPIRED"


async def test_other_records_of_the_same_number_outdate_it(stage: Stage, id_: str) -> None:
    """GAT-5: what was confirmed were these clients, not as many of their name."""
    user = await with_clients(stage, "Ana")
    await user.execute([operation("clients", UPDATE, where={"name": "Ana"}, phone="1")])
    delete = [operation("clients", DELETE, where={"phone": "1"})]
    token = await asked(user, delete, id_)
    swap = [
        operation("clients", UPDATE, where={"name": "Ana"}, phone="2"),
        client("Bea", phone="1"),
    ]
    assert (await user.execute(swap)).report.outcome == pb.OUTCOME_SUCCEEDED
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "CONFIRMATION_OUTDATED"
    assert await user.clients() == ["Ana", "Bea"]
    # Asked again, the request gets a summary of what is there now.
    fresh = await asked(user, delete, id_)
    await user.execute(None, request_id=id_, confirmation_token=fresh)
    assert await user.clients() == ["Ana"]


async def test_more_records_than_were_shown_outdate_it(stage: Stage, id_: str) -> None:
    """GAT-5, GAT-4: also when there is one where there was none."""
    user = await with_clients(stage, "Ana")
    token = await asked(user, [operation("clients", DELETE, where={"name": "Ana"})], id_)
    await user.execute([client("Ana")])
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.reason == "CONFIRMATION_OUTDATED"
    assert await user.clients() == ["Ana", "Ana"]


async def test_a_plan_that_no_longer_allows_it_stops_what_was_confirmed(
    stage: Stage, id_: str
) -> None:
    """GAT-5, ENT-4: the plan that counts is the one of now."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    await stage.assign(user, "basic")

    async def stopped() -> bool:
        plan = (await stage.gateways[0].GetUsage(pb.GetUsageRequest(), **user.call)).usage.plan_name
        return plan == "basic"

    await eventually(stopped)
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.reason == "PLAN_FORBIDS"
    assert await user.clients() == []


async def test_times_are_confirmed_as_they_were_meant(stage: Stage, id_: str) -> None:
    """GAT-5: a confirmation without the zone of the request does not move its appointments."""
    user = await with_clients(stage, "Ana")
    request = [
        operation(
            "appointments",
            CREATE,
            "appointment",
            client_name="Ana",
            starts_at=f"2031-01-0{day}T10:00",
        )
        for day in range(1, 7)
    ]
    answer = await user.execute(request, request_id=id_, time_zone="Asia/Tokyo")
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    assert indexes(done.report) == list(range(6))
    hours = await stage.rows(
        "SELECT DISTINCT extract(hour FROM starts_at AT TIME ZONE 'UTC')::int"
        " FROM clinic.appointments WHERE clinic_id = %s",
        user.clinic_id,
    )
    assert hours == [(1,)]


async def test_low_confidence_is_confirmed_and_then_done(stage: Stage, id_: str) -> None:
    """GAT-5, USE-1: words that are not surely understood; the two calls are one query."""
    user = await with_clients(stage, "Ana")
    words = "change the phone of client Ana to 555"
    async with another_gateway(stage.suite, unconfirmed_confidence="1") as careful:
        request = pb.ExecuteRequest(request_id=id_, instruction=words)
        answer = await careful.Execute(request, **user.call)
        assert answer.confirmation.reasons == [pb.CONFIRMATION_REASON_LOW_CONFIDENCE]
        request.confirmation_token = answer.confirmation.confirmation_token
        done = await careful.Execute(request, **user.call)
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED
    assert await user.usage() == (0, 2)


async def test_words_for_many_records_are_confirmed(stage: Stage, id_: str) -> None:
    """GAT-5: one sentence may be many changes, so it is asked first."""
    user = await with_clients(stage, "Ana")
    for first in (1, 4):
        await user.execute([invoice(str(number), "Ana") for number in range(first, first + 3)])
    answer = await user.execute("mark all open invoices as paid", request_id=id_)
    assert answer.confirmation.reasons == [pb.CONFIRMATION_REASON_MANY_OPERATIONS]
    assert [each.affected for each in answer.confirmation.operations] == [6]
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    assert [each.affected for each in done.report.successes] == [6]


async def test_nothing_is_changed_by_a_dry_run(stage: Stage) -> None:
    """GAT-1, USE-8: it says what would be touched, or what would have to be confirmed."""
    user = await stage.user()
    answer = await user.execute([client("Ana"), clients()], validate_only=True)
    assert [each.affected for each in answer.report.successes] == [1, 1]
    assert (await user.execute(SIX, validate_only=True)).HasField("confirmation")
    assert (await user.execute(SIX, validate_only=True)).confirmation.confirmation_token == ""
    assert await user.clients() == []
    assert await user.usage() == (0, 0)
    assert await user.log() == []


def read_as(verb: str, **fields: str) -> str:
    """What a model answers that understood one operation on clients."""
    operation = {"domain": "clients", "entity": "client", "verb": verb, "conditions": []}
    return json.dumps({"operations": [{**operation, "fields": fields}]})


async def test_what_a_model_understood_is_confirmed_where_it_changes(
    stage: Stage, id_: str, tmp_path: Path
) -> None:
    """GAT-3, GAT-5, USE-2: where the rules doubt; a read counts as one, a change alone."""
    user = await stage.user()
    words = "Zed is new with us, you know what to do"
    async with with_models(stage.suite, tmp_path) as worded:
        worded.says(read_as("VERB_CREATE", name="Zed"))
        request = pb.ExecuteRequest(request_id=id_, instruction=words)
        answer = await worded.gateway.Execute(request, **user.call)
        assert answer.interpretation.reader == pb.READER_MODEL
        assert [answer.interpretation.model_used] == worded.asked
        if answer.HasField("confirmation"):
            assert await user.clients() == []
            request.confirmation_token = answer.confirmation.confirmation_token
            answer = await worded.gateway.Execute(request, **user.call)
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED
        assert await user.clients() == ["Zed"]
        assert await user.usage() == (0, 1)
        worded.says(read_as("VERB_READ"))
        reading = pb.ExecuteRequest(request_id="another", instruction=words)
        answer = await worded.gateway.Execute(reading, **user.call)
        assert answer.report.successes[0].affected == 1
        assert await user.usage() == (1, 1)
        rows = "SELECT DISTINCT model_used, failover FROM oplog.operation_log WHERE user_id = %s"
        assert await stage.rows(rows, user.id) == [(worded.asked[0], False)]


async def test_another_tier_that_understood_is_told_of(stage: Stage, tmp_path: Path) -> None:
    """GAT-11, ROU-6: in the one neutral sentence, and in the log."""
    user = await stage.user()
    words = pb.ExecuteRequest(request_id="r", instruction="Zed is new with us, you know")
    async with with_models(stage.suite, tmp_path) as worded:
        worded.says(read_as("VERB_READ"))
        await worded.gateway.Execute(words, **user.call)
        (first,) = worded.asked
        worded.provider.behave(first, Behaviour(fault="status", status=503))
        words.request_id = "s"
        answer = await worded.gateway.Execute(words, **user.call)
    assert answer.interpretation.failover
    assert [each.message for each in answer.notices if each.kind == pb.NOTICE_KIND_FAILOVER] == [
        "Your answer was completed using an alternate processing tier."
    ]
    rows = "SELECT model_used <> %s, failover FROM oplog.operation_log WHERE user_id = %s"
    assert sorted(await stage.rows(rows, first, user.id)) == [(False, False), (True, True)]
