"""The log in a real Postgres: one row an operation, a chain that tells (LOG-1, LOG-2, LOG-4)."""

import asyncio
import logging
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OKPKey
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from services.embedded_stores import create_database, drop_database
from services.oplog.chain import link_hash
from services.oplog.committer import LogOverloaded, open_committer
from services.oplog.postgres import Store
from services.oplog.projection import ABANDONED, OUTCOMES, Malformed, OperationSpan, Row, projected
from services.oplog.retention import retain
from services.oplog.seals import Seal, Sealing
from services.oplog.verification import Verification, Walk, compared
from services.runtime.failure import Internal, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.migrations import migrate
from services.runtime.postgres import open_pool
from services.runtime.telemetry import Telemetry
from tests.conftest import Database

AUDITOR = Caller(user_id=str(uuid.uuid4()), clinic_id="", roles=frozenset({"auditor"}))
LOG = logging.getLogger("gatehouse.oplog")
TELEMETRY = Telemetry(NoOpTracer(), NoOpMeter("test"), LOG)
SEALING = Sealing(OKPKey.generate_key("Ed25519", auto_kid=True))


@dataclass
class Log:
    """A store whose clock is Postgres's until one is given, and a way past it."""

    store: Store
    admin_url: str
    now: datetime | None = None

    async def row(self, id_: uuid.UUID) -> Row | None:
        rows = await self.store.page(AUDITOR, [("id = %s", (id_,))], None, 1)
        return rows[0] if rows else None

    sealing: Sealing = SEALING

    async def verified(
        self, start: datetime | None = None, end: datetime | None = None
    ) -> pb.VerifyChainResponse:
        now = self.now or datetime.now(UTC)
        verifying = Verification(self.store, self.sealing, AUDITOR, now)
        walk = await verifying.begun(start)
        await verifying.proceed(walk, end, None)
        return walk.answer()

    async def broken(self) -> tuple[str, int]:
        found = await self.verified()
        assert not found.intact
        return pb.Tampering.Name(found.broken.tampering), found.broken.position

    async def digests(self) -> list[str]:
        """Every seal there is, as somebody keeps them elsewhere."""
        return [text for _, text, _ in await self.store.seals(AUDITOR, 0, None, 1000)]

    async def compared(self, digests: Sequence[str]) -> list[str]:
        now = self.now or datetime.now(UTC)
        found = await compared(self.store, self.sealing, AUDITOR, digests, now)
        return [pb.DigestMatch.Name(each.match).removeprefix("DIGEST_MATCH_") for each in found]

    async def tamper(self, *statements: str) -> None:
        """As a superuser does, around the service and its role."""
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def count(self, table: str) -> int:
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            found = await connection.execute(f"SELECT count(*) FROM oplog.{table}")
            row = await found.fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def opened(database: Any) -> AsyncIterator[Log]:
    async with open_pool(database.url_for("oplog"), min_size=1, max_size=6, name="oplog") as pool:
        # A clock that was not set falls back on Postgres's, as the service does.
        clocked: Log
        store = Store(pool, SEALING, lambda: clocked.now or datetime.now(UTC))
        clocked = Log(store, database.admin_url)
        await clocked.store.prepare()
        yield clocked


@pytest.fixture
async def log(database: Any) -> AsyncIterator[Log]:
    async with opened(database) as made:
        yield made


@pytest.fixture(scope="module")
async def blank(postgres: Any) -> AsyncIterator[Database]:
    """A database with the log's schema, which nobody connects to: others are copied from it."""
    made = Database(postgres, f"test_{uuid.uuid4().hex[:12]}")
    await create_database(postgres, made.name)
    await asyncio.to_thread(migrate, made.migrator_url, "oplog")
    yield made
    await drop_database(postgres, made.name)


