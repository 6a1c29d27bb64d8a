"""Intents that refuse an effect, and outcomes that are never lost, over a log that fails."""

import asyncio
import resource
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from services.runtime.failure import (
    Denied,
    Exhausted,
    Failure,
    Internal,
    InvalidInput,
    Unavailable,
)
from services.runtime.recording import (
    MOST_STUCK,
    LogUnavailable,
    RecordedOperation,
    RecordedOutcome,
    Recorder,
    RecorderSettings,
    Spool,
    make_folder,
    write_durably,
)

MOMENT = datetime(2026, 11, 23, 15, tzinfo=UTC)
AWAY = Unavailable("away")


def operation(name: str = "op-1") -> RecordedOperation:
    return RecordedOperation(name, "request-1", "create", "clients", "user-1")


def outcome(name: str) -> RecordedOutcome:
    return RecordedOutcome(operation(name), "succeeded", MOMENT, MOMENT)


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def attributes_of(span: Span) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value") or "")
        for each in span.attributes
    }


class Log:
    """Takes Exports, or raises or answers what it is told to."""

    def __init__(self) -> None:
        self.failure: Failure | TimeoutError | None = None
        self.rejected = 0
        # Operations that it refuses, in an Export whose others it takes.
        self.refuses: set[str] = set()
        self.taken: list[str] = []
        self.spans: list[Span] = []
        self.asked: list[float] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self._some = asyncio.Condition()

    async def export(
        self, request: ExportTraceServiceRequest, seconds: float
    ) -> ExportTraceServiceResponse:
        assert 0 < seconds <= 5
        await self.answers.wait()
        async with self._some:
            self.asked.append(asyncio.get_running_loop().time())
            ids = [attributes_of(each)["gatehouse.operation.id"] for each in spans_of(request)]
            if self.failure is None and not self.rejected:
                self.spans += spans_of(request)
                self.taken += [each for each in ids if each not in self.refuses]
            self._some.notify_all()
        if self.failure is not None:
            raise self.failure
        answer = ExportTraceServiceResponse()
        answer.partial_success.rejected_spans = self.rejected or len(self.refuses & set(ids))
        return answer

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._some:
            await self._some.wait_for(holds)


@pytest.fixture
def log() -> Log:
    return Log()


def spool_in(folder: Path, log: Log, most: int = 1_000_000) -> tuple[Recorder, Spool]:
    settings = RecorderSettings("play", "unix:/nowhere", folder, spool_max_bytes=most)
    spool = Spool(settings, log.export)
    return Recorder(settings, log.export, spool), spool


@asynccontextmanager
async def draining(spool: Spool) -> AsyncIterator[None]:
    drain = asyncio.create_task(spool.drain())
    try:
        yield
    finally:
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)


def waiting_in(folder: Path) -> list[str]:
    """The operations in the files that wait, in their order."""
    return [
        attributes_of(span)["gatehouse.operation.id"]
        for file in sorted(folder.glob("*.otlp"))
        for span in spans_of(ExportTraceServiceRequest.FromString(file.read_bytes()))
    ]


async def emptied(spool: Spool) -> None:
    """Return once nothing counts as waiting any more."""
    async with asyncio.timeout(30):
        while spool.measured()["size"]:
            await asyncio.sleep(0.01)


async def gone(folder: Path, pattern: str = "*.otlp") -> None:
    async with asyncio.timeout(10):
        while list(folder.glob(pattern)):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "failure", [AWAY, TimeoutError(), Denied("no"), Internal(), InvalidInput([("a", "b")])]
)
async def test_an_intent_that_the_log_does_not_take_refuses_the_effect(
    tmp_path: Path, log: Log, failure: Failure | TimeoutError
) -> None:
    """LOG-2: and is kept nowhere, since nothing happens."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = failure
    with pytest.raises(LogUnavailable) as caught:
        await recorder.intent(operation())
    assert caught.value.retry_after is not None
    assert list(tmp_path.iterdir()) == []


async def test_an_intent_that_the_log_rejects_refuses_the_effect_for_good(
    tmp_path: Path, log: Log
) -> None:
    """LOG-2: OK with partial_success is a refusal, and coming back does not help."""
    recorder, _ = spool_in(tmp_path, log)
    log.rejected = 1
    with pytest.raises(LogUnavailable) as caught:
        await recorder.intents([operation("a"), operation("b")])
    assert caught.value.retry_after is None


async def test_the_log_says_when_to_come_back(tmp_path: Path, log: Log) -> None:
    """LOG-2, ALL-2: its RetryInfo reaches the caller."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = Unavailable("busy", retry_after=timedelta(seconds=7))
    with pytest.raises(LogUnavailable) as caught:
        await recorder.intent(operation())
    assert caught.value.retry_after == timedelta(seconds=7)


