"""The suite on one machine when it cannot start, and when it starts again."""

import asyncio
import os
import shutil
import signal
import socket
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc.aio
import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub

from examples.clinic.cli import DEMO_CLINIC
from services.embedded import ADMIN, StartFailed, Suite, suite
from services.embedded_services import SERVICES
from services.embedded_stores import PostgresServer, temporary_folder
from services.runtime.settings import SettingsError, load, prefix_of
from tests.gateway_calls import staged


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


@pytest.mark.parametrize("processes", [False, True])
async def test_every_service_goes_by_the_clock_that_the_suite_was_given(processes: bool) -> None:
    """ALL-6, USE-4, LOG-5, ALL-3: what day it is, and of when the log's rows are. Tokens are valid
    by the machine's clock all the while."""
    leap = datetime(2028, 2, 29, 23, 55, tzinfo=ZoneInfo("America/Sao_Paulo"))
    async with (
        suite(model_tiers=(), processes=processes, now=leap) as running,
        staged(running, replicas=1) as stage,
    ):
        user = await stage.user("basic", clinic_id=DEMO_CLINIC)
        answer = await user.execute("show the appointments of tomorrow")
        (success,) = answer.report.successes
        days = {record["starts_at"][:10] for record in success.records}
        assert days == {"2028-03-01"}
        resets_at = answer.usage.resets_at.ToDatetime(tzinfo=UTC)
        assert resets_at == datetime(2028, 3, 1, 3, tzinfo=UTC)
        counted = "SELECT usage_date, read_count FROM usage.usage_counters WHERE user_id = %s"
        assert await stage.rows(counted, user.id) == [(leap.date(), 1)]
        await user.log()
        kept = "SELECT created_at FROM oplog.operation_log WHERE user_id = %s"
        ((created_at,),) = await stage.rows(kept, user.id)
        assert leap <= created_at <= stage.now()
        plans = "SELECT min(created_at) FROM oplog.operation_log WHERE action LIKE 'admin.%%'"
        ((changed_at,),) = await stage.rows(plans)
        assert leap <= changed_at <= stage.now()


@pytest.mark.parametrize("year", [1970, 2100])
async def test_a_clock_beyond_what_the_log_can_hold_is_refused(year: int) -> None:
    """ALL-5: before anything is started."""
    assert "between 1971-01-01 and 2099-12-31" in await fails(now=datetime(year, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize("service", ["usage", "gateway", "oplog", "entitlements"])
def test_no_services_settings_can_set_its_clock(service: str) -> None:
    """ALL-5, ALL-6: production takes no clock from its environment; who tries is told so."""
    settings = SERVICES[service].settings
    for name in ("now", "clock", "seconds_ahead"):
        with pytest.raises(SettingsError, match=f"{name.upper()} is not a setting"):
            load(settings, {f"{prefix_of(settings)}{name.upper()}": "2028-02-29T23:55"})
