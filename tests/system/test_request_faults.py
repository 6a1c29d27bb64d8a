"""Every counted call, while everything is killed, frozen, cut and locked (USE-2, USE-9, GAT-2).

The kind of fault that is looked for: a promise about counts, answers or waiting that holds while
everything works, and breaks when a deadline, a hang or a retry comes between.
"""

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from bench.faults.requests import Plan, carried_out
from bench.faults.requests_faults import Injected, Touched
from bench.faults.requests_health import Observed, Sample
from bench.faults.requests_judge import RequestFindings, Row, Stored, judge
from bench.faults.requests_record import Asked, Try

FAULTS = (
    "freeze usage 0",
    "kill gateway 0",
    "lock rows of users",
    "cut link to gateway 1",
)


@pytest.mark.timeout(240)
async def test_what_is_delivered_is_counted_whatever_hangs() -> None:
    """USE-2, USE-9, GAT-2, GAT-6, LOG-2: over both gateways, with short deadlines and retries."""
    before = set(psutil.Process().children(recursive=True))
    plan = Plan(seed=7, lanes=2, faults=FAULTS, replays=150, settle_seconds=5)
    findings = await carried_out(plan)
    assert findings.violations == []
    assert set(findings.faults) == set(FAULTS)
    assert {"Analyze", "StreamAnalyze", "Recommend"} <= set(findings.answered)
    assert findings.answered["Execute with changes"] > 0
    assert set(psutil.Process().children(recursive=True)) <= before


class Story:
    """A read, two changes of which one failed, figures and a refusal; all as it should be."""

    def __init__(self) -> None:
        self.user = str(uuid.UUID(int=1))
        self.read, self.done, self.failed = (str(uuid.UUID(int=each)) for each in (2, 3, 4))
        self.reading = self.asked("Execute", "r", verbs=(domain_pb2.VERB_READ,))
        self.hear(self.reading, successes=(self.read,))
        self.changing = self.asked("Execute", "c", verbs=(domain_pb2.VERB_CREATE,) * 2)
        self.hear(self.changing, successes=(self.done,), failures=(self.failed,))
        self.analysis = self.asked("Analyze", "a")
        self.analysis.hear(figures())
        self.refusal = self.asked("Recommend", "n")
        self.refusal.refuse("RESOURCE_EXHAUSTED QUOTA_EXHAUSTED")
        self.stored = Stored(
            counts={self.user: (2, 1)},
            rows=[
                Row(self.user, "r", self.read, "read", "succeeded", ""),
                Row(self.user, "c", self.done, "create", "succeeded", ""),
                Row(self.user, "c", self.failed, "create", "failed", "LOCKED"),
                Row(self.user, "a", str(uuid.UUID(int=5)), "analyze", "succeeded", ""),
                Row(self.user, "n", str(uuid.UUID(int=6)), "recommend", "refused", "QUOTA"),
            ],
            applied=Counter([self.done]),
            clients=Counter(["client 0 of c"]),
            spooled=[],
            quarantined=[],
        )
        self.injected: list[Injected] = []
        self.observed = Observed()

    def asked(self, method: str, request_id: str, verbs: tuple[int, ...] = ()) -> Asked:
        requests = {"Execute": pb.ExecuteRequest, "Analyze": pb.AnalyzeRequest}
        request = requests.get(method, pb.RecommendRequest)(request_id=request_id)
        for index, verb in enumerate(verbs):
            made = request.operations.operations.add(domain="clients", verb=verb, entity="client")
            if verb == domain_pb2.VERB_CREATE:
                made.fields["name"] = f"client {index} of {request_id}"
        made = Asked(method, request, self.user, "small", [])
        made.tries.append(Try("gateway 0", 5.0, 10.0, 10.1, "OK"))
        return made

    def hear(
        self,
        asked: Asked,
        *,
        successes: tuple[str, ...] = (),
        failures: tuple[str, ...] = (),
        replayed: bool = False,
    ) -> None:
        asked.hear(report_of(asked, successes, failures, replayed=replayed))

    @property
    def everything(self) -> list[Asked]:
        return [self.reading, self.changing, self.analysis, self.refusal]

    def hang(self, **touched: object) -> None:
        """Have usage frozen while a patient read waits for nine seconds."""
        self.injected.append(
            Injected("freeze usage 0", "freeze", Touched(**touched), 9.5, 19.5)  # type: ignore[arg-type]
        )
        self.reading.patient = True
        self.reading.tries[0].ended = 19.0

    def say(self, name: str, *, serving: bool, answered: bool) -> None:
        """Have health and callers of a replica say this for ten seconds."""
        outcome = "OK" if answered else "UNAVAILABLE"
        self.observed.health[name] = [Sample(float(at), serving) for at in range(11)]
        self.observed.probes[name] = [
            Try(name, 2.0, at / 2, at / 2 + 0.1, outcome) for at in range(20)
        ]

    def violations(self) -> list[str]:
        findings = RequestFindings(seed=0)
        judge(self.everything, self.stored, self.injected, self.observed, findings)
        return findings.violations


