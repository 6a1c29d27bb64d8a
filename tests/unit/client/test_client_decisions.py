"""What gatehouse-client decides without a gateway."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def client() -> Any:
    sys.path.insert(0, str(ROOT / "clients" / "python"))
    try:
        yield importlib.import_module("gatehouse_client")
    finally:
        sys.path.remove(str(ROOT / "clients" / "python"))


def packed(*details: Any) -> list[Packed]:
    found = []
    for each in details:
        one = Packed()
        one.Pack(each)
        found.append(one)
    return found


@pytest.mark.parametrize(
    "target",
    [
        "gateway:8443",
        "127.example.com:443",
        "localhost.example.com:443",
        "127.0.0.1.example.com",
        "ipv4:127.0.0.1:7400,10.0.0.1:7400",
        "dns:///gateway:8443",
        "dns:127.example.com",
        "[2001:db8::1]:443",
        "",
    ],
)
def test_plain_text_never_leaves_this_machine(client: Any, target: str) -> None:
    """ALL-3: a token is not sent in the clear, whatever a host's name begins with."""
    with pytest.raises(client.PlainTextRefused):
        client.Client(target, "token")


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:7400", "localhost:1", "[::1]:7400", "unix:/tmp/x", "dns:///localhost:1"],
)
def test_plain_text_is_for_this_machine(client: Any, target: str) -> None:
    """ALL-3: development needs no certificates."""
    client.Client(target, "token").close()


def test_several_addresses_are_one_target(client: Any) -> None:
    """ALL-1: replicas given by address are all called."""
    target_of = client.channel.target_of
    assert target_of(["10.0.0.1:8443", "10.0.0.2:8443"]) == "ipv4:10.0.0.1:8443,10.0.0.2:8443"
    assert target_of(["[::1]:1", "[::1]:2"]) == "ipv6:[::1]:1,[::1]:2"


def test_a_refusal_carries_what_the_status_says(client: Any) -> None:
    """ALL-2: reason, sentence, wait and violations come from the details."""
    status = Status(code=8, message="the reads of the day are used up")
    status.details.extend(
        packed(
            error_details_pb2.ErrorInfo(reason="QUOTA_EXHAUSTED", metadata={"limit": "reads"}),
            error_details_pb2.LocalizedMessage(locale="pt-BR", message="Acabou por hoje."),
            error_details_pb2.QuotaFailure(
                violations=[{"subject": "reads", "description": "40 a day"}]
            ),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=90)),
        )
    )
    refusal = client.refusal_in(status)
    assert type(refusal) is client.Exhausted
    assert (refusal.reason, refusal.message_for_people) == ("QUOTA_EXHAUSTED", "Acabou por hoje.")
    assert refusal.retry_after.total_seconds() == 90
    assert refusal.violations == (client.Violation("reads", "40 a day"),)
    assert refusal.metadata == {"limit": "reads"}


def test_every_code_has_a_refusal(client: Any) -> None:
    """ALL-2: also what a proxy or a later version answers, and details that are none."""
    for code in [*(code.value[0] for code in grpc.StatusCode), 99]:
        broken = Packed(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
        refusal = client.refusal_in(Status(code=code, message="so it is", details=[broken]))
        assert isinstance(refusal, client.GatehouseError)
        assert refusal.reason == ""


def test_a_token_file_is_read_again_and_survives_being_replaced(
    client: Any, tmp_path: Path
) -> None:
    """ALL-3: a token is rotated under a running client."""
    file = tmp_path / "token"
    source = client.channel.TokenSource(file)
    with pytest.raises(FileNotFoundError):
        source.metadata()
    file.write_text("one\n")
    assert source.metadata() == (("authorization", "Bearer one"),)
    file.write_text("")
    assert source.metadata() == (("authorization", "Bearer one"),)
    file.write_text("two")
    assert source.metadata() == (("authorization", "Bearer two"),)


@pytest.mark.parametrize("token", ["a\nx-user: other", "a\r\nb", "a\x00b", "tökén"])
def test_a_token_is_never_more_than_one_header(client: Any, token: str) -> None:
    """ALL-3: what a file or a function gave is not sent with lines of its own, and not shown."""
    with pytest.raises(ValueError) as refused:
        client.channel.TokenSource(lambda: token).metadata()
    assert token not in str(refused.value)
    assert client.channel.TokenSource(lambda: " one\n").metadata()[0][1] == "Bearer one"


def test_a_request_gets_an_id_that_a_retry_keeps(client: Any) -> None:
    """GAT-2: what is sent twice by the channel is one request, and the caller's is not changed."""
    mine = client.pb.AnalyzeRequest(metrics=["no_show_rate"])
    sent = client.requests.with_request_id(mine)
    assert sent.request_id
    assert not mine.request_id
    assert client.requests.with_request_id(sent) is sent


@pytest.mark.parametrize(
    ("code", "calls"), [(grpc.StatusCode.UNAVAILABLE, 2), (grpc.StatusCode.ABORTED, 1)]
)
def test_unavailable_alone_is_sent_again_and_as_the_same_request(
    client: Any, code: grpc.StatusCode, calls: int
) -> None:
    """ALL-1, GAT-2: with the id that it had, and a deadline, to a server of anybody's."""
    seen: list[tuple[str, bool]] = []

    def execute(request: Any, context: grpc.ServicerContext) -> Any:
        seen.append((request.request_id, context.time_remaining() < 11))
        if len(seen) == 1:
            context.abort(code, "not now")
        return client.pb.ExecuteResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        execute,
        request_deserializer=client.pb.ExecuteRequest.FromString,
        response_serializer=client.pb.ExecuteResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    service = "gatehouse.gateway.v1.GatewayService"
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {"Execute": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with client.Client(f"127.0.0.1:{port}", "token") as opened:
            if calls == 1:
                with pytest.raises(client.Conflict):
                    opened.execute("show clients")
            else:
                opened.execute("show clients")
    finally:
        server.stop(None).wait()
    assert len(seen) == calls
    assert len(set(seen)) == 1
    assert seen[0][1]
