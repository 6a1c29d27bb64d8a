"""Domains that answer as none should: what they did is told, what they said goes no further."""

import math
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import grpc
import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from services.runtime.failure import PeerFailure, Precondition
from tests.gateway_calls import (
    CREATE,
    READ,
    UPDATE,
    Stage,
    client,
    indexes,
    operation,
    reasons,
)
from tests.lab_domain import Lab, refusing

Answer = domain_pb2.ExecuteBatchResponse
Request = domain_pb2.ExecuteBatchRequest
LEAK = "psycopg.errors.SyntaxError at unix:/run/lab.sock: SELECT name FROM clients WHERE id = 7"


@pytest.fixture(scope="module")
async def one_lab(stage: Stage) -> AsyncIterator[Lab]:
    async with stage.lab() as lab:
        yield lab


@pytest.fixture
def lab(one_lab: Lab) -> Lab:
    """A domain that has done nothing yet, and nothing wrong."""
    one_lab.done.clear()
    one_lab.spoils = lambda answer: answer
    one_lab.answers = one_lab.apply
    return one_lab


async def one_too_many(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results.add().CopyFrom(answer.results[0])
    return answer


async def one_twice(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[1].CopyFrom(answer.results[0])
    return answer


async def in_another_order(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    return Answer(committed=True, results=reversed(answer.results))


async def committed_but_failed(lab: Lab, request: Request) -> Answer:
    await lab.apply(request)
    answer = refusing(request, "RECORD_LOCKED")
    answer.committed = True
    return answer


async def invalid_text(lab: Lab, request: Request) -> Answer:
    lab.spoils = lambda answer: answer.replace(b"a label", b"\xff\xfe\xfd" + b"abel")
    answer = await lab.apply(request)
    answer.results[0].applied.label = "a label"
    return answer


async def cut_off(lab: Lab, request: Request) -> Answer:
    lab.spoils = lambda answer: answer[:-3]
    return await lab.apply(request)


async def no_message_at_all(lab: Lab, request: Request) -> Answer:
    lab.spoils = lambda _: b"<html>Bad gateway</html>"
    return await lab.apply(request)


async def nothing_in_it(lab: Lab, request: Request) -> Answer:
    lab.spoils = lambda _: b""
    return await lab.apply(request)


async def huge(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[0].applied.label = "x" * 17 * 1024 * 1024
    return answer


async def a_status_of_ok(lab: Lab, request: Request) -> Answer:
    await lab.apply(request)
    answer = refusing(request, "RECORD_LOCKED")
    for each in answer.results:
        each.status.code = 0
    return answer


async def touched_too_many(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[0].applied.affected = 2
    return answer


async def no_number(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[0].applied.records.add().update(
        {"id": "1", "name": math.nan, "of": [{"it": math.inf}]}
    )
    return answer


WRONG = [
    one_too_many,
    one_twice,
    in_another_order,
    committed_but_failed,
    invalid_text,
    cut_off,
    no_message_at_all,
    nothing_in_it,
    huge,
    no_number,
    a_status_of_ok,
    touched_too_many,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.__name__)
async def test_what_a_domain_has_done_is_told_however_it_answers(
    stage: Stage, lab: Lab, wrong: Callable[[Lab, Request], Awaitable[Answer]]
) -> None:
    """GAT-6, GAT-7, USE-2: changes are asked about, one by one; reads have failed, and say so."""
    user = await stage.user()

    async def answers(request: Request) -> Answer:
        return await wrong(lab, request)

    lab.answers = answers
    answer = await user.execute([operation(lab.name, CREATE), operation(lab.name, READ)])
    assert [each.index for each in answer.report.successes] == [0]
    assert len(lab.done) == 1
    expected = "MESSAGE_TOO_LARGE" if wrong is huge else "DOMAIN_MALFUNCTION"
    assert reasons(answer.report) == [expected]
    assert not answer.report.failures[0].retryable
    assert await user.usage() == (0, 1)
    assert {row[2] for row in await user.log()} == {"succeeded", "failed"}


async def test_what_no_domain_may_have_done_is_not_told_as_done(stage: Stage, lab: Lab) -> None:
    """GAT-6, GAT-7: asked about, it says so again, so that nobody knows; a dry run says nothing."""
    user = await stage.user()
    lab.answers = partial(touched_too_many, lab)
    lab.affected = 7
    try:
        update = operation(lab.name, UPDATE, record="1", name="x")
        dry = await user.execute([update], validate_only=True)
        assert dry.report.outcome == pb.OUTCOME_WOULD_FAIL
        assert reasons(dry.report) == ["DOMAIN_MALFUNCTION"]
        answer = await user.execute([update])
    finally:
        lab.affected = 1
    (failure,) = answer.report.failures
    assert failure.outcome_unknown
    assert not failure.retryable


# Some say that the batch was not taken on, some that all of it is unclear.
STATUSES = [
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
]


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_a_status_is_not_taken_for_what_was_done(stage: Stage, lab: Lab, done: bool) -> None:
    """GAT-7, ALL-2: a batch that was carried out and is answered with an error was carried out."""
    user = await stage.user()
    for code in STATUSES:
        lab.answers = partial(in_error, lab, code, done)
        answer = await user.execute([operation(lab.name, CREATE)])
        assert bool(answer.report.successes) == done, code
        assert not any(each.outcome_unknown for each in answer.report.failures), code
        assert "psycopg" not in str(answer)
    expected = len(STATUSES) if done else 0
    assert len(lab.done) == expected
    assert await user.usage() == (0, expected)


async def in_error(lab: Lab, code: grpc.StatusCode, done: bool, request: Request) -> Answer:
    """Answers with a status that tells all about the domain's insides."""
    if done:
        await lab.apply(request)
    raise PeerFailure(
        code,
        LEAK,
        reason="LAB_BROKE",
        metadata={"query": LEAK},
        details=[
            error_details_pb2.DebugInfo(detail=LEAK, stack_entries=[LEAK]),
            error_details_pb2.LocalizedMessage(locale="en-US", message=LEAK),
        ],
    )


def refused_with(status: Status, request: Request) -> Answer:
    """Every operation of *request* refused alike."""
    return Answer(
        results=[
            domain_pb2.Result(operation_id=each.operation_id, status=status)
            for each in request.operations
        ]
    )


async def test_results_tell_nothing_of_their_domains_insides(stage: Stage, lab: Lab) -> None:
    """ALL-2, GAT-11: not in an ErrorInfo, not in a detail of any other kind."""
    user = await stage.user()

    async def talkative(request: Request) -> Answer:
        status = Precondition(
            LEAK,
            reason="LAB_BROKE",
            metadata={"query": LEAK},
            details=[error_details_pb2.DebugInfo(detail=LEAK)],
        ).status()
        return refused_with(status, request)

    lab.answers = talkative
    answer = await user.execute([operation(lab.name, CREATE)])
    assert reasons(answer.report) == ["LAB_BROKE"]
    assert "psycopg" not in str(answer)
    assert answer.report.failures[0].message == "This could not be done."


async def test_details_that_cannot_be_read_are_none(stage: Stage, lab: Lab) -> None:
    """GAT-6: the operation has failed; nobody knows why."""
    user = await stage.user()

    async def garbled(request: Request) -> Answer:
        status = Status(code=9)
        for kind in ("google.rpc.ErrorInfo", "gatehouse.domain.v1.Candidates"):
            status.details.add(type_url=f"type.googleapis.com/{kind}", value=b"\x0a\xff")
        return refused_with(status, request)

    lab.answers = garbled
    answer = await user.execute([operation(lab.name, CREATE)])
    assert reasons(answer.report) == ["OTHER"]
    assert await user.usage() == (0, 0)


async def test_more_candidates_than_there_may_be_are_not_all_shown(stage: Stage, lab: Lab) -> None:
    """GAT-4: a question has ten answers at most, whatever a domain offers."""
    user = await stage.user()

    async def unsure(request: Request) -> Answer:
        many = [domain_pb2.Candidate(id=str(each), label="Ana") for each in range(3000)]
        candidates = domain_pb2.Candidates(candidates=many, total=3000)
        status = Status(code=9)
        info = error_details_pb2.ErrorInfo(reason="AMBIGUOUS_TARGET", domain="gatehouse")
        for detail in (info, candidates):
            status.details.add().Pack(detail)
        results = [
            domain_pb2.Result(operation_id=each.operation_id, status=status)
            for each in request.operations
        ]
        return Answer(results=results)

    lab.answers = unsure
    rename = operation(lab.name, UPDATE, where={"name": "Ana"})
    rename.fields["name"] = "Bea"
    answer = await user.execute([rename])
    assert len(answer.clarification.options) == 10


async def test_a_domain_that_never_answers_is_asked(stage: Stage, lab: Lab) -> None:
    """GAT-7: within the caller's time; what it did without saying so is told as done."""
    user = await stage.user()
    lab.answers = lab.slow_to_answer
    answer = await user.execute([operation(lab.name, CREATE)], timeout=2)
    lab.go_on.set()
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED
    assert len(lab.done) == 1
    assert await user.usage() == (0, 1)


def garbled(draw: random.Random, answer: bytes) -> bytes:
    """*answer* with some of its bytes others, gone, or twice."""
    garbled = bytearray(answer)
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(garbled))
        match draw.randrange(3):
            case 0:
                garbled[place] = draw.randrange(256)
            case 1:
                del garbled[place : place + draw.randint(1, 4)]
            case _:
                garbled[place:place] = garbled[place : place + draw.randint(1, 8)]
    return bytes(garbled)


async def full(lab: Lab, request: Request) -> Answer:
    """An answer with something of everything in it."""
    answer = await lab.apply(request)
    for result in answer.results:
        result.applied.label = "Ana Souza"
        result.applied.records.add().update({"id": "1", "name": "Ana", "n": [1.5, None, {"x": 2}]})
    return answer


@pytest.mark.parametrize("seed", range(int(os.environ.get("GATEHOUSE_STORIES", "1"))))
async def test_whatever_bytes_a_domain_answers_with_the_report_is_true(
    stage: Stage, lab: Lab, seed: int
) -> None:
    """GAT-6, GAT-7: each operation once, done if it was done; nothing breaks."""
    draw = random.Random(seed)
    lab.answers = partial(full, lab)
    lab.spoils = partial(garbled, draw)
    for turn in range(10):
        if turn % 5 == 0:
            user = await stage.user()
        before = len(lab.done)
        request = [operation(lab.name, CREATE), operation(lab.name, READ)]
        answer = await user.execute(request, replica=turn % 2)
        assert indexes(answer.report) == [0, 1]
        done = 0 in [each.index for each in answer.report.successes]
        assert done == (len(lab.done) > before), answer
        assert not any(each.outcome_unknown for each in answer.report.failures)


async def test_a_number_that_is_none_breaks_nobody_elses_operation(stage: Stage, lab: Lab) -> None:
    """GAT-6: it is not followed to another domain, and not given out either."""
    user = await stage.user()
    lab.answers = partial(no_number, lab)
    late = operation("clients", CREATE, "client")
    late.references.add(field="name", operation=0, record_field="name")
    answer = await user.execute([operation(lab.name, CREATE), late, client("Ana")])
    assert [each.index for each in answer.report.successes] == [0]
    assert reasons(answer.report) == ["DEPENDENCY_FAILED", "ROLLED_BACK"]
    assert "number_value" not in str(answer)


async def test_a_number_that_is_none_is_refused_by_name(stage: Stage) -> None:
    """GAT-3, GAT-6: in a value or a condition, however deep; other batches are done."""
    user = await stage.user()
    wrong = operation("finance", CREATE, "invoice", number="1", amount=[{"x": math.inf}])
    select = operation("finance", READ, where={"amount": math.nan})
    answer = await user.execute([wrong, select, client("Ana")])
    assert reasons(answer.report) == ["FIELD_INVALID", "FIELD_INVALID"]
    assert [each.field for each in answer.report.failures] == [
        "fields.amount",
        "selector.conditions[0].value",
    ]
    assert await user.clients() == ["Ana"]


async def test_records_that_are_too_many_for_one_answer_are_cut(stage: Stage) -> None:
    """GAT-6: what was done beside them is told all the same."""
    user = await stage.user()
    async with stage.lab() as one, stage.lab() as two:
        for lab in (one, two):
            lab.answers = partial(long_records, lab)
        request = [operation(one.name, READ), operation(two.name, READ), client("Ana")]
        answer = await user.execute(request)
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED
        first, second, _ = answer.report.successes
        assert answer.ByteSize() < 4 * 1024 * 1024, "what a client takes unless it is told more"
        assert first.affected == second.affected == 9
        assert first.truncated
        assert second.truncated
        assert first.records


async def long_records(lab: Lab, request: Request) -> Answer:
    """Nine records of 300 KiB each."""
    answer = await lab.apply(request)
    for result in answer.results:
        result.applied.affected = 9
        for each in range(9):
            result.applied.records.add().update({"id": str(each), "text": "x" * 300 * 1024})
    return answer
