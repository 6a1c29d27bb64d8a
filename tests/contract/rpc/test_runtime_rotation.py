"""Certificates that are replaced while calls go on, and the names in them (ALL-3)."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.usage.v1 import usage_pb2 as usage
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.runtime.calling import PeerTls, channel, peer_tls
from services.runtime.settings import SettingsError
from services.runtime.tls import Certificates
from tests.authority import Authority, authority, served_by
from tests.contract.rpc.runtime_stand import (
    SERVICE,
    USER,
    Settings,
    Stand,
    Traffic,
    failure_of,
    plain_answer,
    stand,
)


@pytest.fixture
def old(tmp_path: Path) -> Authority:
    return authority(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Authority:
    return authority(tmp_path / "new")


def given(files: dict[str, Any]) -> PeerTls:
    """What *files* hold now."""
    names = ("peer_ca_file", "tls_certificate_file", "tls_key_file")
    return PeerTls(*(files[name].read_bytes() for name in names))


def placed(source: dict[str, Path], files: dict[str, Any]) -> None:
    """Put another certificate and its key where *files* are, one after the other."""
    for name, file in source.items():
        files[name].write_bytes(file.read_bytes())


def over(service: Stand, tls: PeerTls | Certificates | None) -> Any:
    return channel(f"localhost:{service.address.rpartition(':')[2]}", tls=tls)


async def comes_in(service: Stand, tls: PeerTls) -> bool:
    """Whether a new connection of a caller that shows *tls* is taken."""
    async with over(service, tls) as opened:
        try:
            await UsageServiceStub(opened).GetUsage(
                usage.GetUsageRequest(user_id=USER), **service.call
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
    return True


async def shown_by(service: Stand, files: dict[str, Any]) -> bytes:
    """The certificate that a new connection gets to see."""
    context = ssl.create_default_context()
    context.load_verify_locations(files["peer_ca_file"])
    context.load_cert_chain(files["tls_certificate_file"], files["tls_key_file"])
    context.set_alpn_protocols(["h2"])
    port = int(service.address.rpartition(":")[2])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(found).encode()


class Seen:
    """The certificates that callers have shown."""

    def __init__(self) -> None:
        self._serials: set[int] = set()
        self._some = asyncio.Condition()

    async def answer(self, request: usage.GetUsageRequest, context: Any) -> usage.GetUsageResponse:
        (pem,) = context.auth_context()["x509_pem_cert"]
        async with self._some:
            self._serials.add(x509.load_pem_x509_certificate(pem).serial_number)
            self._some.notify_all()
        return await plain_answer(request, context)

    async def wait_for(self, pem: bytes) -> None:
        serial = x509.load_pem_x509_certificate(pem).serial_number
        async with asyncio.timeout(20), self._some:
            await self._some.wait_for(lambda: serial in self._serials)


async def test_no_call_is_lost_while_certificates_and_their_authority_are_replaced(
    tokens: Any, old: Authority, new: Authority
) -> None:
    """ALL-3: of callers that never pause, nor a stream that lasts; what went is taken no more."""
    files = served_by(old)
    retired, seen, told = given(files), Seen(), asyncio.Queue[int]()

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        while True:
            yield entitlements.WatchResponse(
                revision=entitlements.Revision(number=await told.get())
            )

    settings = Settings(**tokens.settings, **files)
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            stand(tokens, answer=seen.answer, follow=follow, **files)
        )
        opened = await stack.enter_async_context(over(service, peer_tls(settings)))
        watch = Stand(service.address, settings, service.telemetry, opened, service.token).watch()
        traffic = await stack.enter_async_context(Traffic(UsageServiceStub(opened), service.call))
        await seen.wait_for(retired.certificate or b"")
        # Another certificate of the same authority; then the new authority besides the old one, a
        # certificate of the new one, and the new one alone.
        placed(old.issue("second"), files)
        await seen.wait_for(files["tls_certificate_file"].read_bytes())
        files["peer_ca_file"].write_bytes(old.pem + new.pem)
        placed(new.issue("third"), files)
        await seen.wait_for(files["tls_certificate_file"].read_bytes())
        assert await comes_in(service, PeerTls(new.pem, retired.certificate, retired.key))
        files["peer_ca_file"].write_bytes(new.pem)
        assert not await comes_in(service, PeerTls(new.pem, retired.certificate, retired.key))
        assert not await comes_in(service, retired)
        assert await comes_in(service, given(files))
        assert await shown_by(service, files) == files["tls_certificate_file"].read_bytes()
        await traffic.more(100)
        # It was opened with the first certificate, and goes on over the connection that it has.
        told.put_nowait(7)
        assert (await watch.read()).revision.number == 7
        watch.cancel()
        await traffic.more(100)
    assert traffic.errors == []


async def test_files_that_are_half_written_leave_in_force_what_was_there(
    tokens: Any, old: Authority, new: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """ALL-3: it is logged, once and without what is in them, until the files are whole."""
    files = served_by(old)
    before, certificates = given(files), peer_tls(Settings(**tokens.settings, **files))
    assert certificates is not None
    replaced = old.issue("second")
    whole, other = (replaced[each] for each in ("tls_certificate_file", "tls_key_file"))
    caplog.set_level(logging.INFO)
    async with stand(tokens, **files) as service:
        for content in (b"", whole.read_bytes()[:200], whole.read_bytes()):
            files["tls_certificate_file"].write_bytes(content)  # its key is not there yet
            caplog.clear()
            for _ in range(3):
                assert certificates.current() == before
                assert await comes_in(service, before)
            lines = [each for each in caplog.records if each.name == "gatehouse.stand"]
            # Of the service, and of who calls.
            assert [each.levelname for each in lines] == ["ERROR", "ERROR"]
            assert "no usable certificate" in lines[0].getMessage()
        files["tls_certificate_file"].unlink()
        assert certificates.current() == before
        assert await comes_in(service, before)
        files["tls_certificate_file"].write_bytes(whole.read_bytes())
        files["tls_key_file"].write_bytes(other.read_bytes())
        assert certificates.current() == given(files)
        assert await shown_by(service, files) == whole.read_bytes()
    assert "PRIVATE KEY" not in caplog.text


async def test_a_peer_that_does_not_take_the_new_certificate_is_called_with_the_old(
    tokens: Any, old: Authority, new: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """ALL-3: as long as the connection holds that there is; the new one is tried again."""
    serves, calls = served_by(old), served_by(authority(old.folder / "caller"))
    calls["peer_ca_file"].write_bytes(old.pem)
    placed(old.issue("caller"), calls)
    seen = Seen()
    tls = peer_tls(Settings(**tokens.settings, **calls))
    async with (
        stand(tokens, answer=seen.answer, **serves) as service,
        over(service, tls) as opened,
        Traffic(UsageServiceStub(opened), service.call) as traffic,
    ):
        await seen.wait_for(calls["tls_certificate_file"].read_bytes())
        placed(new.issue("caller"), calls)
        while "the old ones stay in use" not in caplog.text:
            await traffic.more(20)
        serves["tls_client_ca_file"].write_bytes(old.pem + new.pem)
        await seen.wait_for(calls["tls_certificate_file"].read_bytes())
    assert traffic.errors == []


@asynccontextmanager
async def far_away(service: Stand, seconds: float) -> AsyncIterator[int]:
    """A port from which the service is reached, and from which its every word takes so long."""

    async def passed_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float
    ) -> None:
        with suppress(ConnectionError):
            while received := await reader.read(65536):
                await asyncio.sleep(pause)
                writer.write(received)
        writer.close()

    connections: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.append(task)
        port = int(service.address.rpartition(":")[2])
        there, to_there = await asyncio.open_connection("localhost", port)
        await asyncio.gather(passed_on(reader, to_there, 0.0), passed_on(there, writer, seconds))

    async with await asyncio.start_server(connected, "localhost", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*connections)


async def test_a_connection_to_a_peer_far_away_is_made(tokens: Any, old: Authority) -> None:
    """ALL-1: TLS across regions, or to a machine at its limit, takes a while, and no call fails."""
    files = served_by(old)
    async with (
        stand(tokens, **files) as service,
        far_away(service, 0.15) as port,
        channel(f"localhost:{port}", tls=given(files)) as opened,
    ):
        request = usage.GetUsageRequest(user_id=USER)
        answer = await UsageServiceStub(opened).GetUsage(request, **service.call)
        assert answer.counter.user_id == USER


async def test_a_peer_calls_what_its_name_may_call(tokens: Any, old: Authority) -> None:
    """ALL-3, ALL-2: whatever its token says; health is told to whoever has a certificate."""
    files = {**served_by(old), "peers": f"gateway={SERVICE} audit={SERVICE}/ListUsage"}
    seen: list[str] = []

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        seen.append("called")
        return await plain_answer(request, context)

    async with stand(tokens, answer=answer, **files) as service:

        async def called_by(name: str, call: Callable[[Stand], Any]) -> Any:
            tls = given({**files, **old.issue(name)})
            async with over(service, tls) as opened:
                changed = Stand(
                    service.address, service.settings, service.telemetry, opened, service.token
                )
                assert await changed.health_of() == "SERVING"
                return await call(changed)

        assert (await called_by("gateway", Stand.get)).counter.user_id == USER
        seen.clear()
        refused: list[tuple[str, Callable[[Stand], Any]]] = [
            ("audit", Stand.get),
            ("stranger", Stand.get),
            ("gateway.stranger", Stand.get),
            ("gateway", lambda each: each.watch().read()),
        ]
        for name, call in refused:
            failure = await called_by(name, lambda each, call=call: failure_of(call(each)))
            assert failure.code is grpc.StatusCode.PERMISSION_DENIED
            assert failure.reason == "PEER_NOT_ALLOWED"
        assert seen == []


def test_what_peers_are_trusted_by_must_be_certificates(tokens: Any, old: Authority) -> None:
    """ALL-5: told with the name of the setting."""
    files = served_by(old)
    files["peer_ca_file"].write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    with pytest.raises(SettingsError, match="GATEHOUSE_STAND_PEER_CA_FILE: must be PEM"):
        peer_tls(Settings(**tokens.settings, **files))