async def test_nothing_to_record_asks_nobody(tmp_path: Path, log: Log) -> None:
    """LOG-2."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = AWAY
    await recorder.intents([])
    await recorder.outcomes([])
    assert log.asked == []


async def test_an_outcome_goes_at_once_while_the_log_answers(tmp_path: Path, log: Log) -> None:
    """LOG-2: nothing touches the disk."""
    recorder, _ = spool_in(tmp_path, log)
    await recorder.outcomes([outcome("a"), outcome("b")])
    assert log.taken == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [AWAY, TimeoutError(), Denied("no"), Internal()])
async def test_outcomes_wait_on_the_disk_and_go_in_their_order(
    tmp_path: Path, log: Log, failure: Failure | TimeoutError
) -> None:
    """LOG-2: whole before the caller goes on; neither later ones nor a restart overtake them."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = failure
    names = [f"op-{number}" for number in range(4)]
    for name in names[:3]:
        await recorder.outcomes([outcome(name)])
    asked = len(log.asked)
    assert asked == 1  # from then on it is known
    assert waiting_in(tmp_path) == names[:3]
    again, spool = spool_in(tmp_path, log)
    log.failure = None
    await again.outcomes([outcome(names[3])])
    assert log.taken == []
    async with draining(spool):
        await gone(tmp_path)
    assert log.taken == names
    assert list(tmp_path.iterdir()) == []


async def test_files_of_a_clock_that_ran_ahead_still_go_first(tmp_path: Path, log: Log) -> None:
    """LOG-2: order is of writing, whatever the clock says after a restart."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = AWAY
    await recorder.outcomes([outcome("first")])
    (file,) = tmp_path.glob("*.otlp")
    file.rename(tmp_path / f"{10**19}-aaaa.otlp")
    again, _ = spool_in(tmp_path, log)
    await again.outcomes([outcome("second")])
    assert waiting_in(tmp_path) == ["first", "second"]


async def test_a_file_that_is_none_does_not_hold_up_the_others(tmp_path: Path, log: Log) -> None:
    """LOG-2: a half-written one is nobody's, and goes; a corrupt one is set aside, not deleted."""
    recorder, _ = spool_in(tmp_path, log)
    log.failure = AWAY
    await recorder.outcomes([outcome("a")])
    (tmp_path / f"{0:020d}-corrupt.otlp").write_bytes(b"\xff\xff\xff")
    (tmp_path / f"{1:020d}-half.new").write_bytes(b"\x0a")
    log.failure = None
    _, spool = spool_in(tmp_path, log)
    async with draining(spool):
        await gone(tmp_path)
    assert log.taken == ["a"]
    left = sorted(each.name.partition("-")[2] for each in tmp_path.iterdir())
    assert left == ["corrupt.refused"]


