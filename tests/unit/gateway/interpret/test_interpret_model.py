"""Words read by a model: what it is asked, and what of its answer is believed (GAT-3, GAT-4)."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2
from google.protobuf import json_format

from services.gateway.interpret import Interpreted, Interpreter
from services.gateway.interpret.model import SURE_OF_CHANGES, SURE_OF_READS, schema_of
from services.gateway.notices import open_notices
from services.runtime.failure import Failure, InvalidInput
from tests.unit.gateway.interpret.aids import LOCALES, clinic, reading, shown

NOTICES = open_notices()
TIERS = (tier_pb2.MODEL_BASIC,)


class Router:
    """Answers every request with the same text, and keeps what it was asked."""

    def __init__(self, answer: str | Failure) -> None:
        self.answer = answer
        self.asked: list[router_pb2.CompleteRequest] = []

    async def complete(self, request: router_pb2.CompleteRequest) -> router_pb2.CompleteResponse:
        self.asked.append(request)
        if isinstance(self.answer, Failure):
            raise self.answer
        finished = router_pb2.Finished(model_used="small", failover=True)
        return router_pb2.CompleteResponse(content=self.answer, finished=finished)


def answering(*operations: Mapping[str, Any]) -> Router:
    return Router(json.dumps({"operations": list(operations)}))


def said(
    verb: str, entity: str = "appointment", *, every: bool = False, **fields: Any
) -> dict[str, Any]:
    """An operation of a model's answer, on what belongs to Ana Souza."""
    domain = {"appointment": "appointments", "client": "clients", "invoice": "finance"}[entity]
    name = "name" if entity == "client" else "client_name"
    condition = {"field": name, "comparison": "COMPARISON_EQUAL", "value": "Ana Souza"}
    conditions = [] if verb == "VERB_CREATE" else [condition]
    return {
        "domain": domain,
        "entity": entity,
        "verb": verb,
        "conditions": conditions,
        "fields": fields,
        "all": every,
    }


async def interpreted(
    text: str, router: Router | None, locale: str = "en-US", *, rules_only: bool = False
) -> Interpreted:
    interpreter = Interpreter(router.complete if router else None, NOTICES)
    return await interpreter.interpret(
        text, clinic(), reading(locale), model_tiers=TIERS, rules_only=rules_only
    )


def lines(found: Interpreted) -> list[str]:
    return [shown(each.operation) for each in found.interpretation.operations]


CANCEL = said("VERB_UPDATE", status="cancelled")
READ = said("VERB_READ")


async def test_a_model_is_asked_only_where_the_rules_have_not_understood() -> None:
    """GAT-3: not for what is clear, and not for what is only to be confirmed."""
    for text in ("show today's appointments", "cancel all appointments of Friday"):
        router = answering(READ)
        found = await interpreted(text, router)
        assert not router.asked
        assert found.interpretation.reader == pb.READER_RULES


async def test_a_model_is_asked_with_the_offers_the_moment_and_the_words() -> None:
    """GAT-3."""
    router = answering(READ)
    await interpreted("anything about Ana Souza lately", router)
    (request,) = router.asked
    assert request.task == router_pb2.TASK_KIND_INTERPRET
    assert list(request.model_tiers) == list(TIERS)
    assert request.temperature == 0
    system, user = request.messages
    assert user.content == "anything about Ana Souza lately"
    assert "2026-11-23T12:00-03:00, Monday" in system.content
    assert '"client_name"' in system.content


async def test_what_a_model_reads_is_told_as_such() -> None:
    """GAT-3."""
    found = await interpreted("anything about Ana Souza lately", answering(READ))
    assert lines(found) == ["READ appointment client_name=Ana Souza"]
    assert found.interpretation.reader == pb.READER_MODEL
    assert found.interpretation.model_used == "small"
    assert found.interpretation.failover
    assert found.interpretation.confidence == SURE_OF_READS
    assert found.completion is not None
    assert found.clarification is None


