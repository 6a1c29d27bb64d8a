"""Who calls, what is no request, and what users are told (ALL-2, ALL-3, GAT-11)."""

import asyncio
import re
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from google.rpc import error_details_pb2

from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    client,
    clients,
    detail_of,
    eventually,
    operation,
    reasons,
    refused,
)

LOCALES = ("en-US", "pt-BR", "es-ES")
# What no user should have to read: identifiers, and words of the machine.
TECHNICAL = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}|[A-Z]{2,}_[A-Z]|[a-z]+_[a-z]+|\bnull\b|\bgRPC\b|\bAPI\b|\buuid\b"
    r"|\btoken\b|\bserver\b|\bdomain\b|[{}$]",
    re.I,
)
CALLS: dict[str, Callable[[GatewayServiceStub, dict[str, Any]], Any]] = {
    "Execute": lambda stub, call: stub.Execute(
        pb.ExecuteRequest(request_id="r", operations=pb.OperationList(operations=[clients()])),
        **call,
    ),
    "Interpret": lambda stub, call: stub.Interpret(
        pb.InterpretRequest(instruction="show the clients"), **call
    ),
    "Analyze": lambda stub, call: stub.Analyze(
        pb.AnalyzeRequest(request_id="r", metrics=["no_show_rate"], window=pb.Window(last_days=7)),
        **call,
    ),
    "Recommend": lambda stub, call: stub.Recommend(pb.RecommendRequest(request_id="r"), **call),
    "GetUsage": lambda stub, call: stub.GetUsage(pb.GetUsageRequest(), **call),
    "ListModels": lambda stub, call: stub.ListModels(pb.ListModelsRequest(), **call),
    "ListOperations": lambda stub, call: stub.ListOperations(pb.ListOperationsRequest(), **call),
    "Cancel": lambda stub, call: stub.Cancel(pb.CancelRequest(request_id="r"), **call),
}


def bearing(token: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_needs_a_token_and_works_with_one(stage: Stage, name: str) -> None:
    """GAT-1, ALL-3: over the socket, each of them."""
    user, call = await stage.user(), CALLS[name]
    failure = await refused(call(stage.gateways[0], {"timeout": 10}))
    assert failure.code is grpc.StatusCode.UNAUTHENTICATED
    assert failure.reason == "TOKEN_MISSING"
    assert await call(stage.gateways[0], user.call) is not None


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1_000_000_000}, "TOKEN_EXPIRED"),
        ({"nbf": 4_000_000_000}, "TOKEN_EXPIRED"),
        ({"aud": "someone-else"}, "TOKEN_INVALID"),
        ({"iss": "https://elsewhere.example"}, "TOKEN_INVALID"),
        ({"sub": "robert'); drop table students"}, "TOKEN_INVALID"),
        ({"sub": "A" * 36}, "TOKEN_INVALID"),
        ({"clinic_id": "mine"}, "TOKEN_INVALID"),
    ],
)
async def test_a_token_that_is_not_good_is_refused(
    stage: Stage, claims: dict[str, Any], reason: str
) -> None:
    """ALL-3: expired, of another audience, or with claims that name nobody."""
    token = stage.suite.issuer.mint(user_id=str(uuid.uuid4()), **claims)
    for call in (CALLS["Execute"], CALLS["Analyze"], CALLS["GetUsage"]):
        failure = await refused(call(stage.gateways[0], bearing(token)))
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
        assert failure.reason == reason
        assert token not in failure.message


async def test_a_caller_with_a_bad_claim_costs_others_nothing(stage: Stage) -> None:
    """USE-7: claims are sent in batches, and each is decided alone."""
    users = [await stage.user() for _ in range(5)]
    bad = stage.suite.issuer.mint(user_id=str(uuid.uuid4()), clinic_id="mine")
    calls = [CALLS["Execute"](stage.gateways[0], user.call) for user in users]
    wrong = [CALLS["Execute"](stage.gateways[0], bearing(bad)) for _ in range(5)]
    ends = await asyncio.gather(*calls, *wrong, return_exceptions=True)
    assert sum(isinstance(each, pb.ExecuteResponse) for each in ends) == 5


