"""The same request_id does nothing twice, from wherever it comes (GAT-2)."""

import asyncio
import uuid
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta

import grpc
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import Revision
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2

from services.gateway.replay import Call, Lease, Orphaned, StoredAnswer, fingerprint_of
from services.gateway.requests import Requests, named_together
from services.runtime.failure import InvalidInput
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from tests.gateway_calls import (
    CREATE,
    READ,
    UPDATE,
    Stage,
    User,
    another_gateway,
    client,
    clients,
    detail_of,
    eventually,
    invoice,
    operation,
    reasons,
    refused,
)


async def test_copies_that_race_over_two_replicas_do_it_once(stage: Stage) -> None:
    """GAT-2, USE-2, LOG-2: one effect, one count, one row, one report."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    answers = await asyncio.gather(
        *(user.execute([client("Ana")], request_id=id_, replica=each % 2) for each in range(20))
    )
    assert {answer.report.id for answer in answers} == {answers[0].report.id}
    assert sum(not answer.replayed for answer in answers) == 1
    assert await user.clients() == ["Ana"]
    assert await user.usage() == (0, 1)
    assert await user.log() == [("create", "clients", "succeeded", "")]


async def test_reads_that_race_are_counted_once(stage: Stage) -> None:
    """GAT-2, USE-2."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    answers = await asyncio.gather(
        *(user.execute([clients()], request_id=id_, replica=each % 2) for each in range(10))
    )
    assert {answer.report.id for answer in answers} == {answers[0].report.id}
    assert await user.usage() == (1, 0)
    assert await user.log() == [("read", "clients", "succeeded", "")]


WORDS = "change the phone of client Ana to 555"


@pytest.mark.parametrize(
    ("names", "what", "result", "counted"),
    [
        (["Ana"], "show the clients", "report", (1, 1)),
        (["Ana"], "register the client Bea Lima", "report", (0, 2)),
        (["Ana"], WORDS, "confirmation", (0, 1)),
        (["Ana", "Ana"], WORDS, "clarification", (0, 2)),
        (["Ana"], "hm, what about it?", "clarification", (0, 1)),
        (["Ana"], [client(str(each)) for each in range(6)], "confirmation", (0, 1)),
        (
            ["Ana"],
            [operation("clients", UPDATE, where={"name": "No"}, phone="1")],
            "report",
            (0, 1),
        ),
    ],
    ids=["read", "change", "unsure", "which", "what", "bulk", "failure"],
)
async def test_whatever_is_answered_first_is_what_all_copies_get(
    stage: Stage,
    names: list[str],
    what: str | list[pb.Operation],
    result: str,
    counted: tuple[int, int],
) -> None:
    """GAT-2, USE-2: byte by byte, at two gateways at once; words are read by one of them."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    await user.execute([client(name) for name in names])
    answers = await asyncio.gather(
        *(user.execute(what, request_id=id_, replica=each % 2) for each in range(4))
    )
    answers.append(await user.execute(what, request_id=id_, replica=1))
    assert sum(not answer.replayed for answer in answers) == 1
    assert answers[0].WhichOneof("result") == result
    for answer in answers:
        answer.replayed = False
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert await user.usage() == counted


def sized(field: int, content: bytes) -> bytes:
    """A field with its number and its length, as it goes over the wire."""
    assert len(content) < 128
    return bytes([field << 3 | 2, len(content)]) + content


async def test_the_same_payload_is_the_same_however_it_is_written(stage: Stage) -> None:
    """GAT-2: in any order of fields, with any deadline, of any revision; from another language."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    made = client("Ana", phone="1")
    first = await user.execute([made], request_id=id_, locale="pt-BR", time_zone="UTC")
    parts = [
        pb.Operation(fields={"phone": "1"}),
        pb.Operation(verb=made.verb),
        pb.Operation(fields={"name": "Ana"}),
        pb.Operation(entity="client"),
        pb.Operation(domain="clients"),
    ]
    turned = sized(3, sized(1, b"".join(each.SerializeToString() for each in parts)))
    raw = b"".join(
        [
            pb.ExecuteRequest(min_revision=Revision(epoch="e", number=1)).SerializeToString(),
            pb.ExecuteRequest(time_zone="UTC").SerializeToString(),
            pb.ExecuteRequest(locale="fr").SerializeToString(),
            turned,
            pb.ExecuteRequest(locale="pt-BR", request_id=id_).SerializeToString(),
        ]
    )
    async with grpc.aio.insecure_channel(stage.suite.addresses["gateway"]) as channel:
        execute = channel.unary_unary("/gatehouse.gateway.v1.GatewayService/Execute")
        for seconds in (1.5, 20.0):
            call = {**user.call, "timeout": seconds}
            again = pb.ExecuteResponse.FromString(await execute(raw, **call))
            assert again.replayed
            assert again.report == first.report
    assert await user.clients() == ["Ana"]


