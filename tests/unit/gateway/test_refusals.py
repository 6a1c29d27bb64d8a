"""What of a domain's refusal reaches callers and users, and what does not (GAT-6, ALL-2)."""

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2
from google.rpc.error_details_pb2 import BadRequest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import refusals
from services.runtime.failure import PeerFailure

LEAK = "psycopg.errors.SyntaxError: SELECT name FROM clients"


def packed(message: object) -> Any:
    detail = Any()
    detail.Pack(message)
    return detail


def violation(field: str, description: str = "") -> BadRequest:
    each = BadRequest.FieldViolation(field=field, description=description)
    return BadRequest(field_violations=[each])


def failure_with(*details: object) -> PeerFailure:
    passed = refusals.passable_details([packed(each) for each in details])
    message = refusals.message_for(passed)
    return PeerFailure(grpc.StatusCode.ABORTED, message, reason="X", details=passed)


@pytest.mark.parametrize(
    ("field", "passes"),
    [
        ("fields.due_date", True),
        ("selector.conditions[0].value", True),
        ("operations[12].fields.x", True),
        ("entity", True),
        ("", False),
        ("fields.due date", False),
        ("fields.é", False),
        ("fields.\u202ex", False),
        ("SELECT", False),
        ("fields." + "x" * 128, False),
        ("x; DROP TABLE clients", False),
    ],
)
def test_a_field_is_a_path_or_none(field: str, passes: bool) -> None:
    """GAT-6: by a Refusal and by a BadRequest alike."""
    expected = field if passes else ""
    assert refusals.field_of(failure_with(domain_pb2.Refusal(field=field))) == expected
    assert refusals.field_of(failure_with(violation(field, "must be set"))) == expected
    both = failure_with(domain_pb2.Refusal(field=field), violation("fields.a", "must be set"))
    assert refusals.field_of(both) == "fields.a"


@given(st.text(max_size=500))
def test_texts_are_single_bounded_lines(text: str) -> None:
    """ALL-2: whatever a domain puts there."""
    failure = failure_with(
        domain_pb2.Refusal(message=text, locale="en-US"), violation("fields.a", text)
    )
    sentence = refusals.sentence_of(failure, "en-US")
    assert len(sentence) <= refusals.LONGEST_SENTENCE
    assert sentence.isprintable()
    assert failure.message.isprintable()
    assert len(failure.message) <= refusals.LONGEST_DESCRIPTION + len("fields.a: ")


@pytest.mark.parametrize(
    ("told", "asked", "shown"),
    [
        ("", "en-US", True),
        ("en-GB", "en-US", True),
        ("EN-us", "en-US", True),
        ("pt-BR", "pt-BR", True),
        ("pt-PT", "pt-BR", True),
        ("", "pt-BR", False),
        ("de-DE", "es-ES", False),
        ("es\u202e", "es-ES", False),
    ],
)
def test_a_sentence_is_shown_in_the_language_of_the_answer(
    told: str, asked: str, shown: bool
) -> None:
    """GAT-11: nobody is answered in a language that was not asked for."""
    failure = failure_with(domain_pb2.Refusal(message="A sentence.", locale=told))
    assert refusals.sentence_of(failure, asked) == ("A sentence." if shown else "")


def test_nothing_else_passes() -> None:
    """ALL-2: no other detail, and none that cannot be read."""
    garbled = Any(type_url="type.googleapis.com/gatehouse.domain.v1.Refusal", value=b"\x0a\xff")
    others = [
        error_details_pb2.DebugInfo(detail=LEAK),
        error_details_pb2.LocalizedMessage(message=LEAK),
        error_details_pb2.Help(links=[error_details_pb2.Help.Link(url=LEAK)]),
        error_details_pb2.ErrorInfo(reason="X", metadata={"query": LEAK}),
    ]
    assert refusals.passable_details([garbled, *map(packed, others)]) == []


def test_ids_that_no_selector_takes_are_no_candidates() -> None:
    """GAT-4: every option that is offered can be chosen."""
    ids = ["a", "", "x" * 129, "b"]
    found = domain_pb2.Candidates(candidates=[domain_pb2.Candidate(id=each) for each in ids])
    kept = refusals.candidates_of(failure_with(found))
    assert kept is not None
    assert [each.id for each in kept.candidates] == ["a", "b"]
