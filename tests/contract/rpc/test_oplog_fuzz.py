"""The receiver under OTLP that nobody should send: it goes on, and takes no nonsense (LOG-1)."""

import gzip
import http.client
import json
import random
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.oplog.projection import KNOWN, is_operation
from services.runtime.recording import attribute
from tests.conftest import Database
from tests.contract.rpc.oplog_process import LogProcess, log_process

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
MEBIBYTE = 1024 * 1024
# What people write, and nobody may keep (LOG-6).
WORDS = "Maria Zq7 wrote this"
JSON_KEYS = (
    *("resourceSpans", "resource", "scopeSpans", "spans", "attributes", "key", "value"),
    *("stringValue", "intValue", "arrayValue", "values", "traceId", "spanId", "name"),
    *("startTimeUnixNano", "kind", "status", "code", "resource_spans", "later"),
)
FEW = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Sender:
    """Sends bytes as they are, and looks up what became of them."""

    def __init__(self, process: LogProcess) -> None:
        self.process = process
        self._channel = grpc.insecure_channel(
            process.address, options=[("grpc.max_send_message_length", -1)]
        )
        self._export = self._channel.unary_unary(EXPORT)  # no serializer: bytes it is
        self.log = OperationLogServiceStub(self._channel)
        self.call = {"metadata": [("authorization", f"Bearer {process.token}")], "timeout": 60}
        self._database = psycopg.connect(process.admin_url, autocommit=True)

    def over_grpc(self, body: bytes, *, packed: bool = False) -> tuple[str, bytes]:
        how = grpc.Compression.Gzip if packed else None
        try:
            return "OK", self._export(body, compression=how, **self.call)
        except grpc.RpcError as error:
            return error.code().name, b""

    def over_http(
        self, body: bytes, content_type: str = "application/x-protobuf", *, packed: bool = False
    ) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {self.process.token}", "content-type": content_type}
        if packed:
            headers["content-encoding"] = "gzip"
        connection = http.client.HTTPConnection(self.process.http, timeout=60)
        try:
            connection.request("POST", "/v1/traces", body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def kept(self, span: Span) -> tuple[int, int]:
        """How often *span* is in the log, and how often it was put aside."""
        counts = (
            "SELECT (SELECT count(*) FROM oplog.links WHERE trace_id = %(t)s AND span_id = %(s)s),"
            " (SELECT count(*) FROM oplog.quarantine WHERE trace_id = %(t)s AND span_id = %(s)s)"
        )
        found = self._database.execute(counts, {"t": span.trace_id.hex(), "s": span.span_id.hex()})
        row = found.fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def rows(self, user: str) -> int:
        counted = "SELECT count(*) FROM oplog.operation_log WHERE user_id = %s"
        row = self._database.execute(counted, (user,)).fetchone()
        assert row is not None
        return int(row[0])

    def nonsense(self) -> list[Any]:
        """Rows that no operation can have, and words of people's, anywhere."""
        odd = self._database.execute(
            "SELECT id FROM oplog.operation_log WHERE latency_ms < 0 OR request_id !~ '^[!-~]+$'"
            " OR created_at < 'epoch' OR created_at > now() + interval '25 hours'"
            " OR trace_id !~ '^[0-9a-f]{32}$' OR span_id !~ '^[0-9a-f]{16}$'"
            " OR trace_id ~ '^0+$' OR span_id ~ '^0+$'"
            " OR reason !~ '^([A-Z][A-Z0-9_]*)?$' OR domain !~ '^[A-Za-z0-9_.-]*$'"
        ).fetchall()
        for table in ("links", "operation_log", "quarantine"):
            found = self._database.execute(
                f"SELECT kept FROM oplog.{table} kept WHERE kept::text LIKE ANY (%s)",
                (["%Zq7%", f"%{b'Zq7'.hex()}%"],),
            )
            odd += found.fetchall()
        return odd

    def close(self) -> None:
        self._database.close()
        self._channel.close()


@pytest.fixture(scope="module")
async def process(
    database: Database, tokens: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LogProcess]:
    async with log_process(database, tokens, tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.fixture(scope="module")
def sender(process: LogProcess) -> Iterator[Sender]:
    """After all that is sent, no nonsense was taken, and the chain is whole."""
    made = Sender(process)
    yield made
    assert made.nonsense() == []
    assert made.log.VerifyChain(pb.VerifyChainRequest(), **made.call).intact
    made.close()


@pytest.fixture(autouse=True)
def _unharmed(sender: Sender) -> Iterator[None]:
    """After whatever was sent, the same process goes on, and has nothing broken to tell."""
    pid = sender.process.program.pid
    yield
    assert sender.process.program.running
    assert sender.process.program.pid == pid
    broke = [line for line in sender.process.log_file.read_text().splitlines() if "rror" in line]
    assert broke == []


def values() -> st.SearchStrategy[AnyValue]:
    plain = st.one_of(
        st.just(AnyValue()),
        st.builds(AnyValue, string_value=st.one_of(st.text(max_size=40), st.just(WORDS))),
        st.builds(AnyValue, string_value=st.uuids().map(str)),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, double_value=st.floats()),
        st.builds(AnyValue, bytes_value=st.binary(max_size=40)),
    )

    def nested(inner: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
        return st.lists(inner, max_size=3).map(
            lambda found: AnyValue(array_value={"values": found})
        )

    return st.recursive(plain, nested, max_leaves=6)


def whole_span() -> Span:
    """A span that the log takes."""
    now = time.time_ns()
    told = {
        "gatehouse.operation.id": str(uuid.uuid4()),
        "gatehouse.request.id": "r-1",
        "gatehouse.action": "update",
        "gatehouse.domain": "finance",
        "gatehouse.outcome": "succeeded",
        "user.id": str(uuid.uuid4()),
    }
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name="operation",
        start_time_unix_nano=now,
        end_time_unix_nano=now,
        attributes=[attribute(key, value) for key, value in told.items()],
    )


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """A span that was whole before some of it was replaced."""
    span = whole_span()
    times = st.one_of(st.integers(0, 2**64 - 1), st.just(0), st.just(span.start_time_unix_nano))
    for change in draw(st.lists(st.integers(0, 6), max_size=4)):
        match change:
            case 0:
                span.trace_id = draw(st.binary(max_size=20))
            case 1:
                span.span_id = draw(st.binary(max_size=10))
            case 2:
                span.start_time_unix_nano = draw(times)
            case 3:
                span.end_time_unix_nano = draw(times)
            case 4:
                span.name = draw(st.sampled_from(["operation.intent", "operation", WORDS]))
            case 5:
                key = draw(st.one_of(st.sampled_from(KNOWN), st.text(max_size=20)))
                span.attributes.append(KeyValue(key=key, value=draw(values())))
            case _ if span.attributes:
                del span.attributes[draw(st.integers(0, len(span.attributes) - 1))]
    return span


def request_of(*sent: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", WORDS))
    resource.scope_spans.add().spans.extend(sent)
    return request


@FEW
@given(st.lists(spans(), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_each_operation_is_in_the_log_or_put_aside(
    sender: Sender, sent: list[Span], over_http: bool, packed: bool
) -> None:
    """LOG-1: never dropped in silence, never taken half; the sender is told how many."""
    body = request_of(*sent).SerializeToString()
    if over_http:
        sealed = gzip.compress(body) if packed else body
        code, answer = sender.over_http(sealed, packed=packed)
        assert code in (200, 400)
        taken = code == 200
    else:
        status, answer = sender.over_grpc(body, packed=packed)
        assert status in ("OK", "INVALID_ARGUMENT")
        taken = status == "OK"
    kept = [sender.kept(each) if is_operation(each) else (0, 0) for each in sent]
    for span, (logged, aside) in zip(sent, kept, strict=True):
        assert (logged, aside) != (0, 0) or not is_operation(span)
        assert logged <= 1
    if taken:
        told = ExportTraceServiceResponse.FromString(answer).partial_success
        assert (told.rejected_spans > 0) == bool(told.error_message)
        assert sum(logged for logged, _ in kept) + told.rejected_spans >= sum(
            map(is_operation, sent)
        )
    else:  # none of them is a span of OTLP's at all
        assert not any(logged for logged, _ in kept)


@pytest.mark.parametrize("over_http", [False, True])
def test_a_nul_in_one_span_costs_no_other(sender: Sender, over_http: bool) -> None:
    """LOG-1: neither in a span that is none of the log's, nor in what is put aside."""
    ordinary, wrong, good = Span(name="GET /\0"), whole_span(), whole_span()
    ordinary.trace_id, ordinary.span_id = good.trace_id, secrets.token_bytes(8)
    wrong.attributes.append(attribute("gatehouse.request.id", "\0"))
    body = request_of(ordinary, wrong, good).SerializeToString()
    status, _ = sender.over_http(body) if over_http else sender.over_grpc(body)
    assert status in (200, "OK")
    assert [sender.kept(each) for each in (ordinary, wrong, good)] == [(0, 0), (0, 1), (1, 0)]


@FEW
@given(st.lists(spans(), min_size=1, max_size=3), st.randoms(use_true_random=False), st.booleans())
def test_bytes_that_were_garbled_on_their_way_break_nothing(
    sender: Sender, sent: list[Span], chance: random.Random, over_http: bool
) -> None:
    """LOG-1: what can still be read is judged by what it says; the rest is refused for good."""
    body = garbled(request_of(*sent).SerializeToString(), chance)
    assert_judged(sender, body, over_http=over_http)


def garbled(body: bytes, chance: random.Random) -> bytes:
    bent = bytearray(body)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(bent) + 1)
        match chance.randrange(4):
            case 0:
                bent[at : at + 1] = chance.randbytes(1)
            case 1:
                del bent[at : at + chance.randint(1, 20)]
            case 2:
                bent[at:at] = chance.randbytes(chance.randint(1, 20))
            case _:
                bent[at:at] = bent[at : at + 60]
    return bytes(bent)


def assert_judged(sender: Sender, body: bytes, *, over_http: bool) -> None:
    """Taken only if it can be read, and never answered as if the log were at fault."""
    try:
        ExportTraceServiceRequest.FromString(body)
        readable = True
    except DecodeError:
        readable = False
    if over_http:
        code, _ = sender.over_http(body)
        assert code in ((200, 400) if readable else (400,))
    else:
        status, _ = sender.over_grpc(body)
        assert status in (("OK", "INVALID_ARGUMENT") if readable else ("INVALID_ARGUMENT",))


@FEW
@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused(sender: Sender, body: bytes, over_http: bool) -> None:
    """LOG-1."""
    assert_judged(sender, body, over_http=over_http)


@FEW
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=20)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(JSON_KEYS), inner, max_size=4),
        ),
        max_leaves=12,
    )
)
def test_json_of_any_shape_is_answered(sender: Sender, document: Any) -> None:
    """LOG-1: also where numbers, lists and texts change places."""
    code, _ = sender.over_http(json.dumps(document).encode(), "application/json")
    assert code in (200, 400)