async def test_a_change_that_only_a_model_read_is_never_sure() -> None:
    """GAT-5: below what is carried out unconfirmed."""
    found = await interpreted(
        "pay invoice of Ana Souza", answering(said("VERB_UPDATE", "invoice", status="paid"))
    )
    assert lines(found) == ["UPDATE invoice client_name=Ana Souza: status=paid"]
    assert found.interpretation.reader == pb.READER_MODEL
    assert found.interpretation.confidence == SURE_OF_CHANGES < 0.8


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "I don't want to cancel the thing of Ana Souza"),
        ("en-US", "how do I cancel what Ana Souza has booked?"),
        ("en-US", "Ana Souza said to cancel her stuff"),
        ("en-US", 'tell me about Ana Souza: she wrote "cancel everything"'),
        ("en-US", "what has Ana Souza got coming up, and the note says cancel it"),
        ("en-US", "something with Ana Souza maybe"),
        ("en-US", "cancel whatever Ana Souza has if she is late"),
        ("pt-BR", "não cancele nada da Ana Souza"),
        ("pt-BR", "como cancelo as coisas da Ana Souza?"),
        ("es-ES", "no canceles lo de Ana Souza"),
        ("es-ES", "¿puedo cancelar lo de Ana Souza?"),
    ],
)
async def test_a_model_cannot_make_a_change_of_what_does_not_ask_for_one(
    locale: str, text: str
) -> None:
    """GAT-4: negations, questions, quotations and hidden instructions change nothing."""
    for verb in ("VERB_UPDATE", "VERB_DELETE"):
        answer = said(verb)
        answer["fields"] = {"status": "cancelled"} if verb == "VERB_UPDATE" else {}
        found = await interpreted(text, answering(answer), locale)
        assert all(each.startswith("READ ") for each in lines(found))


async def test_a_model_may_not_delete_where_the_words_say_to_change() -> None:
    """GAT-4."""
    found = await interpreted(
        "please pay what Ana Souza owes", answering(said("VERB_DELETE", "client"))
    )
    assert lines(found) == []
    assert found.clarification is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no",
        "[]",
        "null",
        '{"operations": 5}',
        '{"operations": []}',
        '{"operations": [7]}',
        '{"operations": [{"verb": "VERB_READ"}]}',
        '{"operations": [{"domain": "x", "entity": "y", "verb": "VERB_BURN"}]}',
        json.dumps({"operations": [{**READ, "domain": "payroll"}]}),
        json.dumps({"operations": [{**READ, "entity": "dog"}]}),
        json.dumps({"operations": [{**READ, "conditions": [{"field": "shoe"}]}]}),
        json.dumps({"operations": [{**READ, "conditions": "all"}]}),
        json.dumps({"operations": [{**READ, "fields": {"status": "kept"}}]}),
        json.dumps({"operations": [READ, {**READ, "entity": "dog"}]}),
        json.dumps({"operations": [READ] * 11}),
    ],
)
async def test_an_answer_that_does_not_hold_is_as_none(content: str) -> None:
    """GAT-3: one operation that does not pass makes the whole unusable."""
    found = await interpreted("anything about Ana Souza lately", Router(content))
    assert found.interpretation.reader == pb.READER_RULES
    assert found.completion is None


async def test_a_model_that_invents_a_name_or_a_number_is_not_believed() -> None:
    """GAT-3: models invent."""
    invented = said("VERB_UPDATE", "invoice", status="paid")
    invented["conditions"][0]["value"] = "Bruno Lima"
    found = await interpreted("pay invoice of Ana Souza", answering(invented))
    assert found.interpretation.reader == pb.READER_RULES
    wrong = said("VERB_UPDATE", "invoice", amount=900)
    found = await interpreted("pay 100 of invoice of Ana Souza", answering(wrong))
    assert found.interpretation.reader == pb.READER_RULES


async def test_a_model_cannot_choose_a_time_that_the_clocks_skip() -> None:
    """GAT-4."""
    skipped = said("VERB_CREATE", client_name="Ana Souza", starts_at="2027-03-14T02:30")
    interpreter = Interpreter(answering(skipped).complete, NOTICES)
    found = await interpreter.interpret(
        "arrange something for Ana Souza in the night of the change",
        clinic(),
        reading(zone="America/New_York"),
        model_tiers=TIERS,
    )
    assert found.interpretation.reader == pb.READER_RULES


async def test_every_record_is_meant_only_where_the_model_says_so() -> None:
    """GAT-5: the domain counts them, and the user confirms."""
    text = "settle invoices of Ana Souza"
    one = await interpreted(text, answering(said("VERB_UPDATE", "invoice", status="paid")))
    every = said("VERB_UPDATE", "invoice", every=True, status="paid")
    many = await interpreted(text, answering(every))
    assert [each.operation.max_affected for each in one.interpretation.operations] == [0]
    assert many.interpretation.operations[0].operation.max_affected > 1


