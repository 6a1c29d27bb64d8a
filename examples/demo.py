"""The story of the suite, told by itself: `python -m examples.demo`, or `make demo`.

It starts everything on this machine, asks the gateway what its callers would ask, prints what they
would see, and checks each answer: an unexpected one makes it exit with status 1. With `--now` it
runs by a clock that is set to that time.
"""

import argparse
import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import grpc
import grpc.aio
import uvloop
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1 import router_pb2
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from rich.markup import escape
from rich.rule import Rule

from examples.clinic.cli import DEMO_CLINIC
from services.cli.connection import refusal
from services.cli.output import (
    console,
    print_analysis,
    print_answer,
    print_notices,
    print_operations,
    reason_of,
    table,
)
from services.embedded import ADMIN, BASIC_USER, PREMIUM_USER, TIME_ZONE, Suite, suite
from services.embedded_clock import moment_of
from services.embedded_stores import StartFailed

DEADLINE_SECONDS = 20.0
# How long the log may take to have what was answered.
ROWS_SECONDS = 10.0
MODEL_TIERS = ("MODEL_BASIC", "MODEL_ANALYTICS")
FIGURES = ("no_show_rate", "cancellation_rate", "overdue_ratio", "engagement_rate")
MIXED = (
    "Change the phone of Ana Souza to +55 27 99999-1234, mark invoice 1007 as paid,"
    " cancel the appointment of Ana Souza of tomorrow and send a reminder to Bruno Lima"
)


class Unexpected(Exception):
    """The story went otherwise than it should; the message says where."""


@dataclass(frozen=True)
class Clinic:
    """Whose story it is: a clinic with the sample's records, and its users."""

    id: str = DEMO_CLINIC
    time_zone: str = TIME_ZONE
    basic: str = BASIC_USER
    premium: str = PREMIUM_USER


@dataclass
class Story:
    """The running suite, and what was asked of it so far."""

    suite: Suite
    clinic: Clinic
    gateway: GatewayServiceStub
    usage: UsageServiceStub
    entitlements: EntitlementsServiceStub
    log: OperationLogServiceStub
    requests: list[str] = field(default_factory=list)

    def today(self) -> date:
        """The clinic's day, by the clock of the suite."""
        return self.suite.now().astimezone(ZoneInfo(self.clinic.time_zone)).date()

    def call(self, user_id: str, *roles: str, locale: str = "en-US") -> dict[str, object]:
        """What a call in the name of a user carries."""
        token = self.suite.token(
            user_id,
            roles=("user", *roles),
            clinic_id=self.clinic.id,
            locale=locale,
            time_zone=self.clinic.time_zone,
        )
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": DEADLINE_SECONDS}

    async def execute(
        self, user_id: str, request: pb.ExecuteRequest, locale: str = "en-US"
    ) -> pb.ExecuteResponse:
        if not request.request_id:
            request.request_id = str(uuid.uuid4())
        self.requests.append(request.request_id)
        answer: pb.ExecuteResponse = await self.gateway.Execute(
            request, **self.call(user_id, locale=locale)
        )
        return answer

    async def says(self, user_id: str, words: str, locale: str = "en-US") -> pb.ExecuteResponse:
        """Ask in words, and print what comes back."""
        console.print(f"[cyan]{escape(words)}[/cyan]", highlight=False)
        answer = await self.execute(user_id, pb.ExecuteRequest(instruction=words), locale)
        print_answer(answer)
        return answer

    async def is_refused(self, ask: Awaitable[object], reason: str) -> None:
        """Await a call that must be refused for *reason*, and print how."""
        try:
            await ask
        except grpc.aio.AioRpcError as error:
            told = refusal(error)
            console.print(f"[yellow]{escape(told)}[/yellow]", highlight=False)
            expect(reason in told, f"refused otherwise than with {reason}")
            return
        raise Unexpected(f"should have been refused with {reason}")


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Unexpected(what)


# the chapters


async def reads(story: Story) -> None:
    """A basic user reads, and is told what remains"""
    answer = await story.says(story.clinic.basic, "Show the appointments of tomorrow")
    expect(answer.report.outcome == pb.OUTCOME_SUCCEEDED, "the read did not succeed")
    expect(answer.usage.reads_remaining == 39, "39 of 40 reads should remain")


async def upgrades(story: Story) -> None:
    """The same user asks to delete, and is told what an upgrade brings"""
    await story.is_refused(
        story.says(story.clinic.basic, "Delete the client Bruno Lima"), reason="PLAN_FORBIDS"
    )


