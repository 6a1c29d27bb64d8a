"""The reader of every answer that tests get finds what it is there to find."""

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2

from services.runtime.failure import Failure
from tests.sentences import SENTENCES, leaks_in

LOCALIZED = error_details_pb2.LocalizedMessage.DESCRIPTOR
KNOWN = [*pb.DESCRIPTOR.message_types_by_name.values(), LOCALIZED]


def test_every_sentence_that_is_read_is_a_field() -> None:
    """GAT-11: a field that got another name would be read no more."""
    fields = {f"{each.name}.{field.name}" for each in KNOWN for field in each.fields}
    assert fields >= SENTENCES


@pytest.mark.parametrize(
    "text",
    [
        "Record 5b2c7f3e-4f0e-4c8e-9a53-6a1d3f9c2b70 was changed.",
        "The field due_date is missing.",
        "This needs RECORD_LOCKED to be lifted.",
        "The oplog does not answer.",
        "unix:/tmp/x.sock does not answer.",
        "10.0.0.7 does not answer.",
        "SELECT * FROM clients WHERE id = 1 failed.",
        "psycopg.errors.SyntaxError",
        "Traceback (most recent call last)",
        "This would change { $records } records.",
    ],
)
def test_what_no_user_should_read_is_found(text: str) -> None:
    """GAT-11: wherever it stands in an answer, or in the details of a refusal."""
    told = error_details_pb2.LocalizedMessage(locale="en-US", message=text)
    refusal = Failure("a refusal", details=[told]).status()
    answer = pb.ExecuteResponse(notices=[pb.Notice(message="Today's allowance is used up.")])
    assert leaks_in(answer) == []
    for kind in (answer.report.failures, answer.report.successes):
        kind.add()
    answer.report.failures[0].message = text
    assert leaks_in(answer)
    answer.report.failures[0].message = ""
    answer.report.failures[0].status.CopyFrom(refusal)
    assert leaks_in(answer)