def test_published_payloads_garbled(sender: Sender, test_data: Path) -> None:
    """LOG-1: what collectors really send, bent at random."""
    chance = random.Random(1)
    for file in sorted((test_data / "otlp").glob("*.pb")):
        content = file.read_bytes()
        for _ in range(10):
            body = garbled(content, chance)
            for over_http in (False, True):
                assert_judged(sender, body, over_http=over_http)


def test_what_unpacks_to_too_much_is_refused_and_not_unpacked(sender: Sender) -> None:
    """LOG-1: a message of a few kilobytes that would be 256 MiB; memory does not follow it."""
    assert sender.over_grpc(bytes(1000), packed=True)[0] == "INVALID_ARGUMENT"
    memory = psutil.Process(sender.process.program.pid).memory_info
    before = memory().rss
    bomb = bytes(256 * MEBIBYTE)
    packed = gzip.compress(bomb, 1)
    for _ in range(3):
        assert sender.over_grpc(bomb, packed=True)[0] == "RESOURCE_EXHAUSTED"
        assert sender.over_http(packed, packed=True)[0] == 413
    assert memory().rss - before < 64 * MEBIBYTE


def test_what_is_refused_leaves_nothing_behind_in_memory(sender: Sender) -> None:
    """LOG-1: the size after thousands of bad exports is the size after hundreds."""
    chance = random.Random(2)
    memory = psutil.Process(sender.process.program.pid).memory_info

    def send(count: int) -> None:
        with ThreadPoolExecutor(8) as threads:
            bodies = [request_of(whole_span()).SerializeToString() for _ in range(count)]
            list(threads.map(sender.over_grpc, [garbled(body, chance) for body in bodies]))

    send(500)
    before = memory().rss
    send(2500)
    assert memory().rss - before < 12 * MEBIBYTE