async def mixes(story: Story) -> None:
    """A premium user asks for four things in three domains: one report of what became of each"""
    request = pb.ExecuteRequest(request_id=str(uuid.uuid4()), instruction=MIXED)
    console.print(f"[cyan]{MIXED}[/cyan]", highlight=False)
    answer = await story.execute(story.clinic.premium, request)
    print_answer(answer)
    reasons = {reason_of(each.status) for each in answer.report.failures}
    expect(answer.report.outcome == pb.OUTCOME_PARTIAL, "some should succeed, some fail")
    expect(reasons == {"RECORD_LOCKED", "CONSENT_MISSING", "ROLLED_BACK"}, "other failures")

    console.print("\nThe same request again, as after a lost answer:", style="bold")
    again = await story.execute(story.clinic.premium, request)
    same = again.report == answer.report and again.usage.modify_count == answer.usage.modify_count
    console.print(
        f"the same report {again.report.id}, nothing counted or done twice"
        f" (changes counted: {again.usage.modify_count})",
        highlight=False,
    )
    expect(again.replayed and same, "the same request should change nothing")


async def confirms(story: Story) -> None:
    """A bulk change asks first, and is then carried out as it was shown"""
    request = pb.ExecuteRequest(
        request_id=str(uuid.uuid4()), instruction="Cancel all appointments of the next week"
    )
    console.print(f"[cyan]{request.instruction}[/cyan]", highlight=False)
    asked = await story.execute(story.clinic.premium, request)
    expect(asked.HasField("confirmation"), "a bulk change should ask first")
    print_answer(asked)
    request.confirmation_token = asked.confirmation.confirmation_token
    console.print("\nConfirmed:", style="bold")
    done = await story.execute(story.clinic.premium, request)
    print_answer(done)
    affected = sum(each.affected for each in done.report.successes)
    shown = sum(each.affected for each in asked.confirmation.operations)
    expect(affected == shown > 0, "what was confirmed should have been done")


async def analyzes(story: Story) -> None:
    """An analysis with its numbers, and what it recommends"""
    request = pb.AnalyzeRequest(
        request_id=str(uuid.uuid4()),
        metrics=FIGURES,
        window=pb.Window(last_days=60),
        compare_with_previous=True,
        plain_summary=True,
    )
    analysis = await story.gateway.Analyze(request, **story.call(story.clinic.premium))
    print_analysis(analysis)
    expect(len(analysis.results) == len(FIGURES), "every figure should be there")
    advised = await story.gateway.Recommend(
        pb.RecommendRequest(request_id=str(uuid.uuid4()), plain=True),
        **story.call(story.clinic.premium),
    )
    rows = [
        (pb.RecommendationCategory.Name(each.category).split("_", 2)[2], each.content)
        for each in advised.recommendations
    ]
    console.print(table("recommendations", ("category", "what to do"), rows))
    expect(bool(rows), "there should be a recommendation")


async def fails_over(story: Story) -> None:
    """The model for analyses is stopped on purpose: another tier completes the answer"""
    if len(story.suite.models) < len(MODEL_TIERS):
        console.print("no small models on this machine: this chapter is left out")
        return
    first = await worded(story, "smollm2-analytics")
    console.print(f"before: worded by {first.model_used}", highlight=False)
    await story.suite.models["MODEL_ANALYTICS"].kill()
    second = await worded(story, "smollm2-basic")
    tried = ", ".join(f"{each.model} {outcome_of(each)}" for each in second.attempts)
    console.print(f"after: worded by {second.model_used} (tried: {tried})", highlight=False)
    expect(second.failover, "nobody took over")


async def worded(story: Story, model: str) -> router_pb2.Finished:
    """An analysis worded by *model*. A summary with numbers of its own is not used: then another
    figure is asked for."""
    for metric in FIGURES:
        request = pb.AnalyzeRequest(
            request_id=str(uuid.uuid4()), metrics=[metric], window=pb.Window(last_days=60)
        )
        answer = await story.gateway.Analyze(request, **story.call(story.clinic.premium))
        if answer.completion.model_used == model:
            console.print(answer.summary, highlight=False)
            print_notices(answer.notices)
            finished: router_pb2.Finished = answer.completion
            return finished
    raise Unexpected(f"{model} worded no figure")


def outcome_of(attempt: router_pb2.Attempt) -> str:
    name = router_pb2.AttemptOutcome.Name(attempt.outcome)
    return name.removeprefix("ATTEMPT_OUTCOME_").lower()


async def runs_out(story: Story) -> None:
    """The 41st read of the day"""
    today = story.today()
    correction = usage_pb2.CorrectUsageRequest(
        user_id=story.clinic.basic, usage_date=today.isoformat(), read_count=40
    )
    corrected = await story.usage.CorrectUsage(correction, **story.call(ADMIN, "admin"))
    console.print(f"an administrator counts {corrected.after.read_count} reads beforehand")
    read = story.says(story.clinic.basic, "Show the clients")
    try:
        await story.is_refused(read, reason="QUOTA_EXHAUSTED")
    except Unexpected:
        if story.today() == today:
            raise
        await runs_out(story)  # midnight came between, and a new day begins with all its reads


