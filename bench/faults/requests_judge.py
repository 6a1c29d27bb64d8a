"""Compares what callers were answered with what is counted, logged and stored (USE-2, LOG-2).

It also compares how long callers waited with what was broken meanwhile (USE-9).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from bench.faults import requests_health
from bench.faults.breaking import Findings
from bench.faults.requests_faults import HANGS, RECOVERY_SECONDS, RESUMED_SECONDS, Injected
from bench.faults.requests_health import Observed
from bench.faults.requests_record import CHANGES, Asked
from bench.faults.requests_world import MODIFY_LIMIT, READ_LIMIT

# The longest that what hangs may make anybody else wait, and what a busy machine may add.
LONGEST_WAIT_SECONDS = 2.0
SLACK_SECONDS = 1.0
MOST_STORIES = 6


@dataclass(frozen=True)
class Row:
    """A row of the operation log."""

    user_id: str
    request_id: str
    operation_id: str
    action: str
    outcome: str
    reason: str


@dataclass
class Stored:
    """What there is at the end, in every store."""

    # Reads and modifies by user, over all days.
    counts: dict[str, tuple[int, int]]
    rows: list[Row]
    # How often each operation was applied, by its id, in all domains.
    applied: Counter[str]
    # How many clients have a name.
    clients: Counter[str]
    spooled: list[str]
    quarantined: list[str]


@dataclass
class RequestFindings(Findings):
    """What the run did, and what it found to be wrong."""

    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    witnesses: int = 0
    replays: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)

    def counted(self) -> dict[str, int]:
        waits = sorted(self.waits)
        return {
            **{f"answered {name}": count for name, count in sorted(self.answered.items())},
            **{f"refused {name}": count for name, count in sorted(self.refused.items())},
            **{f"tries ended {name}": count for name, count in sorted(self.tries.items())},
            "answers asked for again": self.replays,
            "waits judged beside what hangs": self.witnesses,
            "median wait beside it, ms": int(1000 * waits[len(waits) // 2]) if waits else 0,
            "longest wait beside it, ms": int(1000 * waits[-1]) if waits else 0,
            **{f"violations: {name}": count for name, count in sorted(self.by_kind.items())},
        }

    def samples(self, most: int) -> list[str]:
        """Some violations of every kind."""
        kinds: dict[str, list[str]] = {}
        for each in self.violations:
            kinds.setdefault(each.partition(":")[0], []).append(each)
        share = max(1, most // max(1, len(kinds)))
        return [each for found in kinds.values() for each in found[:share]]

    def violated(self, kind: str, what: str) -> None:
        self.by_kind[kind] += 1
        self.broken(f"{kind}: {what}")


def judge(
    asked: Sequence[Asked],
    stored: Stored,
    injected: Sequence[Injected],
    observed: Observed,
    findings: RequestFindings,
) -> None:
    """Count, and find every contradiction."""
    for one in asked:
        if one.final is not None:
            findings.answered[kind_of(one)] += 1
        elif one.refused:
            findings.refused[one.refused] += 1
        for each in one.tries:
            findings.tries[each.outcome.split()[0] if each.outcome else "without an end"] += 1
    judge_answers(asked, injected, findings)
    judge_counts(asked, stored, injected, findings)
    judge_effects(asked, stored, injected, findings)
    judge_log(asked, stored, injected, findings)
    judge_waits(asked, injected, observed, findings)
    for found in requests_health.contradictions(observed, asked, injected):
        findings.violated("health", found)


def kind_of(one: Asked) -> str:
    if one.method != "Execute":
        return one.method
    return "Execute with changes" if one.changes else "Execute with reads"


# Answers


def judge_answers(
    asked: Sequence[Asked], injected: Sequence[Injected], findings: RequestFindings
) -> None:
    """Each request has one final answer, the same however often it is asked for (GAT-2)."""
    for one in asked:
        if not one.is_settled and not one.contradictions:
            findings.violated("never answered", story(one, injected))
        for contradiction in dict.fromkeys(one.contradictions):
            findings.violated("answer", f"{contradiction}; {story(one, injected)}")
        reasons = {reason for _, _, _, reason in one.outcomes()}
        late = any(each.outcome.startswith("DEADLINE") for each in one.tries)
        if "CANCELLED" in reasons and not (one.is_cancelled or late):
            findings.violated("cancelled by nobody", story(one, injected))
        if "LOG_UNAVAILABLE" in reasons and not overlapping(one, injected):
            findings.violated("log unavailable in peace", story(one, injected))


# Counts


def delivered(asked: Iterable[Asked]) -> tuple[int, int, int]:
    """What was delivered: reads at least and at most, and modifies."""
    least = most = modifies = 0
    for one in asked:
        low, high = one.reads()
        least, most = least + low, most + high
        modifies += one.modifies()
    return least, most, modifies


def judge_counts(
    asked: Sequence[Asked],
    stored: Stored,
    injected: Sequence[Injected],
    findings: RequestFindings,
) -> None:
    """What was delivered is counted, nothing else is, and no limit is exceeded (USE-2, USE-3)."""
    for user_id, own in by_user(asked).items():
        least, most, modifies = delivered(own)
        reads, changes = stored.counts.get(user_id, (0, 0))
        if not least <= reads <= most:
            kind = "delivered, not counted" if reads < least else "counted, not delivered"
            about = f"{user_id}: {reads} reads counted, {least} to {most} delivered"
            findings.violated(kind, f"{about}; {stories(own, injected, reads=True)}")
        if changes != modifies:
            kind = "delivered, not counted" if changes < modifies else "counted, not delivered"
            about = f"{user_id}: {changes} changes counted, {modifies} done"
            findings.violated(kind, f"{about}; {stories(own, injected, reads=False)}")
        if own[0].clinic == "small" and (least > READ_LIMIT or modifies > MODIFY_LIMIT):
            about = f"{user_id}: {least} reads and {modifies} changes, of {READ_LIMIT} and"
            findings.violated(
                "limit exceeded", f"{about} {MODIFY_LIMIT}; {stories(own, injected, reads=True)}"
            )


def mismatched(asked: Sequence[Asked], stored: Stored) -> bool:
    """Whether the counts of anybody are not settled yet."""
    for user_id, own in by_user(asked).items():
        least, most, modifies = delivered(own)
        reads, changes = stored.counts.get(user_id, (0, 0))
        if not least <= reads <= most or changes != modifies:
            return True
    return False


def by_user(asked: Iterable[Asked]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    for one in asked:
        found.setdefault(one.user_id, []).append(one)
    return found


# Effects


def judge_effects(
    asked: Sequence[Asked],
    stored: Stored,
    injected: Sequence[Injected],
    findings: RequestFindings,
) -> None:
    """What was reported as done exists once, and what was not does not exist (GAT-6, GAT-7)."""
    for one in asked:
        for id_, operation, is_done, _ in one.outcomes():
            if operation.verb not in CHANGES:
                continue
            if stored.applied[id_] != int(is_done):
                findings.violated(
                    "effect",
                    f"{id_} is reported as {done(is_done)} and was applied"
                    f" {stored.applied[id_]} times; {story(one, injected)}",
                )
        for name, is_done in one.new_clients:
            if stored.clients[name] != int(is_done):
                findings.violated(
                    "effect",
                    f"{name} exists {stored.clients[name]} times, reported as {done(is_done)};"
                    f" {story(one, injected)}",
                )


def done(is_done: bool) -> str:
    return "done" if is_done else "not done"


# The operation log


def judge_log(
    asked: Sequence[Asked],
    stored: Stored,
    injected: Sequence[Injected],
    findings: RequestFindings,
) -> None:
    """Every acknowledged operation has exactly one row, with the reported outcome (LOG-2)."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in stored.rows:
        rows.setdefault((row.user_id, row.request_id), []).append(row)
    for one in asked:
        own = rows.pop((one.user_id, one.request_id), [])
        for problem in (*unlogged(one, own), *overlogged(one, own)):
            findings.violated("log", f"{problem}; {story(one, injected)}")
    for file in stored.spooled:
        findings.violated("log", f"{file} is left in a spool")
    for problem in stored.quarantined:
        findings.violated("log", f"in quarantine: {problem}")