async def test_what_a_gateway_had_still_to_settle_is_settled_and_told_alike(stage: Stage) -> None:
    """GAT-2, USE-2, LOG-2: one that died after it knew its report, and before it gave it."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    request = [client("Ana"), invoice("1", "Nobody"), clients()]
    first = await user.execute(request, request_id=id_)
    for _ in range(2):
        await stage.rows(
            "UPDATE gateway.requests SET state = 'settling', lease_until = now()"
            " WHERE user_id = %s",
            user.id,
        )
        again = await user.execute(request, request_id=id_, replica=1)
        assert again.report == first.report
    assert await user.clients() == ["Ana"]
    assert await user.usage() == (0, 1)
    assert sorted(row[2] for row in await user.log()) == ["failed", "succeeded", "succeeded"]


async def test_a_dry_run_under_the_same_id_is_neither_kept_nor_in_the_way(stage: Stage) -> None:
    """GAT-1, GAT-2: before it and after it, of the same payload or another."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    await user.execute([client("Bea")], request_id=id_, validate_only=True)
    done = await user.execute([client("Ana")], request_id=id_)
    dry = await user.execute([client("Bea")], request_id=id_, validate_only=True)
    assert not dry.replayed
    assert (await user.execute([client("Ana")], request_id=id_)).report == done.report
    assert await user.clients() == ["Ana"]


async def test_an_answer_stands_though_the_world_moves_on(stage: Stage) -> None:
    """GAT-2: the same report, not the same question again; of failures and clarifications too."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    before = await user.execute([clients()], request_id=id_)
    await user.execute([client("Ana")])
    after = await user.execute([clients()], request_id=id_, replica=1)
    assert after.replayed
    after.replayed = False
    assert after == before
    missing = [operation("clients", domain_pb2.VERB_DELETE, where={"name": "Nobody"})]
    failed = str(uuid.uuid4())
    first = await user.execute(missing, request_id=failed)
    second = await user.execute(missing, request_id=failed)
    assert first.report == second.report
    assert reasons(first.report) == ["NOT_FOUND"]


async def test_another_payload_under_the_same_id_is_refused(stage: Stage) -> None:
    """GAT-2: whatever of it is other; nothing of it is done or counted."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    await user.execute([client("Ana")], request_id=id_)
    for other in (
        user.execute([client("Bea")], request_id=id_),
        user.execute("show the clients", request_id=id_),
        user.execute([client("Ana")], request_id=id_, locale="pt-BR"),
        user.execute([client("Ana")], request_id=id_, time_zone="Asia/Tokyo"),
        user.execute([client("Ana", phone="1")], request_id=id_, replica=1),
        user.execute([client("Ana"), client("Bea")], request_id=id_, replica=1),
    ):
        failure = await refused(other)
        assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
        assert failure.reason == "REQUEST_ID_REUSED"
    assert await user.clients() == ["Ana"]
    assert await user.usage() == (0, 1)


