"""Nothing is changed unless two readers agree that it is asked for (GAT-4).

The rules say what is asked for, and by which words; the second reader says how likely requests
that are put so ask for it. Where the rules find a change, the second reader must not think that
nothing is to be changed. Where they find no verb, it may name one that the words allow. What is
negated, only asked about or told of others stays the rules' to refuse.
"""

from collections.abc import Sequence

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.drafting import Doubt
from services.gateway.interpret.lexicon import Act, Lead
from services.gateway.interpret.licence import worded_changes
from services.gateway.interpret.rules import (
    CAREFUL,
    Read,
    read_as,
    read_by_rules,
    without_asides,
)
from services.gateway.interpret.scene import Scene
from services.gateway.interpret.second import Opinion, Weights, second_opinion, weighed
from services.gateway.interpret.text import Word

# What the rules account for word by word is done unless the opposite is at least so likely.
PROTESTED = 0.85
# Any other change that the rules have found is made when it is at least so likely…
AGREED = 0.66
# … or, beside other requests, when its own clause is surely one and the whole may have one.
PARTLY = 0.25
DELETED = 0.8
# … and what they have not found, when it is at least so likely.
NAMED = 0.77
# What the rules take for reading is read when that is at least so likely.
READ = 0.65
DOUBTED = 0.3
PERHAPS = 0.5
# `can I …` is a request when it is at least so likely.
ASKED_FOR = 0.88
# Reading what the rules did not understand changes nothing.
READABLE = 0.76
ACTS = {
    "read": Act.READ,
    "create": Act.CREATE,
    "update": Act.UPDATE,
}
NAMES = {
    domain_pb2.VERB_READ: "read",
    domain_pb2.VERB_CREATE: "create",
    domain_pb2.VERB_UPDATE: "update",
    domain_pb2.VERB_DELETE: "delete",
}
UNCLEAR = Read([], Doubt(pb.AMBIGUITY_OPERATION))


def read_by_both(scene: Scene, weights: Weights) -> Read:
    """What two readers agree on, or what is in doubt. Raises InvalidInput for what is no text."""
    read = read_by_rules(scene)
    opinion = second_opinion(wanted(scene), scene, weights)
    asked = asked_by(read)
    if asked and is_plain(scene, read, opinion, weights):
        return read
    changing = asked - {"read"}
    if changing:
        return changed(scene, read, changing, opinion, weights)
    if asked and is_readable(scene, read, opinion):
        return read
    return named_by_second(scene, UNCLEAR if asked else read, opinion, weights)


def found_in(read: Read) -> Sequence[pb.InterpretedOperation]:
    return read.doubt.so_far if read.doubt is not None else read.operations


def wanted(scene: Scene) -> list[Word]:
    """The words, without those of what is not to be done."""
    refused = [each for each in scene.clauses if each.negated]
    if not refused or len(refused) == len(scene.clauses):
        return scene.words
    without = {word for each in refused for word in each.words}
    return [each for each in scene.words if each not in without]


def is_plain(scene: Scene, read: Read, opinion: Opinion, weights: Weights) -> bool:
    """Whether the rules have accounted for every word, and the second reader does not protest."""
    if read.doubt is not None or not read.understood:
        return False
    is_asked = is_read(scene) or any(each.asked for each in scene.clauses)
    if asked_by(read) == {"read"} and is_asked and not worded_changes(scene):
        return True
    clauses = [each.words for each in scene.clauses if not each.negated]
    several = [second_opinion(each, scene, weights) for each in clauses if len(clauses) > 1]
    opinions = several or [opinion]
    return all(
        any(against(scene, each, one) < PROTESTED for each in opinions) for one in asked_by(read)
    )


def against(scene: Scene, opinion: Opinion, asked: str) -> float:
    """How likely a reader is wrong who finds *asked*.

    What cancelling comes to is the descriptors' to say, and no matter of the words.
    """
    if asked == "read":
        return opinion.changes
    if any(each.act is Act.CANCEL for each in scene.clauses):
        return opinion.of("read", "create", "none")
    if asked == "create":
        return opinion.of("read", "delete", "none")
    return 1 - opinion.of(asked)


def asked_by(read: Read) -> set[str]:
    return {NAMES[each.operation.verb] for each in found_in(read)}