@pytest.fixture
async def own_log(blank: Database) -> AsyncIterator[Log]:
    """A log with nothing in it, to be tampered with."""
    copied = replace(blank, name=f"test_{uuid.uuid4().hex[:12]}")
    async with await psycopg.AsyncConnection.connect(
        blank.server.url(), autocommit=True
    ) as connection:
        await connection.execute(
            f"CREATE DATABASE {copied.name} TEMPLATE {blank.name} STRATEGY file_copy"
        )
    async with opened(copied) as made:
        yield made
    await drop_database(blank.server, copied.name)


def account(
    id_: uuid.UUID | None = None, kind: str = "outcome", outcome: str = "succeeded", **changes: Any
) -> OperationSpan:
    at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    made = OperationSpan(
        kind=kind,
        operation_id=id_ or uuid.uuid4(),
        request_id="r-1",
        user_id=uuid.UUID(int=2),
        clinic_id=None,
        action="update",
        domain="finance",
        outcome="unknown" if kind == "intent" else outcome,
        reason="",
        model_used="",
        failover=False,
        started_at=at,
        ended_at=at,
        trace_id=secrets.token_hex(16),
        span_id=secrets.token_hex(8),
        parent_span_id="",
        service="a-test",
    )
    return replace(made, **changes)


accounts = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["intent", "outcome", "settled"]),
        st.sampled_from(OUTCOMES),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=10,
)


@given(accounts, st.data())
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_batches_in_any_order_at_once_and_again_make_the_same_rows(
    database: Any, told: list[tuple[int, str, str, int]], data: st.DataObject
) -> None:
    """LOG-2: the rows are what the spans come to, whoever sends them, and how often."""
    ids = [uuid.uuid4() for _ in range(3)]
    spans = []
    for whose, kind, outcome, late in told:
        # A domain says the same to whoever asks it, and when.
        span = account(ids[whose], kind, outcome)
        if kind == "settled":
            same = {"trace_id": ids[whose].hex, "span_id": ids[whose].hex[:16]}
            spans.append(replace(span, outcome="failed", reason=ABANDONED, **same))
            continue
        spans.append(replace(span, ended_at=span.started_at + timedelta(milliseconds=late)))
    sent = data.draw(st.permutations(spans)) + data.draw(st.lists(st.sampled_from(spans)))
    cut = data.draw(st.integers(0, len(sent)))
    batches = [batch for batch in (sent[:cut], sent[cut:], sent[::-1]) if batch]

    async def work() -> None:
        async with opened(database) as log:
            await asyncio.gather(*(log.store.append(batch, []) for batch in batches))
            for id_ in ids:
                row: Row | None = None
                for span in spans:
                    if span.operation_id == id_:
                        row = projected(row, span, 0) or row
                found = await log.row(id_)
                assert (found and replace(found, position=0)) == row

    asyncio.run(work())


async def test_another_span_under_the_same_ids_is_kept_aside(log: Log) -> None:
    """LOG-1: it is neither taken for the first nor dropped in silence; in one batch or later."""
    first = account()
    other = replace(first, outcome="failed")
    refused = await log.store.append([first, other, first], [])
    assert [each.span_id for each in refused] == [first.span_id]
    assert await log.store.append([first], []) == []
    assert len(await log.store.append([other], [])) == 1
    row = await log.row(first.operation_id)
    assert row is not None
    assert row.outcome == "succeeded"


async def test_malformed_spans_are_kept_once_each(log: Log) -> None:
    """LOG-1: also where they have no ids to tell them apart."""
    before = await log.count("quarantine")
    bad = [Malformed("", "", "trace_id is not 16 bytes", content) for content in (b"a", b"b")]
    for _ in range(2):
        await log.store.append([], bad)
    assert await log.count("quarantine") == before + 2


async def test_two_settlers_settle_once(log: Log) -> None:
    """LOG-2: and neither overrules an outcome that has come."""
    intent = account(kind="intent")
    await log.store.append([intent], [])
    settled = [account(intent.operation_id, "settled", outcome) for outcome in ("failed",) * 2]
    before = await log.count("links")
    await asyncio.gather(*(log.store.append([each], []) for each in settled))
    assert await log.count("links") == before + 1
    await log.store.append([account(intent.operation_id, reason="")], [])
    row = await log.row(intent.operation_id)
    assert row is not None
    assert (row.outcome, row.settled_later) == ("succeeded", False)