async def test_an_id_belongs_to_its_user(stage: Stage) -> None:
    """GAT-2: two users may use the same id, and neither sees the other's answer."""
    one, two, id_ = await stage.user(), await stage.user(), "order-17"
    await one.execute([client("Ana")], request_id=id_)
    answer = await two.execute([client("Bea")], request_id=id_)
    assert not answer.replayed
    assert await one.clients() == ["Ana"]
    assert await two.clients() == ["Bea"]


async def test_an_answer_is_of_its_clinic(stage: Stage) -> None:
    """GAT-2, ALL-3: the same user with a token of another clinic is not shown it."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    await user.execute([clients()], request_id=id_)
    elsewhere = User(stage, user.id, str(uuid.uuid4()))
    failure = await refused(elsewhere.execute([clients()], request_id=id_))
    assert failure.reason == "REQUEST_ID_REUSED"


async def test_a_second_call_waits_for_the_first(stage: Stage) -> None:
    """GAT-2: within its deadline; with too short a one it is told that the first still runs."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        asked = [operation(lab.name, CREATE)]
        first = asyncio.create_task(user.execute(asked, request_id=id_))
        await lab.arrived.wait()
        late = await refused(user.execute(asked, request_id=id_, replica=1, timeout=0.5))
        assert late.code is grpc.StatusCode.ABORTED
        assert late.reason == "REQUEST_IN_PROGRESS"
        assert late.retry_after
        second = asyncio.create_task(user.execute(asked, request_id=id_, replica=1))
        lab.go_on.set()
        assert (await second).report == (await first).report
        assert len(lab.done) == 1


@pytest.mark.parametrize("id_", ["", "with space", "ümlaut", "x" * 129, "a\nb", "'; drop table"])
async def test_an_id_that_is_none_is_refused_by_name(stage: Stage, id_: str) -> None:
    """GAT-2: a BadRequest names the field."""
    user = await stage.user()
    request = pb.ExecuteRequest(request_id=id_, operations=pb.OperationList(operations=[clients()]))
    failure = await refused(stage.gateways[0].Execute(request, **user.call))
    assert failure.reason == InvalidInput.reason
    bad = detail_of(failure, error_details_pb2.BadRequest)
    assert [each.field for each in bad.field_violations] == ["request_id"]


async def test_a_refused_request_may_come_again(stage: Stage) -> None:
    """GAT-2, LOG-2: what was refused for the plan is done after the upgrade, in rows of its own."""
    user, id_ = await stage.user("basic"), str(uuid.uuid4())
    failure = await refused(user.execute([client("Ana")], request_id=id_))
    assert failure.reason == "PLAN_FORBIDS"
    await stage.assign(user, "premium")

    async def done() -> bool:
        try:
            return bool((await user.execute([client("Ana")], request_id=id_)).report.successes)
        except grpc.aio.AioRpcError:
            return False

    await eventually(done)
    assert await user.clients() == ["Ana"]
    outcomes = sorted((row[2], row[3]) for row in await user.log())
    assert outcomes == [("refused", "PLAN_FORBIDS"), ("succeeded", "")]


def call_of(request: pb.ExecuteRequest, caller: Caller) -> Call:
    mark = fingerprint_of(request, caller.clinic_id)
    return Call(caller, request.request_id, mark, "en-US", "UTC")


