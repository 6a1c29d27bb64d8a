"""A domain's reason, field and sentence reach the caller; its insides do not (GAT-6, GAT-11)."""

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.error_details_pb2 import BadRequest

from services.runtime.failure import PeerFailure
from tests.gateway_calls import (
    CREATE,
    UPDATE,
    Stage,
    User,
    appointment,
    client,
    invoice,
    operation,
    reasons,
)
from tests.lab_domain import Lab

LEAK = "psycopg.errors.SyntaxError: SELECT name FROM clients"


def refusing_with(lab: Lab, *details: Message, whole: bool) -> None:
    """Have *lab* refuse with *details*: in each result, or the call as a *whole*."""
    failure = PeerFailure(
        grpc.StatusCode.INVALID_ARGUMENT, LEAK, reason="LAB_SAYS_NO", details=details
    )

    async def answers(request: domain_pb2.ExecuteBatchRequest) -> domain_pb2.ExecuteBatchResponse:
        lab.asked = request
        if whole:
            raise failure
        results = [
            domain_pb2.Result(operation_id=each.operation_id, status=failure.status())
            for each in request.operations
        ]
        return domain_pb2.ExecuteBatchResponse(results=results)

    lab.answers = answers


@pytest.mark.parametrize("whole", [False, True], ids=["a result", "the call"])
async def test_reason_field_and_sentence_of_a_domain_pass(stage: Stage, whole: bool) -> None:
    """GAT-6: for machines in the status, for people in the message, and nothing besides."""
    user = await stage.user(locale="pt-BR")
    async with stage.lab() as lab:
        refusal = domain_pb2.Refusal(
            field="fields.name", message="O nome\n\u202e já existe.", locale="pt-BR"
        )
        bad = BadRequest.FieldViolation(field="fields.name", description="is taken")
        debug = error_details_pb2.DebugInfo(detail=LEAK)
        refusing_with(lab, refusal, BadRequest(field_violations=[bad]), debug, whole=whole)
        answer = await user.execute([operation(lab.name, CREATE, name="x")])
        (failure,) = answer.report.failures
        assert reasons(answer.report) == ["LAB_SAYS_NO"]
        assert lab.asked.locale == "pt-BR"
        assert failure.message == "O nome já existe."
        assert failure.field == "fields.name"
        assert failure.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert failure.status.message == "fields.name: is taken"
        told = BadRequest()
        assert failure.status.details[1].Unpack(told)
        assert list(told.field_violations) == [bad]
        assert "psycopg" not in str(answer)


async def test_another_language_than_the_users_is_not_shown(stage: Stage) -> None:
    """GAT-11: then the general sentence of the reason is."""
    user = await stage.user(locale="es-ES")
    async with stage.lab() as lab:
        refusing_with(lab, domain_pb2.Refusal(message="The name is taken."), whole=False)
        answer = await user.execute([operation(lab.name, CREATE, name="x")])
    assert answer.report.failures[0].message == "No se ha podido hacer."


async def refused_words(user: User, request: list[object], locale: str) -> tuple[str, str]:
    answer = await user.execute(request, locale=locale, validate_only=True)
    failure = next(each for each in answer.report.failures if each.status.code != 10)
    return failure.message, failure.field


async def test_the_clinic_says_what_is_wrong_in_the_language_of_the_answer(stage: Stage) -> None:
    """GAT-6, DOM-2: which client, which state, which date; not only that something is."""
    user = await stage.user()
    await user.execute([client("Ana")])
    await user.execute([appointment("Ana", "2099-01-01T10:00"), invoice("1", "Ana")])
    kept = operation("appointments", UPDATE, where={"client_name": "Ana"}, status="kept")
    await user.execute([kept])
    again = operation("appointments", UPDATE, where={"client_name": "Ana"}, status="scheduled")
    early = operation("finance", UPDATE, where={"number": "1"}, due_date="2001-01-01")
    stranger = invoice("2", "Zoe")
    cases = [
        (
            [stranger],
            "es-ES",
            "No hay ningún cliente llamado Zoe.",
            "fields.client_name",
        ),
        ([again], "en-US", "The appointment is kept and cannot become scheduled.", ""),
        (
            [again],
            "pt-BR",
            "Este registro (consulta) está como realizada e não pode passar a agendada.",
            "",
        ),
        ([kept], "en-US", "The appointment already is as you want it.", ""),
        ([early], "en-US", "The due date cannot be before the issue date.", "fields.due_date"),
        (
            [invoice("1", "Ana")],
            "en-US",
            "Another invoice with the same number or name already exists.",
            "",
        ),
    ]
    for request, locale, message, field in cases:
        assert await refused_words(user, request, locale) == (message, field)