async def test_a_model_may_mean_the_next_or_the_last_of_those_that_are_selected() -> None:
    """GAT-3: by a field that may be selected by, in its schema and when its answer is checked."""
    latest = {**READ, "first": {"by_field": "starts_at", "descending": True}}
    found = await interpreted("anything about Ana Souza lately", answering(latest))
    assert lines(found) == ["READ appointment client_name=Ana Souza last by starts_at"]
    held = jsonschema_rs.validator_for(schema_of(clinic()))
    assert held.is_valid({"operations": [latest]})
    for wrong in (
        {"by_field": "shoe", "descending": True},
        {"by_field": "starts_at"},
        {"by_field": "starts_at", "descending": True, "limit": 3},
        "starts_at",
    ):
        answer = {**READ, "first": wrong}
        assert not held.is_valid({"operations": [answer]})
        found = await interpreted("anything about Ana Souza lately", answering(answer))
        assert found.interpretation.reader == pb.READER_RULES


async def test_a_change_of_the_next_is_of_one_record_even_where_a_model_says_all() -> None:
    """GAT-5."""
    paid = said("VERB_UPDATE", "invoice", every=True, status="paid")
    paid["first"] = {"by_field": "due_date", "descending": False}
    found = await interpreted("settle the invoice of Ana Souza that is next", answering(paid))
    (operation,) = (each.operation for each in found.interpretation.operations)
    assert operation.selector.first.by_field == "due_date"
    assert operation.max_affected == 0
    assert found.interpretation.confidence == SURE_OF_CHANGES


async def test_without_a_model_or_tiers_or_with_one_that_fails_the_rules_do() -> None:
    """GAT-12."""
    text = "anything about Ana Souza lately"
    for router in (None, Router(Failure("no model", reason="NO_MODEL_AVAILABLE"))):
        found = await interpreted(text, router)
        assert found.interpretation.reader == pb.READER_RULES
    router = answering(READ)
    found = await interpreted(text, router, rules_only=True)
    assert not router.asked
    interpreter = Interpreter(router.complete, NOTICES)
    await interpreter.interpret(text, clinic(), reading(), model_tiers=())
    assert not router.asked


async def test_two_possible_days_are_the_users_to_choose_from() -> None:
    """GAT-4: no model is asked which."""
    router = answering(said("VERB_CREATE", client_name="Ana Souza", starts_at="2026-11-24T15:00"))
    found = await interpreted("book an appointment for Ana Souza tomorrow at 3", router)
    assert not router.asked
    assert found.clarification is not None
    assert found.clarification.ambiguity == pb.AMBIGUITY_DATE
    assert [len(each.operations.operations) for each in found.clarification.options] == [1, 1]


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_missing_value_is_asked_for_by_its_name(locale: str) -> None:
    """GAT-4, GAT-11."""
    text = {"en-US": "create a client", "pt-BR": "crie um cliente", "es-ES": "crea un cliente"}
    field = {"en-US": "name", "pt-BR": "nome", "es-ES": "nombre"}[locale]
    found = await interpreted(text[locale], None, locale)
    assert found.clarification is not None
    assert found.clarification.ambiguity == pb.AMBIGUITY_MISSING_VALUE
    assert field in found.clarification.question
    assert lines(found) == ["CREATE client"]  # what is understood so far
    assert found.interpretation.confidence == 0


async def test_what_is_no_text_reaches_no_model() -> None:
    """GAT-3."""
    router = answering(READ)
    with pytest.raises(InvalidInput):
        await interpreted("\x00", router)
    assert not router.asked


def test_the_schema_lets_only_what_is_offered_be_said() -> None:
    """GAT-3."""
    schema = schema_of(clinic())
    valid = jsonschema_rs.validator_for(schema).is_valid

    def holds(operation: Mapping[str, Any]) -> bool:
        return bool(valid({"operations": [operation]}))

    assert holds(READ)
    assert holds(CANCEL)
    assert holds(said("VERB_UPDATE", "invoice", every=True, status="paid"))
    assert not holds({**READ, "domain": "payroll"})
    assert not holds({**READ, "domain": "finance"})  # its entity is another domain's
    assert not holds(said("VERB_UPDATE", "invoice", locked=True))  # read only
    assert not holds(said("VERB_UPDATE", "invoice", status="gone"))
    reminder = {**READ, "entity": "reminder", "conditions": []}
    assert holds(reminder)
    assert not holds({**reminder, "verb": "VERB_UPDATE"})  # not offered
    by_text = {"field": "message", "comparison": "COMPARISON_EQUAL", "value": "x"}
    assert not holds({**reminder, "conditions": [by_text]})  # not selectable


async def test_the_schema_goes_with_the_request() -> None:
    """GAT-3, ROU-7."""
    router = answering(READ)
    await interpreted("anything about Ana Souza lately", router)
    sent = json_format.MessageToDict(router.asked[0].json_schema)
    assert json.dumps(sent, sort_keys=True).replace(".0", "") == json.dumps(
        schema_of(clinic()), sort_keys=True
    )