class Store:
    """The table of requests, as one user's calls use it."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.caller = Caller(str(uuid.uuid4()), str(uuid.uuid4()), frozenset({"user"}))
        operations = pb.OperationList(operations=[client("Ana")])
        self.request = pb.ExecuteRequest(request_id="r", operations=operations)

    async def open(self) -> object:
        return await self.requests.open(call_of(self.request, self.caller))


@pytest.fixture
async def store(stage: Stage) -> Store:
    async with open_pool(
        stage.suite.database_url("gateway"), min_size=1, max_size=4, name="gateway"
    ) as pool:
        # Leases of no length: whoever looks finds the call before dead.
        yield Store(Requests(pool, keep=timedelta(hours=24), lease=timedelta(0)))


async def test_what_a_dead_call_had_not_begun_starts_anew(store: Store) -> None:
    """GAT-2: nothing was changed, so whoever comes next carries it out."""
    first = await store.open()
    second = await store.open()
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert first.owner != second.owner


async def test_what_a_dead_call_had_begun_is_only_settled(store: Store) -> None:
    """GAT-2: from then on nobody gets it to carry out."""
    first = await store.open()
    assert isinstance(first, Lease)
    planned = pb.ConfirmationRequired(operations=[pb.PlannedOperation(operation=client("Ana"))])
    await store.requests.dispatching(first, planned, 1, pb.ExecuteResponse())
    left = await store.open()
    assert isinstance(left, Orphaned)
    assert (left.planned, left.claimed) == (planned, 1)
    await store.requests.abandon(first, was_counted=True)
    assert await store.requests.state("r", store.caller) == "dispatching"


async def test_a_call_that_lost_its_request_writes_no_more(store: Store) -> None:
    """GAT-2: neither its answer nor that it begins."""
    first = await store.open()
    second = await store.open()
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    planned = pb.ConfirmationRequired(operations=[pb.PlannedOperation(operation=client("Ana"))])
    with pytest.raises(Exception, match="still runs"):
        await store.requests.dispatching(first, planned, 1, pb.ExecuteResponse())
    assert not await store.requests.finish(first, b"")
    assert await store.requests.answered(first, b"", b"") is None
    assert not await store.requests.delivering(first)
    assert await store.requests.state("r", store.caller) == "running"


async def test_an_abandoned_request_is_as_if_it_had_not_come(store: Store) -> None:
    """GAT-2: another payload may come under its id; one attempt is told from the next."""
    first = await store.open()
    assert isinstance(first, Lease)
    await store.requests.abandon(first, was_counted=True)
    assert await store.requests.state("r", store.caller) is None
    second = await store.open()
    assert isinstance(second, Lease)
    assert (second.use_id, second.attempt) == (first.use_id, first.attempt + 1)
    await store.requests.abandon(second, was_counted=True)
    store.request.operations.operations[0].domain = "finance"
    other = await store.open()
    assert isinstance(other, Lease)
    assert other.use_id != first.use_id
    assert other.attempt > second.attempt


async def test_a_request_for_which_nothing_was_counted_leaves_no_row(store: Store) -> None:
    """GAT-2: a flood of refused requests fills no table."""
    first = await store.open()
    assert isinstance(first, Lease)
    await store.requests.abandon(first, was_counted=False)
    count = "SELECT count(*) FROM gateway.requests WHERE request_id = 'r'"
    async with store.requests._pool.transaction(store.caller) as connection:
        assert await (await connection.execute(count)).fetchone() == (0,)


async def test_requests_are_their_users_alone(stage: Stage) -> None:
    """ALL-3: the gateway's own role sees no other user's answers, and deletes none."""
    user, other = await stage.user(), await stage.user()
    await user.execute([clients()], request_id="mine")
    url = stage.suite.database_url("gateway")
    count = "SELECT count(*) FROM gateway.requests WHERE request_id = 'mine'"
    async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
        for caller, seen in (
            (Caller(user.id, "", frozenset({"user"})), 1),
            (Caller(other.id, "", frozenset({"user", "admin"})), 0),
            (Caller("gateway", "", frozenset({"service"})), 0),
        ):
            async with pool.transaction(caller) as connection:
                row = await (await connection.execute(count)).fetchone()
                assert row == (seen,)
                if not seen:
                    done = await connection.execute("DELETE FROM gateway.requests")
                    assert done.rowcount == 0


async def test_requests_of_many_users_are_taken_on_once_each(stage: Stage) -> None:
    """GAT-2: side by side, over two replicas that are asked the same."""
    url = stage.suite.database_url("gateway")
    users = [Caller(str(uuid.uuid4()), "", frozenset({"user"})) for _ in range(20)]
    operations = pb.OperationList(operations=[client("Ana")])
    request = pb.ExecuteRequest(request_id="same", operations=operations)
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(open_pool(url, min_size=1, max_size=4, name="gateway"))
            for _ in range(2)
        ]
        replicas = [Requests(pool, keep=timedelta(hours=24)) for pool in pools]
        opened = await asyncio.gather(
            *(one._try_open(call_of(request, user)) for user in users for one in replicas)
        )
        taken = [each for each in opened if isinstance(each, Lease)]
        assert len(taken) == len(users) == len({each.owner for each in taken})
        assert [each for each in opened if not isinstance(each, Lease)] == [None] * len(users)
        answers = [pb.ExecuteResponse(trace_id=user.user_id) for user in users]
        owners = [
            (one, two)[isinstance(two, Lease)]
            for one, two in zip(opened[::2], opened[1::2], strict=True)
        ]
        await asyncio.gather(
            *(
                replicas[0].finish(owner, answer.SerializeToString())  # type: ignore[arg-type]
                for owner, answer in zip(owners, answers, strict=True)
            )
        )
        kept = [await replicas[1].open(call_of(request, user)) for user in users]
    assert kept == [StoredAnswer(answer.SerializeToString()) for answer in answers]


async def test_a_statement_in_the_name_of_several_users_reaches_no_other(stage: Stage) -> None:
    """ALL-3: whoever is not named is neither read, nor changed, nor written for."""
    one, two, other = [await stage.user() for _ in range(3)]
    for user in (one, two, other):
        await user.execute([clients()], request_id="mine")
    url = stage.suite.database_url("gateway")
    async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
        both = named_together([one.id, two.id])
        found = await pool.once(both, "SELECT user_id FROM gateway.requests", ())
        assert {str(row[0]) for row in found.rows} == {one.id, two.id}
        done = await pool.once(both, "UPDATE gateway.requests SET answer = ''", ())
        assert done.count == 2
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await pool.once(
                both,
                "INSERT INTO gateway.requests (user_id, clinic_id, request_id, fingerprint, locale,"
                " time_zone, state, owner, lease_until, expires_at)"
                " VALUES (%s, '', 'x', '', '', '', 'running', %s, now(), now())",
                (other.id, uuid.uuid4()),
            )
        nobody = await pool.once(named_together([]), "SELECT 1 FROM gateway.requests", ())
        assert nobody.rows == []


async def test_a_locked_row_holds_up_nobody_elses_answer(stage: Stage) -> None:
    """USE-9. Kind: a batch of several users that waits for the row of one of them."""
    url = stage.suite.database_url("gateway")
    users = [Caller(str(uuid.uuid4()), "", frozenset({"user"})) for _ in range(3)]
    request = pb.ExecuteRequest(request_id="l", operations=pb.OperationList())
    async with (
        open_pool(url, min_size=1, max_size=4, name="gateway") as pool,
        await psycopg.AsyncConnection.connect(stage.suite.database_url("postgres")) as holder,
    ):
        requests = Requests(pool, keep=timedelta(hours=24))
        leases = [await requests.open(call_of(request, user)) for user in users]
        await holder.execute(
            "SELECT FROM gateway.requests WHERE user_id = %s FOR UPDATE", (users[0].user_id,)
        )
        locked, *others = [
            asyncio.create_task(requests.finish(each, b""))  # type: ignore[arg-type]
            for each in leases
        ]
        assert await asyncio.gather(*others) == [True, True]
        assert not locked.done()
        await holder.rollback()
        assert await locked


async def test_the_lease_of_what_runs_is_renewed(stage: Stage) -> None:
    """GAT-2, GAT-7: of all that run, by one statement, and of none that is over.

    What is cancelled where it is not heard of is found then.
    """
    url = stage.suite.database_url("gateway")
    users = [Caller(str(uuid.uuid4()), "", frozenset({"user"})) for _ in range(3)]
    operations = pb.OperationList(operations=[client("Ana")])
    request = pb.ExecuteRequest(request_id="long", operations=operations)
    lease = timedelta(seconds=0.4)

    async def dead(user: Caller) -> bool:
        found = await pool.once(user, "SELECT lease_until < now() FROM gateway.requests", ())
        return bool(found.rows[0][0])

    async with open_pool(url, min_size=1, max_size=4, name="gateway") as pool:
        requests = Requests(pool, keep=timedelta(hours=24), lease=lease)
        opened = [await requests.open(call_of(request, user)) for user in users]
        assert all(isinstance(each, Lease) for each in opened)
        with ExitStack() as held:
            stops = [asyncio.Event() for _ in users]
            for each, stop in zip(opened[:2], stops, strict=False):
                held.enter_context(requests.held(each, stop))  # type: ignore[arg-type]
            await pool.once(users[0], "UPDATE gateway.requests SET cancelled = true", ())
            await eventually(lambda: dead(users[2]))
            # Nothing is to happen in it: a lease that was not renewed would be over twice.
            await asyncio.sleep(2 * lease.total_seconds())
            assert [await dead(user) for user in users] == [False, False, True]
            assert [stop.is_set() for stop in stops] == [True, False, False]
        await eventually(lambda: dead(users[0]))


async def test_what_is_over_is_swept(stage: Stage) -> None:
    """GAT-2: after 24 h, whosesoever it is, all of it, and nothing else."""
    user = await stage.user()
    await stage.rows(
        "INSERT INTO gateway.requests (user_id, clinic_id, request_id, fingerprint, locale,"
        " time_zone, state, owner, answer, lease_until, expires_at)"
        " SELECT %s, '', 'old-' || n, '', 'en-US', 'UTC', 'finished', gen_random_uuid(), '', now(),"
        " now() - interval '1 s' FROM generate_series(1, 2500) AS n",
        user.id,
    )
    await user.execute([operation("clients", READ)], request_id="old")
    await user.execute([operation("clients", READ)], request_id="new")

    async def are_logged() -> bool:  # what is brought to the log later is kept from then on
        (count,) = await stage.rows(
            "SELECT count(*) FROM gateway.requests WHERE user_id = %s AND state = 'answered'",
            user.id,
        )
        return count == (0,)

    await eventually(are_logged)
    await stage.rows(
        "UPDATE gateway.requests SET expires_at = now() - interval '1 s'"
        " WHERE user_id = %s AND request_id = 'old'",
        user.id,
    )
    url = stage.suite.database_url("gateway")
    async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
        await Requests(pool, keep=timedelta(hours=24)).sweep()
    left = await stage.rows("SELECT request_id FROM gateway.requests WHERE user_id = %s", user.id)
    assert left == [("new",)]


async def test_an_id_used_again_after_its_time_is_another_request(stage: Stage) -> None:
    """GAT-2, LOG-2: done and counted anew, swept or not; its operations have rows of their own."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    reports = []
    async with another_gateway(stage.suite, replay_hours="0.00001") as forgetful:
        request = pb.ExecuteRequest(
            request_id=id_, operations=pb.OperationList(operations=[client("Ana")])
        )
        over = "SELECT count(*) FROM gateway.requests WHERE user_id = %s AND expires_at > now()"
        for is_swept in (True, False, True):
            answer = await forgetful.Execute(request, **user.call)
            assert not answer.replayed
            reports.append(answer.report)
            await eventually(lambda: is_nothing(stage, over, user.id))
            if is_swept:
                url = stage.suite.database_url("gateway")
                async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
                    await Requests(pool, keep=timedelta(hours=24)).sweep()
    operations = {success.operation_id for report in reports for success in report.successes}
    assert len(operations) == 3
    assert await user.clients() == ["Ana"] * 3
    assert await user.usage() == (0, 3)
    assert [row[2] for row in await user.log()] == ["succeeded"] * 3


async def is_nothing(stage: Stage, count: str, *values: str) -> bool:
    return await stage.rows(count, *values) == [(0,)]