async def test_what_breaks_on_one_senders_spans_fails_that_one_alone(log: Log) -> None:
    """LOG-2: those beside and after it are committed."""
    good = [account() for _ in range(4)]
    bad = account(service="no text for Postgres: \0")
    async with open_committer(log.store, TELEMETRY, most_waiting=10) as committer:
        answers = await asyncio.gather(
            *(committer.commit([span], []) for span in (*good[:2], bad, *good[2:])),
            return_exceptions=True,
        )
        assert isinstance(answers[2], Internal)
        assert [answer for answer in answers if answer == []] == [[]] * 4
        assert await committer.commit([account()], []) == []
    for span in good:
        assert await log.row(span.operation_id) is not None


async def test_a_full_queue_is_told_and_a_stopped_log_leaves_nobody_waiting(log: Log) -> None:
    """LOG-3: a sender learns that it has to send again."""
    async with open_committer(log.store, TELEMETRY, most_waiting=1) as committer:
        first = asyncio.ensure_future(committer.commit([account()], []))
        await asyncio.sleep(0)
        with pytest.raises(LogOverloaded) as caught:
            await committer.commit([account()], [])
        assert caught.value.retry_after is not None
    with pytest.raises(StoreUnavailable):
        await first
    with pytest.raises(StoreUnavailable):
        await committer.commit([account()], [])


async def test_the_chain_is_verified_while_it_grows(log: Log) -> None:
    """LOG-4: what comes meanwhile, and changes rows, is no tampering."""
    ids = [uuid.uuid4() for _ in range(40)]
    await log.store.append([account(id_, "intent") for id_ in ids], [])
    done = asyncio.Event()

    async def grow() -> None:
        for id_ in ids:
            await log.store.append([account(id_), account()], [])
        done.set()

    growing = asyncio.create_task(grow())
    while not done.is_set():
        found = await log.verified()
        assert found.intact, found
    await growing
    assert (await log.verified()).intact