def report_of(
    asked: Asked, successes: tuple[str, ...], failures: tuple[str, ...], *, replayed: bool = False
) -> pb.ExecuteResponse:
    answer = pb.ExecuteResponse(replayed=replayed)
    for index, id_ in enumerate(successes):
        verb = asked.operations[index].verb
        answer.report.successes.add(index=index, operation_id=id_, verb=verb)
    for index, id_ in enumerate(failures, len(successes)):
        answer.report.failures.add(index=index, operation_id=id_)
    return answer


def figures() -> pb.AnalyzeResponse:
    return pb.AnalyzeResponse(results=[pb.MetricResult(metric="no_show_rate")])


def test_a_run_in_which_everything_agrees_is_not_complained_about() -> None:
    """USE-2, GAT-2: answers again are replays, and nobody waits beside what hangs."""
    story = Story()
    story.hear(story.reading, successes=(story.read,), replayed=True)
    story.hang(gateways={"gateway 0"})
    story.say("gateway 0", serving=True, answered=True)
    story.say("usage 0", serving=False, answered=False)
    assert story.violations() == []


def count(reads: int, modifies: int) -> Callable[[Story], object]:
    return lambda it: it.stored.counts.update({it.user: (reads, modifies)})


def with_row(index: int, **change: str) -> Callable[[Story], object]:
    def changed(story: Story) -> None:
        story.stored.rows[index] = replace(story.stored.rows[index], **change)

    return changed


def hasty(story: Story) -> None:
    """The store of answers is forgotten: a read is done, and answered, once more."""
    other = report_of(story.reading, (story.read,), ())
    other.trace_id = "another"
    story.reading.hear(other)


def too_many(story: Story) -> None:
    story.changing.final = report_of(story.changing, (story.done, story.failed), ())
    story.changing.request.operations.operations.extend(story.changing.operations * 4)  # type: ignore[union-attr]
    for index in range(2, 10):
        verb = domain_pb2.VERB_CREATE
        story.changing.final.report.successes.add(index=index, operation_id=str(index), verb=verb)


BREACHES: dict[str, tuple[Callable[[Story], object], str]] = {
    "a read is not counted": (count(1, 1), "delivered, not counted"),
    "a read is counted that was refused": (count(3, 1), "counted, not delivered"),
    "a change is not counted": (count(2, 0), "delivered, not counted"),
    "a failed change is counted": (count(2, 2), "counted, not delivered"),
    "figures came, and no answer": (
        lambda it: (setattr(it.refusal, "partly", True), it.refusal.refuse("QUOTA")),
        "was answered, then refused",
    ),
    "more than the limit": (too_many, "limit exceeded"),
    "another answer": (hasty, "was answered otherwise: trace_id"),
    "no replay": (hasty, "not as a replay"),
    "refused after its answer": (
        lambda it: it.reading.refuse("RESOURCE_EXHAUSTED COOL_DOWN"),
        "was answered, then refused",
    ),
    "done, then not done": (
        lambda it: it.hear(it.changing, failures=(it.done, it.failed), replayed=True),
        "reported as done and as not done",
    ),
    "no answer at all": (lambda it: setattr(it.analysis, "final", None), "never answered"),
    "an effect is lost": (lambda it: it.stored.applied.clear(), "was applied 0 times"),
    "an effect was not reported": (
        lambda it: it.stored.applied.update([it.failed]),
        "reported as not done and was applied",
    ),
    "an effect is there twice": (
        lambda it: it.stored.clients.update(["client 0 of c"]),
        "exists 2 times",
    ),
    "a row is lost": (lambda it: it.stored.rows.pop(0), "has 0 rows"),
    "a row is there twice": (
        lambda it: it.stored.rows.append(it.stored.rows[1]),
        "has 2 rows",
    ),
    "a row says otherwise": (with_row(1, outcome="failed"), "reported as done"),
    "a row is open": (with_row(2, outcome="unknown"), "is unsettled"),
    "figures have no row": (lambda it: it.stored.rows.pop(3), "its answer has 0 rows"),
    "a row of a success that nobody was told of": (
        lambda it: it.stored.rows.append(Row(it.user, "c", "x", "create", "succeeded", "")),
        "was not reported",
    ),
    "an outcome is left": (lambda it: it.stored.spooled.append("1.otlp"), "left in a spool"),
    "a span was not understood": (lambda it: it.stored.quarantined.append("?"), "in quarantine"),
    "a wait beside what hangs": (lambda it: it.hang(), "wait beside freeze usage 0: 9.0 s"),
    "health says too much": (
        lambda it: it.say("usage 1", serving=True, answered=False),
        "usage 1 says SERVING",
    ),
    "health says too little": (
        lambda it: it.say("gateway 1", serving=False, answered=True),
        "gateway 1 says NOT_SERVING",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_each_broken_promise_is_found(breach: str) -> None:
    """USE-2, USE-9, GAT-2, LOG-2: a judge that finds nothing says nothing."""
    story = Story()
    change, words = BREACHES[breach]
    change(story)
    assert any(words in each for each in story.violations())