async def test_nobody_reaches_anothers_clinic_or_log(stage: Stage) -> None:
    """ALL-3: by the token alone; an id of another clinic's record is not found."""
    one, two = await stage.user(), await stage.user()
    made = await one.execute([client("Ana")])
    id_ = made.report.successes[0].records[0]["id"]
    assert (await two.execute([clients()])).report.successes[0].affected == 0
    answer = await two.execute([operation("clients", UPDATE, record=id_, phone="1")])
    assert reasons(answer.report) == ["NOT_FOUND"]
    listed = await stage.gateways[0].ListOperations(pb.ListOperationsRequest(), **two.call)
    assert {each.user_id for each in listed.operations} == {two.id}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExecuteRequest(request_id="r"), "input"),
        (pb.ExecuteRequest(request_id="r", instruction=" \n "), "instruction"),
        (pb.ExecuteRequest(request_id="r", instruction="x" * 4001), "instruction"),
        (pb.ExecuteRequest(request_id="r", instruction="x" * 2**20), "instruction"),
        (pb.ExecuteRequest(request_id="r", instruction="show\0clients"), "instruction"),
        (pb.ExecuteRequest(request_id="r", operations=pb.OperationList()), "operations.operations"),
        (
            pb.ExecuteRequest(
                request_id="r", operations=pb.OperationList(operations=[clients()] * 101)
            ),
            "operations.operations",
        ),
        (
            pb.ExecuteRequest(
                request_id="r", operations=pb.OperationList(operations=[operation("clients", 9)])
            ),
            "operations.operations[0].verb",
        ),
        (
            pb.ExecuteRequest(
                request_id="r", operations=pb.OperationList(operations=[operation("Ü; drop", READ)])
            ),
            "operations.operations[0].domain",
        ),
        (pb.ExecuteRequest(request_id="r", instruction="x", locale="english please"), "locale"),
        (pb.ExecuteRequest(request_id="r", instruction="x", time_zone="Mars/Base"), "time_zone"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_is_no_request_is_refused_by_field(
    stage: Stage, request_: pb.ExecuteRequest, field: str
) -> None:
    """ALL-2: INVALID_ARGUMENT with a BadRequest; nothing is counted."""
    user = await stage.user()
    failure = await refused(stage.gateways[0].Execute(request_, **user.call))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    bad = detail_of(failure, error_details_pb2.BadRequest)
    assert field in [each.field for each in bad.field_violations]
    assert await user.usage() == (0, 0)


@pytest.mark.parametrize(
    "words", ["🙂🙂🙂", "\u202etxet\u202c", "DROP TABLE clients;", "a" * 4000, "\x07\x1b[31m?"]
)
async def test_words_that_mean_nothing_change_nothing(stage: Stage, words: str) -> None:
    """GAT-4, ALL-2: they are asked back, or refused as no text."""
    user = await stage.user()
    await user.execute([client("Ana")])
    (answer,) = await asyncio.gather(user.execute(words), return_exceptions=True)
    if isinstance(answer, grpc.aio.AioRpcError):
        assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
    elif answer.WhichOneof("result") != "clarification":
        assert {each.verb for each in answer.report.successes} <= {READ}
    assert await user.clients() == ["Ana"]
    assert (await user.usage())[1] == 1


@pytest.mark.parametrize(
    "listing",
    [
        pb.ListOperationsRequest(page_token="made up"),
        pb.ListOperationsRequest(page_size=501),
        pb.ListOperationsRequest(outcomes=[99]),
    ],
)
async def test_a_listing_that_cannot_be_is_refused(
    stage: Stage, listing: pb.ListOperationsRequest
) -> None:
    """ALL-2: malformed page tokens, sizes and outcomes."""
    user = await stage.user()
    failure = await refused(stage.gateways[0].ListOperations(listing, **user.call))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_operations_are_listed_by_pages(stage: Stage) -> None:
    """GAT-1, LOG-5: newest first, each once, of the caller alone; by domain and outcome."""
    user = await stage.user()
    for name in ("Ana", "Bea", "Caio"):
        await user.execute([client(name)])
    await user.execute([operation("finance", READ)])
    seen: list[str] = []
    request = pb.ListOperationsRequest(page_size=3)
    while True:
        page = await stage.gateways[0].ListOperations(request, **user.call)
        seen += [each.id for each in page.operations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(seen) == len(set(seen)) == 4
    only = pb.ListOperationsRequest(domain="finance")
    found = await stage.gateways[0].ListOperations(only, **user.call)
    assert [each.action for each in found.operations] == ["read"]


async def test_interpret_does_nothing(stage: Stage) -> None:
    """GAT-1: it says what Execute would do; nothing is counted, logged or changed."""
    user = await stage.user()
    request = pb.InterpretRequest(instruction="delete the client named Ana", rules_only=True)
    answer = await stage.gateways[0].Interpret(request, **user.call)
    assert [each.operation.verb for each in answer.interpretation.operations] == [DELETE]
    assert answer.interpretation.reader == pb.READER_RULES
    assert pb.CONFIRMATION_REASON_SENSITIVE_DELETE in answer.confirmation_reasons
    assert await user.usage() == (0, 0)
    assert await user.log() == []


async def test_without_models_none_are_listed_and_words_still_work(stage: Stage) -> None:
    """GAT-12: rules, structured operations, figures."""
    user = await stage.user()
    found = await stage.gateways[0].ListModels(pb.ListModelsRequest(), **user.call)
    assert list(found.models) == []
    await user.execute([client("Ana")])
    answer = await user.execute("show the clients")
    assert answer.interpretation.reader == pb.READER_RULES
    assert answer.report.successes[0].affected == 1


async def told(user: User) -> list[str]:
    """Everything that a basic user, then a premium one, reads when things are refused."""
    sentences = []
    for call in (
        user.execute([client("Ana")]),
        user.stage.gateways[0].Analyze(
            pb.AnalyzeRequest(
                request_id="a", metrics=["no_show_rate"], window=pb.Window(last_days=99)
            ),
            **user.call,
        ),
    ):
        failure = await refused(call)
        sentences.append(detail_of(failure, error_details_pb2.LocalizedMessage).message)
    await user.stage.assign(user, "premium")

    async def upgraded() -> bool:
        found = await user.stage.gateways[0].GetUsage(pb.GetUsageRequest(), **user.call)
        return found.usage.plan_name == "premium"

    await eventually(upgraded)
    answers = [
        await user.execute([client("Ana"), operation("clients", CREATE, nonsense=1)]),
        await user.execute([operation("clients", UPDATE, where={"name": "Bo"}, phone="1")]),
        await user.execute([client("Bo", birth_date="not a day"), operation("nowhere", READ)]),
        await user.execute([client(f"C{number}") for number in range(6)]),
        await user.execute([operation("clients", DELETE, where={"name": "Ana"})]),
        await user.execute("…"),
    ]
    for answer in answers:
        sentences += [each.message for each in answer.notices]
        sentences += [each.summary for each in answer.report.successes]
        sentences += [
            text for each in answer.report.failures for text in (each.message, each.next_step)
        ]
        sentences += [answer.confirmation.summary, answer.clarification.question]
        sentences += [each.summary for each in answer.confirmation.operations]
    for _ in range(13):
        try:
            await user.execute([clients()])
        except grpc.aio.AioRpcError:
            failure = await refused(user.execute([clients()]))
            sentences.append(detail_of(failure, error_details_pb2.LocalizedMessage).message)
            break
    return [each for each in sentences if each]


async def test_users_are_told_in_their_language_and_in_plain_words(stage: Stage) -> None:
    """GAT-11: refusals and notices, in three languages, without identifiers or technical words."""
    found = {locale: await told(await stage.user("basic", locale=locale)) for locale in LOCALES}
    for sentences in found.values():
        assert len(sentences) > 10
        for sentence in sentences:
            assert not TECHNICAL.search(sentence), sentence
    for one, other in (("en-US", "pt-BR"), ("pt-BR", "es-ES")):
        assert not set(found[one]) & set(found[other])


async def test_an_unspoken_language_is_answered_in_the_nearest(stage: Stage) -> None:
    """GAT-11: pt-PT in pt-BR, none at all in en-US; a request's own choice goes first."""
    user = await stage.user(locale="pt-PT")
    portuguese = await user.execute([clients()])
    assert "registro" in portuguese.report.successes[0].summary
    english = await user.execute([clients()], locale="ja-JP")
    assert "record" in english.report.successes[0].summary