CHANGED, REMOVED, INSERTED = "TAMPERING_CHANGED", "TAMPERING_REMOVED", "TAMPERING_INSERTED"
REORDERED, REWRITTEN = "TAMPERING_REORDERED", "TAMPERING_REWRITTEN"
COPY = (
    "INSERT INTO oplog.links SELECT {position}, recorded_at, kind, gen_random_uuid(), request_id,"
    " user_id, clinic_id, action, domain, outcome, reason, model_used, failover, started_at,"
    " ended_at, trace_id, '{span}', parent_span_id, service, hash FROM oplog.links"
    " WHERE position = 6"
)


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        (["UPDATE oplog.links SET outcome = 'failed' WHERE position = 3"], (CHANGED, 3)),
        (["UPDATE oplog.links SET hash = '\\x00' WHERE position = 3"], (CHANGED, 3)),
        (["UPDATE oplog.operation_log SET outcome = 'failed' WHERE position = 4"], (CHANGED, 4)),
        (["DELETE FROM oplog.links WHERE position = 3"], (REMOVED, 3)),
        (["DELETE FROM oplog.links WHERE position = 1"], (REMOVED, 1)),
        (["DELETE FROM oplog.links WHERE position = 6"], (REMOVED, 6)),
        (["DELETE FROM oplog.links"], (REMOVED, 1)),
        (["DELETE FROM oplog.operation_log WHERE position = 5"], (REMOVED, 5)),
        # The gap is closed.
        (
            [
                "DELETE FROM oplog.links WHERE position = 3",
                "UPDATE oplog.links SET position = position - 1 WHERE position > 3",
                "UPDATE oplog.head SET position = 5",
            ],
            (REMOVED, 3),
        ),
        # The tail is cut, and the head put back to what was before it.
        (
            [
                "DELETE FROM oplog.operation_log WHERE position > 4",
                "DELETE FROM oplog.links WHERE position > 4",
                "UPDATE oplog.head SET position = 4,"
                " hash = (SELECT hash FROM oplog.links WHERE position = 4)",
            ],
            (REMOVED, 5),
        ),
        # Two links have changed places, beside each other or not; or one has gone to the end.
        (
            [
                "UPDATE oplog.links SET position = 99 WHERE position = 3",
                "UPDATE oplog.links SET position = 3 WHERE position = 4",
                "UPDATE oplog.links SET position = 4 WHERE position = 99",
            ],
            (REORDERED, 3),
        ),
        (
            [
                "UPDATE oplog.links SET position = 99 WHERE position = 2",
                "UPDATE oplog.links SET position = 2 WHERE position = 5",
                "UPDATE oplog.links SET position = 5 WHERE position = 99",
            ],
            (REORDERED, 2),
        ),
        (["UPDATE oplog.links SET position = 99 WHERE position = 3"], (REORDERED, 3)),
        # One was put between, and the later ones moved on.
        (
            [
                "UPDATE oplog.links SET position = position + 100 WHERE position > 3",
                "UPDATE oplog.links SET position = position - 99 WHERE position > 100",
                COPY.format(position=4, span="ab"),
            ],
            (INSERTED, 4),
        ),
        # One was put beside another.
        ([COPY.format(position=4, span="ab")], (INSERTED, 4)),
        # One was put at the end.
        ([COPY.format(position=7, span="ab")], (INSERTED, 7)),
        (
            [
                "INSERT INTO oplog.operation_log SELECT gen_random_uuid(), user_id, clinic_id,"
                " action, domain, outcome, reason, latency_ms, model_used, failover, created_at,"
                " request_id, trace_id, span_id, settled_later, position, logged_at"
                " FROM oplog.operation_log WHERE position = 5"
            ],
            (INSERTED, 5),
        ),
        # The row of an operation is put back to what it was before its outcome.
        (
            [
                "UPDATE oplog.operation_log o SET outcome = l.outcome, trace_id = l.trace_id,"
                " span_id = l.span_id, position = l.position FROM oplog.links l"
                " WHERE l.position = 1 AND o.id = l.operation_id"
            ],
            (CHANGED, 2),
        ),
    ],
)
async def test_the_first_link_that_does_not_hold_is_named(
    own_log: Log, tampering: list[str], named: tuple[str, int]
) -> None:
    """LOG-4: changed, removed, put between, reordered, in the links or in the rows."""
    id_ = uuid.uuid4()
    for span in (account(id_, "intent"), account(id_), *(account() for _ in range(4))):
        await own_log.store.append([span], [])
    assert (await own_log.verified()).checked == 6
    await own_log.tamper(*tampering)
    assert await own_log.broken() == named


async def test_a_part_of_the_chain_is_verified_by_its_time(own_log: Log) -> None:
    """LOG-4: from and up to a time, without the rest."""
    noon = datetime.now(UTC)
    for minutes in range(6):
        own_log.now = noon + timedelta(minutes=minutes)
        await own_log.store.append([account()], [])
    start, end = noon + timedelta(minutes=2), noon + timedelta(minutes=4)
    await own_log.tamper("UPDATE oplog.links SET reason = 'X' WHERE position IN (1, 6)")
    assert (await own_log.verified(start, end)).checked == 2
    assert (await own_log.verified(start, end)).intact
    assert (await own_log.verified(end)).broken.position == 6
    assert (await own_log.verified(None, end)).broken.position == 1
    assert (await own_log.verified(noon + timedelta(hours=1))).intact


async def test_clocks_that_go_back_leave_the_chain_in_the_order_of_its_time(own_log: Log) -> None:
    """LOG-4: replicas' clocks differ; the time of a link is never before the one before."""
    noon = datetime.now(UTC)
    for seconds in (10, 0, 5):
        own_log.now = noon + timedelta(seconds=seconds)
        await own_log.store.append([account()], [])
    found = await own_log.verified(noon + timedelta(seconds=10))
    assert (found.intact, found.checked) == (True, 3)