def test_an_attribute_that_fills_the_message_is_no_trouble(sender: Sender) -> None:
    """LOG-1, LOG-6: it is kept neither where nobody asked for it nor where it stands for an id."""
    extra, wrong = whole_span(), whole_span()
    extra.attributes.append(attribute("note", WORDS * 180_000))
    wrong.attributes.append(attribute("gatehouse.reason", WORDS * 180_000))
    assert sender.over_grpc(request_of(extra).SerializeToString())[0] == "OK"
    assert sender.over_http(request_of(wrong).SerializeToString())[0] == 200
    assert (sender.kept(extra), sender.kept(wrong)) == ((1, 0), (0, 1))


def test_values_within_values_end_somewhere(sender: Sender) -> None:
    """LOG-1: what is nested deeper than protobuf reads is refused, the rest is taken."""
    for depth, status in ((20, "OK"), (5000, "INVALID_ARGUMENT")):
        value = AnyValue(string_value=WORDS).SerializeToString()
        for _ in range(depth):
            value = field(5, field(1, value))  # array_value, values
        attributes = field(9, field(1, b"note") + field(2, value))
        span = whole_span().SerializeToString() + attributes
        body = field(1, field(2, field(2, span)))
        assert sender.over_grpc(body)[0] == status
        assert sender.over_http(body)[0] == (200 if status == "OK" else 400)
    deep = b'{"resourceSpans":' + b'[{"a":' * 5000 + b"1" + b"}]" * 5000 + b"}"
    assert sender.over_http(deep, "application/json")[0] == 400


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf's wire format with a length."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_four_mebibytes_at_once_and_one_span_at_a_time(sender: Sender) -> None:
    """LOG-1: each once; a message that is larger is refused whole, and for good."""
    user = str(uuid.uuid4())

    def of_user() -> Span:
        span = whole_span()
        span.attributes[-1].value.string_value = user
        return span

    most = 4 * MEBIBYTE
    many = [of_user() for _ in range(most // (of_user().ByteSize() + 4))]
    body = request_of(*many).SerializeToString()
    assert 0.99 * most < len(body) <= most
    assert sender.over_grpc(body)[0] == "OK"
    assert sender.rows(user) == len(many)
    over = body + field(1, bytes(most - len(body)))
    assert sender.over_grpc(over)[0] == "RESOURCE_EXHAUSTED"
    assert sender.over_http(over)[0] == 413
    single = [request_of(of_user()).SerializeToString() for _ in range(600)]
    with ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(sender.over_grpc, single))
    assert [status for status, _ in answers] == ["OK"] * len(single)
    assert sender.rows(user) == len(many) + len(single)
