"""What became of every operation, by the report, the clinic's tables, the counts and the log."""

import asyncio
import secrets
import uuid
from collections.abc import Sequence

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.runtime.failure import Precondition
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    appointment,
    client,
    clients,
    indexes,
    invoice,
    operation,
    reason_of,
    reasons,
)

MODIFYING = (CREATE, UPDATE, DELETE)


async def test_a_batch_that_fails_is_undone_and_the_others_stand(stage: Stage) -> None:
    """GAT-6: one transaction a domain; the cause has its own reason, the rest ROLLED_BACK."""
    user = await stage.user()
    await user.execute([client("Ana")])
    answer = await user.execute(
        [
            invoice("1", "Ana"),
            invoice("2", "Nobody at all"),
            appointment("Ana", "2099-01-01T10:00"),
            clients(),
        ]
    )
    report = answer.report
    assert report.outcome == pb.OUTCOME_PARTIAL
    assert [each.index for each in report.successes] == [2, 3]
    assert [each.index for each in report.failures] == [0, 1]
    assert reasons(report) == ["ROLLED_BACK", "NOT_FOUND"]
    assert all(each.message for each in report.failures)
    assert [each.retryable for each in report.failures] == [True, False]
    invoices = "SELECT count(*) FROM clinic.invoices WHERE clinic_id = %s"
    booked = "SELECT count(*) FROM clinic.appointments WHERE clinic_id = %s"
    assert await stage.rows(invoices, user.clinic_id) == [(0,)]
    assert await stage.rows(booked, user.clinic_id) == [(1,)]
    assert await user.usage() == (0, 2)
    rows = {(row[0], row[1], row[2], row[3]) for row in (await user.log())[1:]}
    assert rows == {
        ("create", "finance", "failed", "ROLLED_BACK"),
        ("create", "finance", "failed", "NOT_FOUND"),
        ("create", "appointments", "succeeded", ""),
        ("read", "clients", "succeeded", ""),
    }


async def test_what_is_refused_never_reaches_a_domain(stage: Stage) -> None:
    """GAT-3, GAT-6: unknown, not offered, not in the schema, of a wrong kind; other batches stand.

    The kind: a fault that the gateway finds and its domain would find as well. Each has its own
    reason and names its field; whatever else is for the same domain is not done either.
    """
    user = await stage.user()
    async with stage.lab() as lab:
        request = [
            operation("nowhere", READ),
            operation("clients", CREATE, "ghost", name="x"),
            client("Ana", blood_type="A"),
            client("Ana", contact_consent="yes"),
            operation("clients", UPDATE, where={"name": "Ana"}),
            operation(lab.name, UPDATE, record="1", unheard_of="x"),
            client("Bea"),
            operation("finance", READ),
        ]
        answer = await user.execute(request)
        assert reasons(answer.report) == [
            "UNKNOWN_DOMAIN",
            "UNKNOWN_ENTITY",
            "FIELD_INVALID",
            "FIELD_INVALID",
            "FIELD_INVALID",
            "FIELD_INVALID",
            "ROLLED_BACK",
        ]
        assert [each.field for each in answer.report.failures] == [
            "domain",
            "entity",
            "fields.blood_type",
            "fields.contact_consent",
            "fields",
            "fields.unheard_of",
            "",
        ]
        assert indexes(answer.report) == list(range(8))
        assert [each.index for each in answer.report.successes] == [7]
        assert lab.done == []
    assert await user.clients() == []
    assert await user.usage() == (1, 0)
    outcomes = sorted(row[2] for row in await user.log())
    assert outcomes == ["refused"] * 7 + ["succeeded"]


def referring(place: int) -> pb.Operation:
    """A client whose name comes from an operation that does not bring one."""
    made = client("")
    del made.fields["name"]
    made.references.add(field="name", operation=place)
    return made