async def test_whole_quarters_are_dropped_and_the_rest_is_verified(own_log: Log) -> None:
    """LOG-4: also the operation that began in one quarter and ended in the next."""
    years, straddling = timedelta(days=5 * 366), uuid.uuid4()
    begin = datetime(2019, 8, 20, tzinfo=UTC)
    for days in range(0, 160, 20):
        own_log.now = begin + timedelta(days=days)
        await own_log.store.prepare()
        await own_log.store.append([account(), account()], [Malformed("", "", str(days), b"")])
        if days == 40:
            await own_log.store.append([account(straddling, "intent")], [])
    await own_log.store.append([account(straddling)], [])
    whole = await own_log.verified()
    assert (whole.intact, whole.checked) == (True, 18)

    own_log.now = datetime(2019, 10, 1, tzinfo=UTC) + years - timedelta(seconds=1)
    await retain(own_log.store, years, LOG)
    assert await own_log.count("links") == 18
    own_log.now += timedelta(seconds=1)
    await retain(own_log.store, years, LOG)
    # July to September is gone: 20 August, 9 and 29 September.
    assert await own_log.count("links") == 11
    assert await own_log.count("operation_log") == 11
    kept = await own_log.verified()
    assert (kept.intact, kept.checked, kept.head) == (True, 11, whole.head)
    assert (await own_log.verified(begin)).checked == 11

    await own_log.store.append([account()], [])
    assert (await own_log.verified()).checked == 12
    await own_log.tamper("DELETE FROM oplog.links WHERE position = 8")
    assert await own_log.broken() == (REMOVED, 8)


async def grown_by(log: Log, count: int, *, apart: timedelta = timedelta(minutes=15)) -> None:
    """*count* operations, each sealed in a time of its own."""
    log.now = log.now or datetime.now(UTC)
    for _ in range(count):
        log.now += apart
        await log.store.append([account()], [])


async def rewritten(log: Log, position: int, change: str) -> None:
    """As a superuser who knows how it is done: *change*, then all hashes from there on anew."""
    links = await log.store.links(AUDITOR, position, 2**40)
    assert links
    await log.tamper(
        f"UPDATE oplog.links SET {change} WHERE position = {position}",
        f"UPDATE oplog.operation_log SET {change} WHERE position = {position}",
    )
    before = await log.store.hashes(AUDITOR, [position - 1])
    previous = before.get(position - 1, b"")
    for link in await log.store.links(AUDITOR, position, 2**40):
        previous = link_hash(previous, link.position, link.recorded_at, link.span)
        await log.tamper(
            f"UPDATE oplog.links SET hash = '\\x{previous.hex()}' WHERE position = {link.position}"
        )
    await log.tamper(f"UPDATE oplog.head SET hash = '\\x{previous.hex()}'")


async def test_every_batch_is_sealed(own_log: Log) -> None:
    """LOG-4: at once; of those of ten minutes the last is kept, which seals the others too."""
    await grown_by(own_log, 3)
    await grown_by(own_log, 3, apart=timedelta(seconds=1))
    found = await own_log.verified()
    assert (found.intact, found.sealed_position, found.last_position) == (True, 6, 6)
    assert found.seals_checked == len(await own_log.digests()) < 6


@pytest.mark.parametrize("position", [1, 3, 6])
async def test_rows_that_were_rewritten_with_all_their_hashes_are_found(
    own_log: Log, position: int
) -> None:
    """LOG-4: by the first seal that does not match, which nobody without the key can make."""
    await grown_by(own_log, 6)
    await rewritten(own_log, position, "reason = 'EDITED'")
    found = await own_log.verified()
    assert (found.broken.tampering, found.broken.position) == (pb.TAMPERING_REWRITTEN, position)
    assert found.broken.seal_position == position


