"""The suite on one machine when it cannot start, and when it starts again."""

import asyncio
import os
import shutil
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc.aio
import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub

from services.embedded import ADMIN, StartFailed, Suite, suite
from services.embedded_stores import PostgresServer, temporary_folder


async def fails(**given: object) -> str:
    """What is said of a start that fails."""
    with pytest.raises(StartFailed) as failed:
        async with suite(model_tiers=(), **given):
            pass
    return str(failed.value)


async def logged(running: Suite) -> int:
    """How many operations the log knows."""
    token = running.token(ADMIN, roles=("auditor",))
    async with grpc.aio.insecure_channel(running.addresses["oplog"]) as channel:
        found = await OperationLogServiceStub(channel).ListOperations(
            oplog_pb2.ListOperationsRequest(page_size=500),
            timeout=10,
            metadata=[("authorization", f"Bearer {token}")],
        )
    return len(found.operations)


@pytest.mark.parametrize("processes", [False, True])
async def test_an_address_that_is_taken_is_named(processes: bool) -> None:
    """ALL-5: in one process or in several; the address stays with whoever has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await fails(gateway_listen=address, processes=processes)
    assert "gateway" in said
    assert address in said


async def test_a_wrong_catalogue_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALL-5, ROU-1."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("models: {}")
    monkeypatch.setenv("GATEHOUSE_CATALOGUE", str(wrong))
    assert "must name at least one model" in await fails()


async def test_a_folder_that_is_too_long_is_named(tmp_path: Path) -> None:
    """ALL-5: no socket could be in it."""
    assert "choose a shorter folder" in await fails(data_folder=tmp_path / ("x" * 120))


async def test_what_is_kept_is_there_again() -> None:
    """LOG-1: the data of a folder of the user's choice outlives the suite."""
    folder = temporary_folder("kept")
    try:
        async with suite(data_folder=folder, model_tiers=()) as running:
            before = await logged(running)
        async with suite(data_folder=folder, model_tiers=()) as running:
            after = await logged(running)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
    # The domains are where the new sockets are; the rest is as it was.
    assert after >= before > 3


async def test_nothing_of_a_killed_postgres_answers_any_more(own_postgres: PostgresServer) -> None:
    """USE-7: neither does a backend that would hear of the end only later."""
    with ExitStack() as stack:
        url = own_postgres.url()
        connections = [stack.enter_context(psycopg.connect(url)).pgconn for _ in range(8)]
        for each in connections:
            os.kill(each.backend_pid, signal.SIGSTOP)
            each.send_query(b"SELECT 1")
        await own_postgres.kill()
        for each in connections:
            with suppress(ProcessLookupError):
                os.kill(each.backend_pid, signal.SIGCONT)
        answers = [each.get_result() for each in connections]
    assert {each and each.status for each in answers} == {psycopg.pq.ExecStatus.FATAL_ERROR}