def unlogged(one: Asked, own: Sequence[Row]) -> list[str]:
    found = []
    by_id: dict[str, list[Row]] = {}
    for row in own:
        by_id.setdefault(row.operation_id, []).append(row)
    for id_, operation, is_done, reason in one.outcomes():
        has = by_id.get(id_, [])
        if len(has) != 1:
            found.append(f"{id_}, reported as {done(is_done)}, has {len(has)} rows")
        elif (has[0].outcome == "succeeded") != is_done:
            verb = domain_pb2.Verb.Name(operation.verb)
            found.append(f"{verb} {id_}, reported as {done(is_done)} {reason}, has {has[0]}")
    if isinstance(one.final, pb.AnalyzeResponse | pb.RecommendResponse):
        succeeded = [row for row in own if row.outcome == "succeeded"]
        least, most = one.reads()
        if not least <= len(succeeded) <= max(most, 0):
            found.append(f"its answer has {len(succeeded)} rows that succeeded")
    return found


def overlogged(one: Asked, own: Sequence[Row]) -> list[str]:
    """Rows that nobody was told of: an open one, or a success that was not reported."""
    reported = {id_ for id_, _, is_done, _ in one.outcomes() if is_done}
    found = [f"{row.operation_id} is unsettled" for row in own if row.outcome == "unknown"]
    if isinstance(one.request, pb.ExecuteRequest):
        found += [
            f"{row} succeeded and was not reported"
            for row in own
            if row.outcome == "succeeded" and row.operation_id not in reported
        ]
    return found