async def test_a_row_left_out_of_a_rewritten_chain_is_found(own_log: Log) -> None:
    """LOG-4."""
    await grown_by(own_log, 6)
    await own_log.tamper(
        "DELETE FROM oplog.links WHERE position = 3",
        "DELETE FROM oplog.operation_log WHERE position = 3",
        "UPDATE oplog.links SET position = position - 1 WHERE position > 3",
        "UPDATE oplog.operation_log SET position = position - 1 WHERE position > 3",
        "UPDATE oplog.head SET position = 5",
    )
    await rewritten(own_log, 3, "position = 3")
    assert await own_log.broken() == (REWRITTEN, 3)


async def test_a_seal_by_another_key_is_none(own_log: Log) -> None:
    """LOG-4: also one that says what the rewritten rows come to, or that is put elsewhere."""
    await grown_by(own_log, 4)
    await rewritten(own_log, 4, "reason = 'EDITED'")
    head = await own_log.store.head(AUDITOR)
    stranger = Sealing(OKPKey.generate_key("Ed25519", auto_kid=True))
    forged = stranger.write(Seal(4, head.hash, 0, b"", datetime.now(UTC)))
    await own_log.tamper(f"UPDATE oplog.seals SET jws = '{forged}' WHERE position = 4")
    assert await own_log.broken() == ("TAMPERING_SEAL_FORGED", 4)
    assert await own_log.compared([forged, "not a seal", ""]) == ["FORGED"] * 3
    await own_log.tamper(
        "UPDATE oplog.seals SET jws = (SELECT jws FROM oplog.seals WHERE position = 3)"
        " WHERE position = 4"
    )
    assert await own_log.broken() == ("TAMPERING_SEAL_FORGED", 4)


async def test_digests_that_were_kept_elsewhere_find_what_the_log_cannot(own_log: Log) -> None:
    """LOG-4: rows and hashes rewritten, the head and every seal too."""
    await grown_by(own_log, 6)
    kept = await own_log.digests()
    assert await own_log.compared(kept) == ["HELD"] * 6
    await rewritten(own_log, 4, "reason = 'EDITED'")
    await own_log.tamper("DELETE FROM oplog.seals")
    found = await own_log.verified()
    assert (found.intact, found.sealed_position) == (True, 0)
    assert await own_log.compared(kept) == ["HELD"] * 3 + ["DIFFERS"] * 3
    await own_log.tamper(
        "DELETE FROM oplog.operation_log WHERE position > 2",
        "DELETE FROM oplog.links WHERE position > 2",
        "UPDATE oplog.head SET position = 2,"
        " hash = (SELECT hash FROM oplog.links WHERE position = 2)",
    )
    assert (await own_log.verified()).intact
    assert await own_log.compared(kept) == ["HELD"] * 2 + ["MISSING"] * 4


async def test_former_keys_are_known(own_log: Log) -> None:
    """LOG-4: what they sealed stays sealed once another one signs."""
    await grown_by(own_log, 2)
    former = OKPKey.import_key(SEALING._own.as_dict(private=False))
    own_log.sealing = Sealing(OKPKey.generate_key("Ed25519", auto_kid=True), [former])
    assert (await own_log.verified()).sealed_position == 2
    own_log.sealing = Sealing(OKPKey.generate_key("Ed25519", auto_kid=True))
    assert await own_log.broken() == ("TAMPERING_SEAL_FORGED", 1)
    own_log.sealing = Sealing(None)
    found = await own_log.verified()
    assert (found.intact, found.seals_checked, found.sealed_position) == (True, 0, 0)