def test_a_file_for_which_there_is_no_place_takes_none(tmp_path: Path) -> None:
    """LOG-2: a disk that is full for a while is not kept full by what could not be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_durably(tmp_path, "outcome", ".otlp", bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "rejected"),
    [
        (InvalidInput([("spans", "what is this")]), 0),
        (Exhausted("too large", reason="MESSAGE_TOO_LARGE"), 0),
        (None, 1),
    ],
)
async def test_what_the_log_will_never_take_is_set_aside(
    tmp_path: Path, log: Log, failure: Failure | None, rejected: int
) -> None:
    """LOG-1, LOG-2: not in silence, not for ever in front of the rest, not counted as waiting."""
    recorder, spool = spool_in(tmp_path, log, most=1)
    log.failure, log.rejected = AWAY, 0
    await recorder.outcomes([outcome("a")])
    assert spool.is_full
    log.failure, log.rejected = failure, rejected
    async with draining(spool):
        await emptied(spool)
        await recorder.outcomes([outcome("b")])  # refused on its direct way
        assert not spool.is_full
        log.failure, log.rejected = None, 0
        await recorder.outcomes([outcome("c")])
    assert log.taken == ["c"]
    assert len(list(tmp_path.glob("*.refused"))) == 2


async def test_what_waits_goes_together_and_no_more_slowly_than_it_came(
    tmp_path: Path, log: Log
) -> None:
    """LOG-2: after an outage under load the backlog shrinks, in its order."""
    recorder, spool = spool_in(tmp_path, log)
    log.failure = AWAY
    names = [f"op-{number}" for number in range(1200)]
    for some in range(0, len(names), 50):
        await asyncio.gather(
            *(recorder.outcomes([outcome(name)]) for name in names[some : some + 50])
        )
    waited = waiting_in(tmp_path)
    asked, log.failure = len(log.asked), None
    async with draining(spool):
        await emptied(spool)
    assert list(tmp_path.iterdir()) == []
    assert log.taken == waited
    assert sorted(waited) == sorted(names)
    assert len(log.asked) - asked < 5


async def test_one_that_is_refused_among_many_is_set_aside_alone(tmp_path: Path, log: Log) -> None:
    """LOG-1, LOG-2: those beside it are taken."""
    recorder, spool = spool_in(tmp_path, log)
    log.failure = AWAY
    for name in ("a", "b", "c"):
        await recorder.outcomes([outcome(name)])
    log.failure, log.refuses = None, {"b"}
    async with draining(spool):
        await emptied(spool)
    assert set(log.taken) == {"a", "c"}
    (aside,) = tmp_path.glob("*.refused")
    assert b"b" in aside.read_bytes()


async def test_a_log_that_is_busy_is_given_its_time(tmp_path: Path, log: Log) -> None:
    """LOG-1: RetryInfo is read; the rest goes on once it is over."""
    recorder, spool = spool_in(tmp_path, log)
    log.failure = Exhausted("busy", retry_after=timedelta(seconds=1.3))
    await recorder.outcomes([outcome("a")])
    async with draining(spool):
        await log.until(lambda: len(log.asked) == 2)
        log.failure = None
        await log.until(lambda: log.taken == ["a"])
        await gone(tmp_path)
    assert log.asked[2] - log.asked[1] >= 1.29


async def test_a_full_spool_refuses_intents_and_keeps_outcomes(tmp_path: Path, log: Log) -> None:
    """LOG-2: what has happened is kept; nothing new happens; over when it is empty."""
    recorder, spool = spool_in(tmp_path, log, most=100)
    log.failure = AWAY
    for name in ("a", "b", "c"):
        await recorder.outcomes([outcome(name)])
    log.failure = None
    with pytest.raises(LogUnavailable, match="too many outcomes"):
        await recorder.intent(operation())
    assert waiting_in(tmp_path) == ["a", "b", "c"]
    async with draining(spool):
        await emptied(spool)
        await recorder.intent(operation("d"))
    assert log.taken == ["a", "b", "c", "d"]


async def test_a_slow_log_slows_changes_and_holds_up_nothing_that_has_happened(
    tmp_path: Path, log: Log
) -> None:
    """LOG-2: an intent waits for it; an outcome waits on the disk, and its call goes on."""
    recorder, spool = spool_in(tmp_path, log)
    log.answers.clear()
    intent = asyncio.create_task(recorder.intent(operation("change")))
    await recorder.outcomes([outcome("read")])
    assert waiting_in(tmp_path) == ["read"]
    assert not intent.done()
    log.answers.set()
    await intent
    async with draining(spool):
        await emptied(spool)
    assert log.taken == ["change", "read"]


async def test_where_even_the_spool_has_no_room_reads_are_told(tmp_path: Path, log: Log) -> None:
    """LOG-2: before they begin; what has happened is kept all the same."""
    recorder, spool = spool_in(tmp_path, log, most=500)
    log.failure = AWAY
    names = []
    while not spool.is_overfull:
        recorder.require_room()
        names.append(f"op-{len(names)}")
        await recorder.outcomes([outcome(names[-1])])
    assert spool.is_full
    with pytest.raises(LogUnavailable, match="no more outcomes") as caught:
        recorder.require_room()
    assert caught.value.retry_after is not None
    await recorder.outcomes([outcome("late")])
    log.failure = None
    async with draining(spool):
        await emptied(spool)
    recorder.require_room()
    assert log.taken == [*names, "late"]


async def test_what_waits_in_memory_has_an_end(tmp_path: Path, log: Log) -> None:
    """LOG-2: with neither log nor disk, calls that gave up leave outcomes; then nothing begins."""
    folder = tmp_path / "spool"
    make_folder(folder)
    recorder, _ = spool_in(folder, log)
    shutil.rmtree(folder)
    log.failure = AWAY
    names = [f"op-{number}" for number in range(MOST_STUCK)]
    calls = [asyncio.create_task(recorder.outcomes([outcome(name)])) for name in names]
    await log.until(lambda: len(log.asked) >= MOST_STUCK)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls[::2], return_exceptions=True)
    with pytest.raises(LogUnavailable, match="no more outcomes"):
        recorder.require_room()
    log.failure = None
    await asyncio.gather(*calls[1::2])
    await log.until(lambda: len(log.taken) == MOST_STUCK)
    assert sorted(log.taken) == sorted(names)


async def test_the_spool_says_that_it_fills_once_and_when_it_no_longer_does(
    tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """LOG-3: before changes are refused; also when it was left full by the process before."""
    caplog.set_level("INFO", logger="services.runtime.recording")
    recorder, _ = spool_in(tmp_path, log, most=1000)
    log.failure = AWAY
    await recorder.outcomes([outcome("a")])
    assert not caplog.messages
    for name in "bcdef":
        await recorder.outcomes([outcome(name)])
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "outcomes fill the spool" in caplog.messages[0]
    _, spool = spool_in(tmp_path, log, most=1000)
    assert [each.levelname for each in caplog.records] == ["ERROR"] * 2
    log.failure = None
    async with draining(spool):
        await emptied(spool)
    assert caplog.messages[-1] == "the spool is no longer nearly full: 0 bytes wait"


async def test_outcomes_that_come_while_others_are_sent_are_all_taken(
    tmp_path: Path, log: Log
) -> None:
    """LOG-2: none lost, however sending, keeping and draining interleave."""
    recorder, spool = spool_in(tmp_path, log)
    names = [f"op-{number}" for number in range(60)]
    async with draining(spool):
        for number, name in enumerate(names):
            log.failure = AWAY if number % 7 < 2 else None
            await asyncio.gather(recorder.outcomes([outcome(name)]))
        log.failure = None
        await gone(tmp_path)
    assert set(log.taken) == set(names)
    assert not spool_in(tmp_path, log, most=1)[1].is_full


async def test_an_outcome_goes_on_when_its_call_is_cancelled(tmp_path: Path, log: Log) -> None:
    """LOG-2: and the stop waits for it."""
    recorder, spool = spool_in(tmp_path, log)
    log.answers.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await recorder.outcomes([outcome("a")])
    closing = asyncio.create_task(spool.close())
    log.answers.set()
    await closing
    assert log.taken == ["a"]


async def test_an_outcome_on_its_way_to_the_disk_refuses_no_change(
    tmp_path: Path, log: Log
) -> None:
    """USE-9, LOG-2. Kind: a queue that counts as full as soon as something is in it.

    A slow disk is no full one: every change was refused as long as one outcome was being written.
    """
    recorder, spool = spool_in(tmp_path, log)
    log.failure = AWAY
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    # No thread is free to write.
    busy = [loop.run_in_executor(None, go_on.wait) for _ in range(64)]
    try:
        call = asyncio.create_task(recorder.outcomes([outcome("a")]))
        await log.until(lambda: len(log.asked) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done()
        assert not spool.is_full
        log.failure = None
        await recorder.intent(operation("b"))
    finally:
        go_on.set()
        await asyncio.gather(*busy)
    await call
    assert log.taken == ["b"]
    assert waiting_in(tmp_path) == ["a"]


async def test_without_a_place_on_the_disk_nothing_new_happens(tmp_path: Path, log: Log) -> None:
    """LOG-2: the outcome waits in its call until the log or the disk takes it."""
    folder = tmp_path / "spool"
    make_folder(folder)
    recorder, spool = spool_in(folder, log)
    shutil.rmtree(folder)
    log.failure = AWAY
    call = asyncio.create_task(recorder.outcomes([outcome("a")]))
    async with asyncio.timeout(10):
        while not spool.is_full:
            await asyncio.sleep(0.01)
    log.failure = None
    with pytest.raises(LogUnavailable):
        await recorder.intent(operation())
    await call
    assert log.taken == ["a"]
    assert not spool.is_full


def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """LOG-2, ALL-5: not found out by the first outage."""
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="spool directory"):
        make_folder(tmp_path / "file" / "spool")


async def test_an_operations_span_is_in_the_callers_trace_though_it_is_not_sampled(
    tmp_path: Path, log: Log
) -> None:
    """LOG-3, LOG-6: identifiers only, and nothing for what is not there."""
    recorder, _ = spool_in(tmp_path, log)
    tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("play")
    with tracer.start_as_current_span("call") as call:
        await recorder.intent(operation())
        await recorder.outcome(
            operation(),
            "failed",
            reason="LOCKED",
            started_at=MOMENT,
            ended_at=MOMENT + timedelta(milliseconds=12),
        )
    context = call.get_span_context()
    intent, ended = log.spans
    assert [intent.name, ended.name] == ["operation.intent", "operation"]
    assert {each.trace_id for each in log.spans} == {context.trace_id.to_bytes(16)}
    assert ended.end_time_unix_nano - ended.start_time_unix_nano == 12_000_000
    identifiers = {
        "gatehouse.operation.id": "op-1",
        "gatehouse.request.id": "request-1",
        "gatehouse.action": "create",
        "gatehouse.domain": "clients",
        "user.id": "user-1",
    }
    assert attributes_of(intent) == identifiers
    assert attributes_of(ended) == {
        **identifiers,
        "gatehouse.outcome": "failed",
        "gatehouse.reason": "LOCKED",
    }