# Waits


def judge_waits(
    asked: Sequence[Asked],
    injected: Sequence[Injected],
    observed: Observed,
    findings: RequestFindings,
) -> None:
    """Whoever is not touched by what hangs waits no longer than LONGEST_WAIT_SECONDS (USE-9)."""
    for one in asked:
        fault = beside(one, injected)
        if fault is None:
            continue
        began, ended = one.tries[0].began, one.tries[-1].ended
        answered = next((each.ended for each in one.tries if each.is_answered), None)
        wait = (answered if answered is not None else ended) - began
        findings.witnesses += 1
        findings.waits.append(wait)
        slack = SLACK_SECONDS + 2 * observed.lag(began, ended)
        if wait > LONGEST_WAIT_SECONDS + slack:
            findings.violated(f"wait beside {fault.name}", f"{wait:.1f} s; {story(one, injected)}")


def beside(one: Asked, injected: Sequence[Injected]) -> Injected | None:
    """The one fault that hangs while *one* is asked for and touches nothing of it, if any."""
    if not one.patient or not one.tries or any(each.domain == "erratic" for each in one.operations):
        return None
    began = one.tries[0].began
    answered = next((each.ended for each in one.tries if each.is_answered), float("inf"))
    judged_until = min(answered, began + LONGEST_WAIT_SECONDS + SLACK_SECONDS)
    near = [
        each
        for each in injected
        if each.began <= judged_until and began <= each.ended + recovery_of(each)
    ]
    if len(near) != 1 or near[0].kind not in HANGS or not near[0].alone:
        return None
    fault = near[0]
    if not fault.began <= began <= fault.ended:
        return None
    touched = fault.touched
    is_touched = (
        touched.everybody
        or one.user_id in touched.users
        or (touched.changes and one.changes)
        or any(each.gateway in touched.gateways for each in one.tries)
    )
    return None if is_touched else fault


def recovery_of(fault: Injected) -> float:
    """How long callers may feel a fault that is over, in seconds."""
    return RESUMED_SECONDS if fault.kind in HANGS else RECOVERY_SECONDS


# Stories


def overlapping(one: Asked, injected: Sequence[Injected], margin: float = 3.0) -> list[Injected]:
    """The faults that were there while *one* was asked for, or shortly before."""
    if not one.tries:
        return []
    began, ended = one.tries[0].began - margin, one.tries[-1].ended
    return [each for each in injected if each.began <= ended and began <= each.ended]


def story(one: Asked, injected: Sequence[Injected]) -> str:
    """What happened to a request: its tries, what was broken meanwhile, and its answer."""
    if not one.tries:
        return f"{kind_of(one)} {one.request_id} was never sent"
    began = one.tries[0].began
    lines = [f"{kind_of(one)} {one.request_id} of {one.user_id} ({one.clinic})"]
    for each in one.tries:
        faults = [
            fault.name
            for fault in injected
            if fault.began <= each.ended and each.began <= fault.ended
        ]
        during = f" during {', '.join(faults)}" if faults else ""
        lines.append(
            f"+{each.began - began:.2f} s {each.gateway}, deadline {each.deadline:.2f} s:"
            f" {each.outcome or 'no end'} after {each.seconds:.2f} s{during}"
        )
    lines.append(f"at last: {at_last(one)}")
    return "\n      ".join(lines)


def at_last(one: Asked) -> str:
    if one.final is None:
        return one.refused or ("figures, no whole answer" if one.partly else "no answer")
    if isinstance(one.final, pb.ExecuteResponse):
        ends = [f"{done(is_done)} {reason}".strip() for _, _, is_done, reason in one.outcomes()]
        return ", ".join(ends) or str(one.final.WhichOneof("result"))
    if isinstance(one.final, pb.AnalyzeResponse):
        return f"{len(one.final.results)} figures, {len(one.final.failures)} failures"
    return f"{len(one.final.recommendations)} recommendations"


def stories(own: Sequence[Asked], injected: Sequence[Injected], *, reads: bool) -> str:
    """The requests of a user that may explain a wrong count: those with the most tries first."""
    wanted = [one for one in own if one.changes != reads]
    wanted.sort(key=lambda one: len([each for each in one.tries if not each.is_answered]))
    return "\n    ".join(["", *(story(one, injected) for one in wanted[-MOST_STORIES:][::-1])])


def as_stored(
    counts: Iterable[Sequence[Any]], rows: Iterable[Sequence[Any]]
) -> tuple[dict[str, tuple[int, int]], list[Row]]:
    return {each[0]: (int(each[1]), int(each[2])) for each in counts}, [Row(*each) for each in rows]
