"""What the rules have found, as signs that the second reader weighs beside the words."""

from collections.abc import Iterable, Iterator, Sequence

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.licence import allowed_changes, worded_changes
from services.gateway.interpret.rules import Read, without_asides
from services.gateway.interpret.scene import Scene

NAMES = {
    domain_pb2.VERB_READ: "read",
    domain_pb2.VERB_CREATE: "create",
    domain_pb2.VERB_UPDATE: "update",
    domain_pb2.VERB_DELETE: "delete",
}
NOTHING = "-"
# More clauses say no more than so many.
MANY = 4


def found_in(read: Read) -> Sequence[pb.InterpretedOperation]:
    """The operations, whole or with something of them still to be asked."""
    return read.doubt.so_far if read.doubt is not None else read.operations


def asked_by(read: Read) -> set[str]:
    return {NAMES[each.operation.verb] for each in found_in(read)}


def is_far_fetched(read: Read) -> bool:
    """Whether something is found by a field alone, beside words that nothing accounts for.

    `When did the season start` is about no event, though events have a start.
    """
    found = found_in(read)
    named = any(one.part in ("entity", "selector") for each in found for one in each.evidence)
    return bool(found) and not read.understood and not named


def signs_of(read: Read, scene: Scene) -> frozenset[str]:
    """The signs of a whole instruction."""
    doubt = pb.Ambiguity.Name(read.doubt.ambiguity) if read.doubt is not None else NOTHING
    several = f"! {min(MANY, len(scene.clauses))} of {min(MANY, len(without_asides(scene)))}"
    return frozenset(
        {
            *signs_of_found(asked_by(read), doubt, whole=read.understood),
            *signs_of_clauses(scene.clauses, asked_by(read)),
            *(f"! word {NAMES[each]}" for each in worded_changes(scene)),
            *(f"! may {NAMES[each]}" for each in allowed_changes(scene)),
            *(["! far-fetched"] if is_far_fetched(read) else []),
            several,
        }
    )


def signs_of_clause(clause: Clause, asked: Iterable[str]) -> frozenset[str]:
    """The signs of a clause of which every word is accounted for, as if it stood alone."""
    return frozenset(
        {
            *signs_of_found(asked, NOTHING, whole=True),
            *signs_of_clauses([clause], asked),
            *(f"! {how} {each}" for how in ("word", "may") for each in asked if each != "read"),
            "! 1 of 1",
        }
    )


def signs_of_found(asked: Iterable[str], doubt: str, *, whole: bool) -> Iterator[str]:
    found = "+".join(sorted(asked)) or NOTHING
    yield f"! found {found}"
    yield f"! asks {doubt}"
    yield f"! found {found} {doubt} {'whole' if whole else 'part'}"


def signs_of_clauses(clauses: Sequence[Clause], asked: Iterable[str]) -> Iterator[str]:
    """The verbs, and what stands before them."""
    for each in clauses:
        act = act_of(each)
        yield f"! {act}"
        marks = (each.asked, "asked"), (each.negated, "negated"), (each.is_question, "question")
        yield " ".join(["! verb", act, *(mark for holds, mark in marks if holds)])
        for lead in each.front.leads:
            yield f"! lead {lead.value}"
            yield f"! lead {lead.value} {act}"
    if clauses:
        found = "+".join(sorted(asked)) or NOTHING
        yield f"! first {act_of(clauses[0])} {found}"
        yield f"! last {act_of(clauses[-1])} {found}"


def act_of(clause: Clause) -> str:
    return clause.act.value if clause.act is not None else NOTHING