FAULTS = {
    "unknown field": (client("Bea", blood_type="A"), "FIELD_INVALID", "fields.blood_type"),
    "bad value": (client("Bea", birth_date="someday"), "FIELD_INVALID", "fields.birth_date"),
    "too long": (client("Bea", phone="1" * 41), "FIELD_INVALID", "fields.phone"),
    "none given": (operation("clients", CREATE, "client"), "FIELD_INVALID", "fields.name"),
    "read only": (clients(nonsense="1"), "FIELD_INVALID", "selector.conditions[0].field"),
    "no selector": (operation("clients", DELETE, "client"), "INVALID_ARGUMENT", "selector"),
    "no such kind": (operation("clients", READ, "ghost"), "UNKNOWN_ENTITY", "entity"),
    "reference forwards": (referring(9), "REFERENCE_INVALID", "references[0].operation"),
    "found by the domain": (
        operation("clients", DELETE, "client", where={"name": "Nobody"}),
        "NOT_FOUND",
        "",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_a_batch_is_whole_whoever_finds_the_fault(
    stage: Stage, fault: tuple[pb.Operation, str, str], first: bool
) -> None:
    """GAT-6: the kind is a fault in one operation of several; a dry run says the same."""
    user = await stage.user()
    wrong, reason, field = fault
    batch = [client("Ana"), clients()]
    request = [*([wrong, *batch] if first else [*batch, wrong]), operation("finance", READ)]
    id_ = str(uuid.uuid4())
    dry = await user.execute(request, validate_only=True)
    answer = await user.execute(request, request_id=id_)
    if answer.HasField("confirmation"):
        token = answer.confirmation.confirmation_token
        answer = await user.execute(None, request_id=id_, confirmation_token=token)
    expected = ["ROLLED_BACK"] * 2
    expected.insert(0 if first else 2, reason)
    for report in (dry.report, answer.report):
        assert [each.index for each in report.successes] == [3]
        assert reasons(report) == expected
        assert report.failures[0 if first else 2].field == field
    assert dry.report.outcome == pb.OUTCOME_WOULD_BE_PARTIAL
    assert answer.report.outcome == pb.OUTCOME_PARTIAL
    assert await user.clients() == []
    assert (await user.usage())[1] == 0


async def test_a_locked_record_and_a_missing_consent_are_told_to_people(stage: Stage) -> None:
    """GAT-6, GAT-11: a reason for machines, a sentence, a next step, and a notice each."""
    user = await stage.user(locale="pt-BR")
    await user.execute([client("Ana", contact_consent=False)])
    await user.execute([invoice("1", "Ana")])
    lock = "UPDATE clinic.invoices SET locked = true WHERE clinic_id = %s"
    await stage.rows(lock, user.clinic_id)
    answer = await user.execute(
        [
            operation("finance", UPDATE, "invoice", where={"number": "1"}, status="paid"),
            operation("appointments", CREATE, "reminder", client_name="Ana"),
        ]
    )
    assert sorted(reasons(answer.report)) == ["CONSENT_MISSING", "RECORD_LOCKED"]
    assert {each.kind for each in answer.notices} == {
        pb.NOTICE_KIND_CONSENT,
        pb.NOTICE_KIND_RECORD_LOCKED,
    }
    assert all(each.locale == "pt-BR" for each in answer.notices)
    assert all(each.message and each.next_step for each in answer.report.failures)
    assert (await user.usage())[1] == 2  # the two of the beginning


async def test_each_change_has_its_intent_before_and_one_row_after(stage: Stage) -> None:
    """LOG-1, LOG-2: two links of the chain for a change, one for a read, by one id."""
    user = await stage.user()
    answer = await user.execute([client("Ana"), clients()])
    ids = {each.index: each.operation_id for each in answer.report.successes}
    links = await stage.rows(
        "SELECT operation_id::text, kind FROM oplog.links WHERE user_id = %s ORDER BY position",
        user.id,
    )
    assert sorted(links) == sorted([(ids[0], "intent"), (ids[0], "outcome"), (ids[1], "outcome")])
    assert links[0] == (ids[0], "intent")
    rows = await stage.rows(
        "SELECT id::text, request_id, clinic_id::text FROM oplog.operation_log WHERE user_id = %s",
        user.id,
    )
    expected = {(id_, answer.report.request_id, user.clinic_id) for id_ in ids.values()}
    assert set(rows) == expected


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_callers_trace_is_kept_sampled_or_not(stage: Stage, flags: str) -> None:
    """LOG-3: rows carry the caller's trace, and its sampling switches nothing off."""
    user, trace = await stage.user(), secrets.token_hex(16)
    parent = ("traceparent", f"00-{trace}-{secrets.token_hex(8)}-{flags}")
    answer = await user.execute([client("Ana"), clients()], metadata=[parent])
    assert answer.trace_id == trace
    rows = await stage.rows(
        "SELECT DISTINCT trace_id FROM oplog.operation_log WHERE user_id = %s", user.id
    )
    assert rows == [(trace,)]
    listed = await stage.gateways[1].ListOperations(pb.ListOperationsRequest(), **user.call)
    assert [each.trace_id for each in listed.operations] == [trace, trace]


async def test_nothing_that_was_said_or_kept_is_in_the_log(stage: Stage) -> None:
    """LOG-6: neither words, nor names, nor values, nor labels."""
    user = await stage.user()
    await user.execute([client("Hildegard Secret", phone="+49 123 456")])
    await user.execute("change the phone of client Hildegard Secret to 777888999")
    await user.execute([operation("clients", READ, where={"name": "Hildegard Secret"})])
    await user.execute([operation("hildegard_secret", READ)])
    text = ""
    for table in ("links", "operation_log"):
        text += str(
            await stage.rows(f"SELECT l::text FROM oplog.{table} l WHERE user_id = %s", user.id)
        )
    assert len(text) > 100
    for word in ("Hildegard", "Secret", "secret", "123 456", "777888999", "phone"):
        assert word not in text


NAMES = ("Ana", "Bea", "Caio")


@st.composite
def requests(draw: st.DrawFn) -> list[pb.Operation]:
    """One to five operations, many of which cannot be done."""
    name = st.sampled_from((*NAMES, "Nobody"))
    made = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.integers(0, 7))
        made.append(
            [
                lambda: client(draw(name)),
                lambda: operation("clients", READ, where={"name": draw(name)}),
                lambda: operation(
                    "clients",
                    UPDATE,
                    where={"name": draw(name)},
                    phone=draw(st.sampled_from("123")),
                ),
                lambda: invoice(str(draw(st.integers(1, 4))), draw(name)),
                lambda: operation(
                    "finance", DELETE, where={"number": str(draw(st.integers(1, 4)))}
                ),
                lambda: appointment(draw(name), "2099-05-01T09:00"),
                lambda: operation("nowhere", CREATE),
                lambda: client(draw(name), nonsense=True),
            ][kind]()
        )
    return made


async def tables(stage: Stage, user: User) -> dict[str, int]:
    """How many records of each domain there are."""
    count = "SELECT count(*) FROM clinic.{} WHERE clinic_id = %s AND deleted_at IS NULL"
    kinds = {"clients": "clients", "finance": "invoices", "appointments": "appointments"}
    return {
        domain: int((await stage.rows(count.format(table), user.clinic_id))[0][0])
        for domain, table in kinds.items()
    }


async def check(stage: Stage, user: User, request: Sequence[pb.Operation]) -> None:
    before, used = await tables(stage, user), await user.usage()
    id_ = str(uuid.uuid4())
    answer = await user.execute(request, request_id=id_)
    if answer.HasField("confirmation"):
        token = answer.confirmation.confirmation_token
        answer = await user.execute(None, request_id=id_, confirmation_token=token)
    if answer.HasField("clarification"):
        assert await tables(stage, user) == before
        return
    report = answer.report
    assert indexes(report) == list(range(len(request)))
    assert all(reason_of(each.status) and each.message for each in report.failures)
    done = {each.domain for each in report.successes}
    assert not done & {each.domain for each in report.failures}, "a batch was half done"
    change = dict.fromkeys(before, 0)
    for each in report.successes:
        change[each.domain] += {CREATE: 1, DELETE: -each.affected}.get(each.verb, 0)
    assert await tables(stage, user) == {name: before[name] + change[name] for name in before}
    changed = sum(each.verb in MODIFYING for each in report.successes)
    assert (await user.usage())[1] == used[1] + changed
    log = await stage.rows(
        "SELECT id::text, outcome FROM oplog.operation_log WHERE user_id = %s AND request_id = %s",
        user.id,
        id_,
    )
    assert {id_ for id_, outcome in log if outcome == "succeeded"} == {
        each.operation_id for each in report.successes
    }
    assert {id_ for id_, outcome in log if outcome in ("failed", "refused")} == {
        each.operation_id for each in report.failures
    }


async def test_report_tables_counts_and_log_agree(stage: Stage) -> None:
    """GAT-6, USE-2, LOG-2: whatever is asked, each operation is told once, and it is true."""
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=5,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(), min_size=2, max_size=3))
    def law(each: list[list[pb.Operation]]) -> None:
        async def told() -> None:
            user = await stage.user()
            await user.execute([client(name) for name in NAMES])
            for request in each:
                await check(stage, user, request)

        asyncio.run_coroutine_threadsafe(told(), loop).result(60)

    await asyncio.to_thread(law)


async def test_a_domains_words_and_odd_reasons_stay_with_it(stage: Stage) -> None:
    """ALL-2, LOG-6: a reason that is a text is not one."""
    user = await stage.user()
    async with stage.lab() as lab:

        async def talkative(
            request: domain_pb2.ExecuteBatchRequest,
        ) -> domain_pb2.ExecuteBatchResponse:
            status = Precondition("SELECT * FROM x", reason="Ana Souza owes 300").status()
            results = [
                domain_pb2.Result(operation_id=each.operation_id, status=status)
                for each in request.operations
            ]
            return domain_pb2.ExecuteBatchResponse(results=results)

        lab.answers = talkative
        answer = await user.execute([operation(lab.name, CREATE)])
        assert reasons(answer.report) == ["OTHER"]
        assert "Souza" not in str(answer)
        assert "SELECT" not in str(answer)
        assert [row[3] for row in await user.log()] == ["OTHER"]
