"""Everything that counts is killed and hangs while callers race (USE-2, USE-3, USE-6, USE-7)."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from gatehouse.usage.v1 import usage_pb2 as pb

from bench.faults.usage import LIMITS, WINDOWS, Asked, Plan, UsageFindings, carried_out, judged

DAY = datetime(2026, 11, 23, 12, tzinfo=UTC)
FAULTS = (
    *("kills of replica 0", "freezes of replica 1", "kills of Valkey", "locks of users"),
    *("kills of Postgres", "silences of Postgres of replica 1", "no connection slots"),
    *("freezes of replica 0", "locks of usage_counters", "half-open links of replica 0"),
)


@pytest.mark.timeout(240)
async def test_what_is_admitted_is_counted_whatever_fails() -> None:
    """USE-2, USE-3, USE-6, USE-7, USE-9: once each, and what was given up not at all."""
    plan = Plan(seconds=0, seed=7, callers=24, every_seconds=0.3, faults=FAULTS)
    findings = await carried_out(plan, durable=False)
    assert findings.violations == []
    assert set(findings.faults) == set(FAULTS)
    assert findings.granted > 0
    assert findings.given_up > 0
    assert findings.bystanders > 0


class Kept:
    """What a database would say after some queries of a user, all as it should be."""

    def __init__(self, count: int) -> None:
        self.user = str(uuid.uuid4())
        self.asked = [
            Asked(pb.Claim(operation_id=str(uuid.uuid4()), user_id=self.user), 1, "2026-11-23")
            for _ in range(count)
        ]
        self.receipts = [
            [self.user, each.claim.operation_id, "query", DAY.date(), 1, 0, DAY]
            for each in self.asked
        ]
        self.counters = [[self.user, DAY.date(), count, 0]]

    def violations(self) -> list[str]:
        findings = UsageFindings(seed=0)
        judged(self.asked, self.receipts, self.counters, findings)
        return findings.violations


def test_a_run_in_which_everything_agrees_is_not_complained_about() -> None:
    """USE-3."""
    assert Kept(LIMITS["query"]).violations() == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("receipt", "its receipt says None"),
        ("counter", "counts 26, its receipts 25"),
        ("answer", "was answered None"),
        ("twice", "has 2 receipts"),
        ("window", "more than 40 of query"),
        ("limit", "more than its limit"),
    ],
)
def test_each_broken_promise_is_found(what: str, words: str) -> None:
    """USE-2, USE-3, USE-6: a judge that finds nothing says nothing."""
    kept = Kept({"window": WINDOWS["query"][0] + 1, "limit": 26}.get(what, 25))
    for place, receipt in enumerate(kept.receipts):
        receipt[6] += timedelta(minutes=place * (what != "window"))
    if what == "receipt":
        kept.receipts.pop()
    elif what == "counter":
        kept.counters[0][2] += 1
    elif what == "answer":
        kept.asked[0].granted = 0
    elif what == "twice":
        kept.receipts.append(kept.receipts[0])
    assert any(words in each for each in kept.violations())
