"""Everything that logs and is logged is killed and cut off while callers race (LOG-2, LOG-4)."""

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from bench.faults.oplog import Plan, carried_out
from bench.faults.oplog_judge import Asked, Kept, LogFindings, Row, Said, judged

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FAULTS = (
    *("kills of gateway 0", "kills of Postgres", "kills of oplog", "kills of clinic"),
    *("cuts of the log", "cuts of the clinic", "full disks of gateway 1"),
)


async def test_every_operation_has_its_one_row_whatever_is_killed() -> None:
    """LOG-2, LOG-4, GAT-6: answers, effects, intents and rows agree, and the chain holds."""
    before = set(psutil.Process().children(recursive=True))
    findings = await carried_out(
        Plan(seconds=0, seed=7, callers=12, every_seconds=0.3, faults=FAULTS)
    )
    assert findings.violations == []
    assert set(findings.faults) == set(FAULTS)
    assert findings.operations["done"] > 0
    assert findings.rows > 0
    assert set(psutil.Process().children(recursive=True)) <= before


class Story:
    """A change, a read and a refusal, told and kept as they should be."""

    def __init__(self) -> None:
        self.done, self.read, self.refused = (str(uuid.UUID(int=each)) for each in (1, 2, 3))
        request = pb.ExecuteRequest(request_id="r-1")
        for verb in (domain_pb2.VERB_CREATE, domain_pb2.VERB_READ, domain_pb2.VERB_CREATE):
            made = request.operations.operations.add(domain="clients", verb=verb, entity="client")
            made.fields["name"] = f"c-{len(request.operations.operations)}"
        ids = [self.done, self.read, self.refused]
        told = {
            0: Said(self.done, True),
            1: Said(self.read, True),
            2: Said(self.refused, False, "LOCKED"),
        }
        self.asked = Asked(request, {}, ids, told)
        self.kept = Kept(
            rows=[
                Row(self.done, "succeeded", ""),
                Row(self.read, "succeeded", ""),
                Row(self.refused, "failed", "LOCKED"),
            ],
            intents={self.done: NOON, self.refused: NOON},
            settled_later=0,
            applied={self.done: NOON + timedelta(seconds=1), self.read: NOON},
            clients=Counter({"c-1": 1}),
            quarantined=[],
            files=[],
        )

    def violations(self) -> list[str]:
        findings = LogFindings(seed=0)
        judged([self.asked], self.kept, findings)
        return findings.violations


def test_a_run_in_which_everything_agrees_is_not_complained_about() -> None:
    """LOG-2."""
    assert Story().violations() == []


BREACHES: dict[str, tuple[Callable[[Story], object], str]] = {
    "a row is lost": (lambda it: it.kept.rows.pop(1), "has no row"),
    "a row is there twice": (lambda it: it.kept.rows.append(it.kept.rows[0]), "has 2 rows"),
    "a row says otherwise": (
        lambda it: it.kept.rows.append(replace(it.kept.rows.pop(0), outcome="failed")),
        "was answered as done, its row",
    ),
    "a row gives another reason": (
        lambda it: it.kept.rows.append(replace(it.kept.rows.pop(2), reason="NOT_FOUND")),
        "was answered as not done, LOCKED, its row",
    ),
    "a row is of nobody": (
        lambda it: it.kept.rows.append(Row(str(uuid.UUID(int=9)), "failed", "X")),
        "nobody asked for it",
    ),
    "a row is open": (
        lambda it: it.kept.rows.append(replace(it.kept.rows.pop(2), outcome="unknown")),
        "is unsettled",
    ),
    "an effect has no intent": (lambda it: it.kept.intents.pop(it.done), "intended at None"),
    "an intent came after its effect": (
        lambda it: it.kept.intents.update({it.done: NOON + timedelta(seconds=2)}),
        "and intended at",
    ),
    "an effect was never told": (
        lambda it: it.kept.applied.update({it.refused: NOON + timedelta(seconds=1)}),
        "was answered as not done, LOCKED, and done at",
    ),
    "an effect is lost": (lambda it: it.kept.applied.pop(it.done), "and done at None"),
    "an effect is there twice": (lambda it: it.kept.clients.update(["c-1"]), "is there 2 times"),
    "an outcome is left": (lambda it: it.kept.files.append("1.otlp"), "left in a spool"),
    "a span was not understood": (lambda it: it.kept.quarantined.append("?"), "not understand"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_each_broken_promise_is_found(breach: str) -> None:
    """LOG-2: a judge that finds nothing says nothing."""
    story = Story()
    change, words = BREACHES[breach]
    change(story)
    assert any(words in each for each in story.violations())


def test_what_was_left_by_its_caller_is_judged_by_its_effect() -> None:
    """LOG-2: nobody was answered, and the row still says what the clinic did."""
    story = Story()
    story.asked.said.clear()
    story.asked.given_up = True
    assert story.violations() == []
    story.kept.rows[0] = replace(story.kept.rows[0], outcome="failed")
    assert any("its row is" in each for each in story.violations())