def is_agreed(scene: Scene, opinion: Opinion, changing: set[str]) -> bool:
    """Whether the second reader finds changes likely; to delete, more than to change.

    What cancelling comes to is the descriptors' to say, and no matter of the words.
    """
    needed = DELETED if "delete" in changing else AGREED
    if any(each.act is Act.CANCEL for each in scene.clauses):
        changing = changing | {"update", "delete"}
    return opinion.of(*changing) >= needed


def changed(
    scene: Scene, read: Read, changing: set[str], opinion: Opinion, weights: Weights
) -> Read:
    """The change that the rules have found, where the second reader finds it likely too."""
    if is_agreed(scene, opinion, changing) and not (
        "read" in asked_by(read) and opinion.best == "read"
    ):
        return read
    opinions = [second_opinion(each.words, scene, weights) for each in scene.clauses]
    if (
        len(opinions) > 1
        and opinion.changes >= PARTLY
        and all(any(one.of(each) >= NAMED for one in opinions) for each in changing)
    ):
        return read
    if len(opinions) > 1 and any(one.of(*changing) >= NAMED for one in opinions):
        return UNCLEAR  # of `show these and delete those`, showing is not what was meant
    return named_by_second(scene, UNCLEAR, opinion, weights)


def named_by_second(scene: Scene, read: Read, opinion: Opinion, weights: Weights) -> Read:
    """What the second reader is sure of, where the rules have found no verb or another."""
    doubt = read.doubt
    if doubt is None or doubt.ambiguity not in (pb.AMBIGUITY_OPERATION, pb.AMBIGUITY_DOMAIN):
        return read
    best = opinion.best
    if best == "none":
        return read
    if best == "read":
        if opinion.of(best) < READABLE:
            return read
        return better(read, told(scene, read_as(scene, Act.READ), best, weights))
    needed = ASKED_FOR if is_permission(scene) or is_read(scene) else NAMED
    if opinion.of(best) < needed or is_refused(scene):
        return read
    if best == "delete" or len(without_asides(scene)) > 1:
        return read  # removing needs a verb that the rules know, as does one thing of several
    verb = next(verb for verb, name in NAMES.items() if name == best)
    if verb not in worded_changes(scene):
        return read
    named = read_as(scene, ACTS[best])
    if any(each.operation.max_affected > 1 for each in found_in(named)):
        return read
    return careful(better(read, told(scene, named, best, weights)))


def told(scene: Scene, read: Read, asked: str, weights: Weights) -> Read:
    """*read*, with the words as evidence that led the second reader to what is asked."""
    spans = weighed(wanted(scene), scene, weights, asked)
    for each in found_in(read):
        known = {(one.start, one.end) for one in each.evidence}
        added = [pb.Evidence(start=at, end=end, part="verb") for at, end in spans]
        every = [*each.evidence, *(one for one in added if (one.start, one.end) not in known)]
        del each.evidence[:]
        each.evidence.extend(sorted(every, key=lambda one: (one.start, one.end)))
    return read


def is_far_fetched(read: Read) -> bool:
    """Whether reading stands on a field alone, beside words that nothing accounts for.

    `When did the season start` is about no event, though events have a start.
    """
    return not read.understood and not any(
        one.part in ("entity", "selector") for each in found_in(read) for one in each.evidence
    )


def better(read: Read, other: Read) -> Read:
    """*other*, unless it has understood nothing either."""
    return other if found_in(other) or other.doubt is None else read


def careful(read: Read) -> Read:
    """What only the second reader has named is confirmed before it is done."""
    for each in read.operations:
        each.confidence = min(each.confidence, CAREFUL)
    return read


def is_readable(scene: Scene, read: Read, opinion: Opinion) -> bool:
    """Whether what the rules take for reading is.

    Where the descriptors' own nouns are named, it is some request; then only a change speaks
    against it.
    """
    if is_far_fetched(read):
        return False
    if opinion.of("read") >= (READ if is_read(scene) else READABLE):
        return True
    return opinion.changes < DOUBTED and opinion.of("read") >= PERHAPS


def is_read(scene: Scene) -> bool:
    """Whether a verb asks to read: did I set an alarm?"""
    return any(each.act is Act.READ for each in scene.clauses)


def is_refused(scene: Scene) -> bool:
    """Whether the words themselves speak against doing anything."""
    leads = {lead for each in scene.clauses for lead in each.front.leads}
    return bool(leads & {Lead.NEGATION, Lead.HOW, Lead.IF})


def is_permission(scene: Scene) -> bool:
    """`can I book a table?`: a polite request, or a question about what is allowed."""
    return any(Lead.MAY in each.front.leads or each.is_question for each in scene.clauses)
