"""TLS with client certificates, end to end, with a CA made for the run (ALL-3)."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.usage.v1 import usage_pb2 as usage
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc

from services.cli.connection import Suite, Unusable
from services.runtime.calling import PeerTls, Tls, channel, peer_tls
from services.runtime.settings import SettingsError
from services.runtime.telemetry import exporter, open_telemetry
from tests.authority import DAY, Authority, authority, served_by
from tests.contract.rpc.runtime_stand import USER, Settings, stand


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "strangers")


async def called(address: str, tls: Tls | None, call: dict[str, Any]) -> grpc.StatusCode:
    """What a call by *tls*, or in plain text, comes to."""
    target = f"localhost:{address.rpartition(':')[2]}"
    async with channel(target, tls=tls) as opened:
        request = usage.GetUsageRequest(user_id=USER)
        try:
            await UsageServiceStub(opened).GetUsage(request, **{**call, "timeout": 5})
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_a_peer_with_a_certificate_of_our_ca_gets_in_and_nobody_else(
    tokens: Any, ours: Authority, strangers: Authority
) -> None:
    """ALL-3: not without one, with another CA's, with one that is over, or in plain text."""
    settings = served_by(ours)
    right = peer_tls(Settings(**tokens.settings, **settings))
    assert right is not None
    trusting = right.current().ca
    foreign = strangers.issue("client")
    over = ours.issue("over", ends=-DAY)

    def showing(files: dict[str, Path]) -> PeerTls:
        certificate, key = (
            files[each].read_bytes() for each in ("tls_certificate_file", "tls_key_file")
        )
        return PeerTls(trusting, certificate, key)

    async with stand(tokens, **settings) as service:
        assert await called(service.address, right, service.call) is grpc.StatusCode.OK
        for wrong in (PeerTls(trusting), showing(foreign), showing(over), None):
            code = await called(service.address, wrong, service.call)
            assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_server_of_another_ca_is_not_called(
    tokens: Any, ours: Authority, strangers: Authority
) -> None:
    """ALL-3: a token is never sent to whoever listens at an address."""
    own = served_by(ours)
    right = peer_tls(Settings(**tokens.settings, **own))
    pretending = {**strangers.issue("server"), "tls_client_ca_file": ours.file, "peers": "*"}
    async with stand(tokens, **pretending) as service:
        code = await called(service.address, right, service.call)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert service.telemetry.spans == []


async def test_certificates_that_are_none_stop_the_start_in_a_sentence(
    tokens: Any, ours: Authority, strangers: Authority, tmp_path: Path
) -> None:
    """ALL-5: gRPC would say that it cannot listen. The content of a key is not shown."""
    right = served_by(ours)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    for field, file in (
        ("tls_certificate_file", garbage),
        ("tls_key_file", garbage),
        ("tls_key_file", strangers.issue("other")["tls_key_file"]),
        ("tls_client_ca_file", garbage),
    ):
        with pytest.raises(SettingsError) as caught:
            async with stand(tokens, **{**right, field: file}):
                raise AssertionError
        assert f"GATEHOUSE_STAND_{field.upper()}" in str(caught.value)
        assert "not a certificate" not in str(caught.value)


class Collector(otlp_rpc.TraceServiceServicer):
    """Stands for the collector outside, on threads: a service that ends blocks the event loop."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shown: list[bytes] = []

    def Export(self, request: otlp.ExportTraceServiceRequest, context: Any) -> Any:
        for resource in request.resource_spans:
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        self.shown += context.auth_context()["x509_pem_cert"]
        return otlp.ExportTraceServiceResponse()


@contextmanager
def collecting(told: dict[str, Any]) -> Iterator[tuple[Collector, str]]:
    """A collector that turns away who shows no certificate, and its endpoint."""
    certificate, key = (
        told[each].read_bytes() for each in ("tls_certificate_file", "tls_key_file")
    )
    server, collector = grpc.server(ThreadPoolExecutor(2)), Collector()
    otlp_rpc.add_TraceServiceServicer_to_server(collector, server)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], told["tls_client_ca_file"].read_bytes(), require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        # Not by a name that is known for the loopback, so for the service it is another machine.
        yield collector, f"LOCALHOST:{port}"
    finally:
        server.stop(0).wait()


def test_spans_leave_by_tls_with_the_services_certificate(tokens: Any, ours: Authority) -> None:
    """ALL-3, ALL-4: to a collector that turns away who shows none."""
    told = served_by(ours)
    with collecting(told) as (collector, endpoint):
        settings = Settings(**tokens.settings, **told, otlp_endpoint=endpoint)
        with open_telemetry(settings) as telemetry, telemetry.span("one"):
            pass
    assert collector.names == ["one"]


def test_spans_leave_with_the_certificate_of_the_moment(tokens: Any, ours: Authority) -> None:
    """ALL-3, ALL-4: an exporter would show the first one until it is over, and then nothing."""
    told = {**served_by(ours), **ours.issue("exporting")}
    certificate, key = told["tls_certificate_file"], told["tls_key_file"]
    with collecting(told) as (collector, endpoint):
        settings = Settings(**tokens.settings, **told)
        spans = exporter(OTLPSpanExporter, endpoint, settings)
        shown = [certificate.read_bytes()]
        spans.export([])
        replaced = ours.issue("renewed")
        certificate.write_bytes(replaced["tls_certificate_file"].read_bytes())
        key.write_bytes(replaced["tls_key_file"].read_bytes())
        shown.append(certificate.read_bytes())
        spans.export([])
        spans.export([])
        spans.shutdown()
    assert collector.shown == [shown[0], shown[1], shown[1]]


async def test_the_command_line_shows_its_certificate(
    tokens: Any, ours: Authority, tmp_path: Path
) -> None:
    """ALL-3: also through a port that was forwarded to this machine, once a CA is named."""
    client = ours.issue("command-line")
    async with stand(tokens, **served_by(ours)) as service:
        where = {"usage": f"localhost:{service.address.rpartition(':')[2]}"}
        (_, bearer), *_ = service.call["metadata"]
        token = bearer.removeprefix("Bearer ")

        def used(suite: Suite) -> str:
            with suite.channel("usage") as opened:
                request = usage.GetUsageRequest(user_id=USER)
                found = UsageServiceStub(opened).GetUsage(request, **suite.call)
            return str(found.counter.user_id)

        files = (str(client["tls_certificate_file"]), str(client["tls_key_file"]))
        shown = Suite(where, token, str(ours.file), *files)
        assert await asyncio.to_thread(used, shown) == USER
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            await asyncio.to_thread(used, Suite(where, token))
        with pytest.raises(Unusable, match="cannot be read"):
            await asyncio.to_thread(used, Suite(where, token, str(tmp_path / "none.crt")))