async def cools_down(story: Story) -> None:
    """The 13th query of a minute starts a cool-down"""
    hasty = await premium_user(story)
    read = pb.Operation(domain="clients", verb=domain_pb2.VERB_READ, limit=1)
    for _ in range(12):
        await story.execute(
            hasty, pb.ExecuteRequest(operations=pb.OperationList(operations=[read]))
        )
    console.print("12 queries are answered; the 13th:")
    await story.is_refused(
        story.execute(hasty, pb.ExecuteRequest(operations=pb.OperationList(operations=[read]))),
        reason="COOL_DOWN",
    )


async def speaks(story: Story) -> None:
    """Portuguese and Spanish"""
    user = await premium_user(story)
    instructions = {
        "pt-BR": "Agende uma consulta para Carla Dias amanhã às 18h",
        "es-ES": "Muestra las facturas vencidas de Diego Alves",
    }
    for locale, words in instructions.items():
        answer = await story.says(user, words, locale)
        expect(answer.report.outcome == pb.OUTCOME_SUCCEEDED, f"{locale} was not understood")


async def logged(story: Story, since: datetime) -> None:
    """The operation log of all this"""
    operations = await operations_since(story, since)
    console.print(f"{len(operations)} operations")
    print_operations(list(reversed(operations)))
    expect(all(each.trace_id for each in operations), "each row leads to its trace")
    expect(is_whole(story, operations), "what was done should be in the log")
    verified = await story.log.VerifyChain(
        oplog_pb2.VerifyChainRequest(), **story.call(ADMIN, "auditor")
    )
    console.print(f"the hash chain over {verified.checked} links is intact: {verified.intact}")
    expect(verified.intact, "the chain is broken")


async def operations_since(story: Story, since: datetime) -> Sequence[oplog_pb2.OperationLog]:
    """List what the log has, newest first; the row of a read follows its answer by a moment."""
    wanted = oplog_pb2.ListOperationsRequest(page_size=500)
    wanted.filter.start_time.FromDatetime(since)
    until = time.monotonic() + ROWS_SECONDS
    while True:
        found: oplog_pb2.ListOperationsResponse = await story.log.ListOperations(
            wanted, **story.call(ADMIN, "auditor")
        )
        if is_whole(story, found.operations) or time.monotonic() > until:
            return found.operations
        await asyncio.sleep(0.1)


def is_whole(story: Story, operations: Sequence[oplog_pb2.OperationLog]) -> bool:
    """Say whether *operations* have the requests of the story that leave a row."""
    listed = {each.request_id for each in operations}
    return len(listed & set(story.requests)) >= 16


async def premium_user(story: Story) -> str:
    """A user of their own, with the plan premium."""
    user_id = str(uuid.uuid4())
    await story.entitlements.AssignUserPlan(
        entitlements_pb2.AssignUserPlanRequest(user_id=user_id, plan_name="premium"),
        **story.call(ADMIN, "admin"),
    )
    return user_id


CHAPTERS: Sequence[Callable[[Story], Awaitable[None]]] = (
    reads,
    upgrades,
    mixes,
    confirms,
    analyzes,
    fails_over,
    runs_out,
    cools_down,
    speaks,
)


@asynccontextmanager
async def opened(running: Suite, clinic: Clinic) -> AsyncIterator[Story]:
    def channel(service: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(running.addresses[service])

    async with (
        channel("gateway") as gateway,
        channel("usage") as usage,
        channel("entitlements") as entitlements,
        channel("oplog") as log,
    ):
        yield Story(
            running,
            clinic,
            GatewayServiceStub(gateway),
            UsageServiceStub(usage),
            EntitlementsServiceStub(entitlements),
            OperationLogServiceStub(log),
        )


async def tell(now: datetime | None) -> None:
    """Raises Unexpected, StartFailed, AioRpcError."""
    loop, since = asyncio.get_running_loop(), now or datetime.now(UTC)
    started = loop.time()
    console.print("Starting Postgres, Valkey, two small models, every service, the clinic …")
    async with (
        suite(model_tiers=MODEL_TIERS, now=now) as running,
        opened(running, Clinic()) as story,
    ):
        console.print(f"they serve after {loop.time() - started:.1f} s")
        for chapter in CHAPTERS:
            heading(chapter.__doc__ or "")
            await chapter(story)
        heading(logged.__doc__ or "")
        await logged(story, since)
    console.print(
        f"\n[green]The story went as it should, in {loop.time() - started:.0f} s.[/green]"
    )


def heading(text: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{text}[/bold]", align="left"))


def main() -> int:
    parser = argparse.ArgumentParser(description="The story of the suite, told by itself.")
    parser.add_argument("--now", type=moment, help="the time to begin at: 2028-02-29T23:55")
    try:
        uvloop.run(tell(parser.parse_args().now))
    except (Unexpected, StartFailed) as error:
        console.print(f"[red]The story went wrong: {escape(str(error))}[/red]")
    except grpc.aio.AioRpcError as error:
        console.print(f"[red]The story went wrong: {escape(refusal(error))}[/red]")
    else:
        return 0
    return 1


def moment(text: str) -> datetime:
    return moment_of(text, TIME_ZONE)


if __name__ == "__main__":
    sys.exit(main())
