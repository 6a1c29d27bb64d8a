"""What is unclear is asked, and what is grave is confirmed, exactly (GAT-4, GAT-5)."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
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
        (user, id_, token[:-1]),
        (user, id_, token.upper()),
        (user, id_, f"{body}."),
        (user, id_, f"eyJhbGciOiJub25lIn0.{body}."),
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


async def test_a_record_of_another_name_outdates_it(stage: Stage, id_: str) -> None:
    """GAT-5: people agreed to what was called so, though it is the same record."""
    user = await with_clients(stage, "Ana")
    found = await user.execute([clients()])
    record = found.report.successes[0].records[0]["id"]
    token = await asked(user, [operation("clients", DELETE, record=record)], id_)
    await user.execute([operation("clients", UPDATE, record=record, name="Bea")])
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.reason == "CONFIRMATION_OUTDATED"
    assert await user.clients() == ["Bea"]


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


async def test_a_limit_that_no_longer_allows_it_stops_all_of_what_was_confirmed(
    stage: Stage, id_: str
) -> None:
    """GAT-5, USE-3: no part of it is done; with another plan the same token still does it."""
    user = await stage.user(await stage.plan(daily_modify_limit=6))
    token = await asked(user, SIX, id_)
    await user.execute([client("Ana")])
    for replica in (0, 1):
        call = user.execute(None, request_id=id_, confirmation_token=token, replica=replica)
        failure = await refused(call)
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "QUOTA_EXHAUSTED"
    assert await user.clients() == ["Ana"]
    assert await user.usage() == (0, 1)
    # And what is more than is left is not summarised: it would not be true.
    assert (await refused(user.execute(SIX))).reason == "QUOTA_EXHAUSTED"
    assert (await refused(user.execute(SIX, validate_only=True))).reason == "QUOTA_EXHAUSTED"
    revision = await stage.assign(user, "premium")
    done = await user.execute(None, request_id=id_, confirmation_token=token, min_revision=revision)
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED
    assert await user.usage() == (0, 7)
    outcomes = sorted(row[2] for row in await user.log())
    assert outcomes == ["refused"] * 12 + ["succeeded"] * 7


async def test_a_domain_that_is_described_otherwise_outdates_it(stage: Stage, id_: str) -> None:
    """GAT-5: less offered, more sensitive, other fields, elsewhere; it is summarised again."""
    user = await stage.user()
    verbs = [CREATE, READ, UPDATE, DELETE]
    async with stage.lab() as lab, stage.lab() as other:
        six = [operation(lab.name, CREATE, name=str(number)) for number in range(6)]
        entity = lab.descriptor.entities[0]
        less = type(entity)(name="thing", operations=[READ], json_schema=entity.json_schema)
        strict = type(entity)(name="thing", operations=verbs, json_schema=entity.json_schema)
        strict.json_schema["properties"]["name"]["maxLength"] = 9
        changes = [
            {"entities": [less]},
            {"entities": [entity]},
            {"sensitivity_level": entitlements_pb2.SENSITIVITY_LEVEL_HIGH},
            {"entities": [strict]},
            {"endpoint": other.address},
        ]
        answer = await user.execute(six, request_id=id_)
        for change in changes:
            revision = await stage.change(lab, **change)
            again = {"request_id": id_, "min_revision": revision}
            token = answer.confirmation.confirmation_token
            if token:
                call = user.execute(None, confirmation_token=token, **again)
                failure = await refused(call)
                assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
                assert failure.reason == "CONFIRMATION_OUTDATED"
            answer = await user.execute(six, **again)
            if change == changes[0]:  # there is nothing left to be confirmed
                assert set(reasons(answer.report)) == {"OPERATION_NOT_OFFERED"}
                id_ = str(uuid.uuid4())
                answer = pb.ExecuteResponse()
        assert lab.done == other.done == []
        token = answer.confirmation.confirmation_token
        done = await user.execute(None, request_id=id_, confirmation_token=token)
        assert len(done.report.successes) == len(other.done) == 6
        assert lab.done == []


async def test_a_record_that_is_locked_meanwhile_outdates_it(stage: Stage, id_: str) -> None:
    """GAT-5: then it is shown as what would be left out, and why, and nothing of it is tried."""
    user = await with_clients(stage, "Ana")
    await user.execute([invoice("1", "Ana"), invoice("2", "Ana")])
    request = [operation("finance", DELETE, "invoice", where={"number": each}) for each in "12"]
    request += [client(f"Client {number}") for number in range(4)]
    token = await asked(user, request, id_)
    lock = "UPDATE clinic.invoices SET locked = true WHERE clinic_id = %s AND number = '1'"
    await stage.rows(lock, user.clinic_id)
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.reason == "CONFIRMATION_OUTDATED"
    answer = await user.execute(request, request_id=id_)
    assert [each.affected for each in answer.confirmation.operations] == [0, 0, 1, 1, 1, 1]
    left_out = answer.confirmation.operations[0].summary
    assert left_out == ("This part would be left out. The record is closed and cannot be changed.")
    assert answer.confirmation.summary.startswith("This would add 4 records.")
    await stage.rows(lock.replace("true", "false"), user.clinic_id)
    fresh = answer.confirmation.confirmation_token
    again = await refused(user.execute(None, request_id=id_, confirmation_token=fresh))
    assert again.reason == "CONFIRMATION_OUTDATED"
    await stage.rows(lock, user.clinic_id)
    fresh = await asked(user, request, id_)
    done = await user.execute(None, request_id=id_, confirmation_token=fresh)
    assert [each.index for each in done.report.successes] == [2, 3, 4, 5]
    assert reasons(done.report) == ["RECORD_LOCKED", "ROLLED_BACK"]
    assert await user.usage() == (0, 7)


async def test_records_that_change_at_the_last_moment_are_left_alone(
    stage: Stage, id_: str
) -> None:
    """GAT-5: also after the last look, while another domain is waited for."""
    user = await with_clients(stage, "Ana")
    await user.execute([operation("clients", UPDATE, where={"name": "Ana"}, phone="1")])
    async with stage.lab() as lab:

        async def slow(request: domain_pb2.ExecuteBatchRequest) -> domain_pb2.ExecuteBatchResponse:
            answer = await lab.slow(request)
            answer.results[0].applied.records.add().update({"id": "Caio"})
            return answer

        lab.answers = slow
        late = client("")
        del late.fields["name"]
        late.references.add(field="name", operation=0)
        request = [
            operation(lab.name, CREATE),
            operation("clients", DELETE, where={"phone": "1"}),
            late,
        ]
        token = await asked(user, request, id_)
        confirming = user.execute(None, request_id=id_, confirmation_token=token)
        running = asyncio.create_task(confirming)
        await lab.arrived.wait()
        swap = [
            operation("clients", UPDATE, where={"name": "Ana"}, phone="2"),
            client("Bea", phone="1"),
        ]
        assert (await user.execute(swap)).report.outcome == pb.OUTCOME_SUCCEEDED
        lab.go_on.set()
        report = (await running).report
    assert [each.index for each in report.successes] == [0]
    assert reasons(report) == ["RECORDS_CHANGED", "ROLLED_BACK"]
    assert await user.clients() == ["Ana", "Bea"]


async def test_what_its_domain_would_undo_is_not_promised(stage: Stage, id_: str) -> None:
    """GAT-5, GAT-6: one that cannot be done takes its batch with it, in the summary as in fact."""
    user = await with_clients(stage, "Ana")
    invoices = [invoice(str(number), "Ana") for number in range(5)]
    request = [*invoices, invoice("6", "Nobody at all"), *SIX]
    answer = await user.execute(request, request_id=id_)
    assert [each.affected for each in answer.confirmation.operations] == [0] * 6 + [1] * 6
    assert answer.confirmation.summary.startswith("This would add 6 records.")
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    assert [each.index for each in done.report.successes] == list(range(6, 12))
    assert reasons(done.report) == ["ROLLED_BACK"] * 5 + ["NOT_FOUND"]
    assert await user.usage() == (0, 7)
    alone = await user.execute([*invoices, invoice("6", "Nobody at all")])
    assert sorted(reasons(alone.report)) == ["NOT_FOUND", *["ROLLED_BACK"] * 5]


@pytest.mark.parametrize(
    ("locale", "many", "one", "planned"),
    [
        ("en-US", "This would add 6 records.", "This would delete one record (", "Adds one"),
        ("pt-BR", "Isto incluiria 6 registros.", "Isto excluiria um registro (", "Inclui um"),
        ("es-ES", "Esto añadiría 6 registros.", "Esto eliminaría un registro (", "Añade un"),
    ],
)
async def test_a_summary_counts_in_the_callers_language(
    stage: Stage, id_: str, locale: str, many: str, one: str, planned: str
) -> None:
    """GAT-5, GAT-11: and what is then done is as many; the language of the answer may change."""
    user = await stage.user(locale=locale)
    answer = await user.execute(SIX, request_id=id_)
    assert answer.confirmation.summary.startswith(many)
    assert all(each.summary.startswith(planned) for each in answer.confirmation.operations)
    token = answer.confirmation.confirmation_token
    other = "pt-BR" if locale == "en-US" else "en-US"
    payload = user.execute(SIX, request_id=id_, confirmation_token=token, locale=other)
    assert (await refused(payload)).reason == "REQUEST_ID_REUSED"
    done = await user.execute(None, request_id=id_, confirmation_token=token, locale=other)
    assert sum(each.affected for each in done.report.successes) == len(await user.clients()) == 6
    word = {"en-US": "added", "pt-BR": "incluído"}[other]
    assert all(word in each.summary for each in done.report.successes)
    single = await user.execute([operation("clients", DELETE, where={"name": "Client 0"})])
    assert single.confirmation.summary.startswith(one)


async def test_what_is_confirmed_is_called_by_its_name(stage: Stage, id_: str) -> None:
    """GAT-5: people see which record goes, not that one does; and in the report which has gone."""
    user = await with_clients(stage, "Ana", "Bea")
    answer = await user.execute(
        [operation("clients", DELETE, where={"name": "Bea"})], request_id=id_
    )
    (planned,) = answer.confirmation.operations
    assert (planned.label, planned.summary) == ("Bea", "Deletes one record (client: Bea).")
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    (success,) = done.report.successes
    assert (success.label, success.summary) == ("Bea", "One record was deleted (client: Bea).")


async def test_a_cancelled_confirmation_is_none_any_more(stage: Stage, id_: str) -> None:
    """GAT-5, GAT-7: at any replica; the request can be asked anew, and its new token is good."""
    user, other = await stage.user(), await stage.user()
    token = await asked(user, SIX, id_)
    cancel = pb.CancelRequest(request_id=id_)
    strange = await stage.gateways[1].Cancel(cancel, **other.call)
    assert strange.outcome == pb.CANCEL_OUTCOME_NOT_FOUND
    for expected in (pb.CANCEL_OUTCOME_CANCELLING, pb.CANCEL_OUTCOME_ALREADY_FINISHED):
        assert (await stage.gateways[1].Cancel(cancel, **user.call)).outcome == expected
    failure = await refused(user.execute(None, request_id=id_, confirmation_token=token))
    assert failure.reason == "CONFIRMATION_EXPIRED"
    assert await user.clients() == []
    fresh = await asked(user, SIX, id_)
    assert fresh != token
    done = await user.execute(None, request_id=id_, confirmation_token=fresh)
    assert len(done.report.successes) == len(await user.clients()) == 6


async def test_a_key_that_was_replaced_confirms_nothing(stage: Stage, id_: str) -> None:
    """GAT-5: the request is asked anew, with a token that is good, instead of with the old one."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    async with another_gateway(stage.suite, confirmation_key="another key " * 3) as rotated:
        request = pb.ExecuteRequest(request_id=id_, confirmation_token=token)
        failure = await refused(rotated.Execute(request, **user.call))
        assert failure.reason == "CONFIRMATION_INVALID"
        again = pb.ExecuteRequest(request_id=id_, operations=pb.OperationList(operations=SIX))
        answer = await rotated.Execute(again, **user.call)
        assert not answer.replayed
        assert (await rotated.Execute(again, **user.call)).confirmation == answer.confirmation
        old = user.execute(None, request_id=id_, confirmation_token=token)
        assert (await refused(old)).reason == "CONFIRMATION_OUTDATED"
        request.confirmation_token = answer.confirmation.confirmation_token
        done = await rotated.Execute(request, **user.call)
    assert len(done.report.successes) == len(await user.clients()) == 6