async def test_a_walk_in_pages_finds_what_a_walk_at_once_does(own_log: Log) -> None:
    """LOG-4: and goes on over links that retention drops meanwhile."""
    years = timedelta(days=5 * 366)
    own_log.now = datetime(2019, 9, 29, tzinfo=UTC)
    await own_log.store.prepare()
    await grown_by(own_log, 8, apart=timedelta(hours=12))
    verifying = Verification(own_log.store, SEALING, AUDITOR, own_log.now)

    async def walked(*, dropped_midway: bool = False) -> tuple[list[int], Walk]:
        place, counts = (await verifying.begun(None)).place(), []
        while True:
            walk = Walk.at(place)
            await verifying.proceed(walk, None, 2)
            counts.append(walk.checked)
            if walk.finished or walk.fault:
                return counts, walk
            if dropped_midway:
                own_log.now = datetime(2019, 10, 1, tzinfo=UTC) + years
                await retain(own_log.store, years, LOG)
            place = walk.place()

    counts, walk = await walked()
    assert (counts, walk.fault, walk.sealed) == ([2, 2, 2, 2], None, 8)
    counts, walk = await walked(dropped_midway=True)
    assert await own_log.count("links") == 5
    assert (walk.fault, walk.position, walk.finished) == (None, 8, True)
    await own_log.tamper("UPDATE oplog.links SET reason = 'EDITED' WHERE position = 7")
    counts, walk = await walked()
    assert walk.fault is not None
    assert (walk.fault.tampering, walk.fault.position) == (pb.TAMPERING_CHANGED, 7)


async def test_retention_leaves_the_chain_sealed_and_only_retention_drops(own_log: Log) -> None:
    """LOG-4: seals outlive the links, and tell what was dropped from what was removed."""
    years = timedelta(days=5 * 366)
    own_log.now = datetime(2019, 9, 20, tzinfo=UTC)
    await own_log.store.prepare()
    await grown_by(own_log, 8, apart=timedelta(days=3))
    kept = await own_log.digests()
    own_log.now = datetime(2019, 10, 1, tzinfo=UTC) + years
    await retain(own_log.store, years, LOG)
    found = await own_log.verified()
    assert (found.intact, found.dropped_position, found.sealed_position) == (True, 3, 8)
    assert await own_log.compared(kept) == ["DROPPED"] * 3 + ["HELD"] * 5

    # Somebody else drops the next two, and says that it was retention.
    await own_log.tamper(
        "UPDATE oplog.head SET dropped_position = 5,"
        " dropped_hash = (SELECT hash FROM oplog.links WHERE position = 5)",
        "DELETE FROM oplog.operation_log WHERE position <= 5",
        "DELETE FROM oplog.links WHERE position <= 5",
    )
    assert await own_log.broken() == (REMOVED, 5)
    # Also once the log has gone on, and has sealed what it found.
    await grown_by(own_log, 1)
    assert await own_log.broken() == (REMOVED, 5)
    assert await own_log.compared(kept) == ["DROPPED"] * 3 + ["MISSING"] * 2 + ["HELD"] * 3
    # And where nothing is left at all.
    await own_log.tamper(
        "UPDATE oplog.head SET dropped_position = position, dropped_hash = hash",
        "DELETE FROM oplog.operation_log",
        "DELETE FROM oplog.links",
    )
    own_log.now = datetime(2019, 10, 20, tzinfo=UTC)
    assert (await own_log.broken())[0] == REMOVED


async def test_what_is_young_is_never_dropped(own_log: Log, log: Log, database: Any) -> None:
    """LOG-4: whatever the service is told, or whoever has got hold of its role."""
    await own_log.store.append([account()], [])
    with pytest.raises(psycopg.errors.RaiseException):
        await own_log.store.drop(timedelta(days=1))
    assert (await own_log.verified()).intact
    async with await psycopg.AsyncConnection.connect(
        database.url_for("oplog"), autocommit=True
    ) as connection:
        await connection.execute("SELECT set_config('gatehouse.roles', 'service', false)")
        for statement in (
            "UPDATE oplog.head SET dropped_position = 5",
            "DROP TABLE oplog.links",
            "CREATE TABLE oplog.mine ()",
            "DELETE FROM oplog.operation_log",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)
        found = await connection.execute(
            "SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid"
            " JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = 'oplog' AND relkind = 'r'"
        )
        partitions = [row[0] for row in await found.fetchall()]
        assert partitions
        for partition in partitions:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(f"SELECT FROM oplog.{partition}")