async def test_a_confirmed_bulk_is_one_modifying_request(stage: Stage) -> None:
    """USE-6: five are none too many, whatever is in them; the sixth starts a cool-down."""
    user = await stage.user()
    for number in range(6):
        id_ = str(uuid.uuid4())
        token = await asked(user, [client(f"{number}/{each}") for each in range(6)], id_)
        call = user.execute(None, request_id=id_, confirmation_token=token, replica=number % 2)
        if number < 5:
            assert len((await call).report.successes) == 6
        else:
            assert (await refused(call)).reason == "COOL_DOWN"
    assert len(await user.clients()) == 30
    assert await user.usage() == (0, 30)


async def test_a_token_outlives_the_call_that_redeemed_it_and_died(stage: Stage, id_: str) -> None:
    """GAT-5, GAT-2: nothing had been done, so the next one does it; once."""
    user = await stage.user()
    token = await asked(user, SIX, id_)
    # What a gateway leaves that is killed between redeeming a token and carrying out.
    await stage.rows(
        "UPDATE gateway.requests SET state = 'running', lease_until = now() WHERE user_id = %s",
        user.id,
    )
    assert (await user.execute(SIX, request_id=id_)).confirmation.confirmation_token == token
    answers = await asyncio.gather(
        *(
            user.execute(None, request_id=id_, confirmation_token=token, replica=each)
            for each in (0, 1)
        )
    )
    assert answers[0].report == answers[1].report
    assert len(await user.clients()) == 6
    assert await user.usage() == (0, 6)


async def test_times_are_confirmed_as_they_were_meant(stage: Stage, id_: str) -> None:
    """GAT-5: a confirmation without the zone of the request does not move its appointments."""
    user = await with_clients(stage, "Ana")
    request = [
        operation(
            "appointments",
            CREATE,
            "appointment",
            client_name="Ana",
            starts_at=f"2099-01-0{day}T10:00",
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
    words = "mark all open invoices as paid"
    await user.execute([invoice(str(number), "Ana") for number in range(5)])
    five = await user.execute(words, validate_only=True)
    assert [each.affected for each in five.report.successes] == [5]
    await user.execute([invoice("5", "Ana")])
    answer = await user.execute(words, request_id=id_)
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
