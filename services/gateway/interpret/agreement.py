"""Nothing is changed unless two readers agree that it is asked for (GAT-4).

The rules say what is asked for, and by which words; the second reader says how likely requests
that are put so, and of which the rules find that, ask for it. What the rules find is done when it
is likely enough; the more it would change, the likelier. Where they find no verb, the second reader
may name one. What is negated, only asked about or told of others stays the rules' to refuse.
"""

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.drafting import Doubt
from services.gateway.interpret.lexicon import Act, Lead, Part
from services.gateway.interpret.licence import worded_changes
from services.gateway.interpret.rules import (
    CAREFUL,
    VERBS,
    Read,
    read_as,
    read_by_rules,
    without_asides,
)
from services.gateway.interpret.scene import Scene, is_known
from services.gateway.interpret.second import Opinion, Weights, second_opinion, weighed
from services.gateway.interpret.text import Word
from services.gateway.interpret.verdict import (
    NAMES,
    asked_by,
    found_in,
    is_far_fetched,
    signs_of,
    signs_of_clause,
)

# What the rules account for word by word is done when it is at least so likely,
PLAIN = 0.2
# any other change that they have found when it is so,
AGREED = 0.67
# and removing when it is so.
DELETED = 0.9
# Reading without a verb that they account for word by word stands where no change is so likely.
PROTESTED = 0.5
# What else the rules take for reading is read when it is at least so likely,
READ = 0.55
# and what they did not understand, which changes nothing.
READABLE = 0.65
# A creation or an update that the rules have not found is made where a word allows it,
NAMED = 0.75
# and where none does, or it is one of several things that are asked for.
UNWORDED = 0.8
ACTS = {
    "read": Act.READ,
    "create": Act.CREATE,
    "update": Act.UPDATE,
}
# What cancelling comes to is the descriptors' to say, and no matter of the words;
ENDING = frozenset({"update", "delete"})
# nor is whether a record is there yet, where the rules account for every word.
WRITING = frozenset({"create", "update"})
PASSED_OVER = (Part.FILLER, Part.EVERY, Part.MARK)
UNCLEAR = Read([], Doubt(pb.AMBIGUITY_OPERATION))


def read_by_both(scene: Scene, weights: Weights) -> Read:
    """What two readers agree on, or what is in doubt. Raises InvalidInput for what is no text."""
    read = read_by_rules(scene)
    opinion = second_opinion(wanted(scene), scene, weights, signs_of(read, scene))
    asked = asked_by(read)
    if asked and is_agreed(scene, read, asked, opinion, weights):
        if is_plain(read) and asked - {"read"}:
            return read  # 98 of 100 are right, and how likely it is finds none of the other two
        return as_sure_as(read, likelihood(asked, scene, opinion, weights, plain=is_plain(read)))
    return named_by_second(scene, UNCLEAR if asked else read, opinion, weights)


def wanted(scene: Scene) -> list[Word]:
    """The words, without those of what is not to be done."""
    refused = [each for each in scene.clauses if each.negated]
    if not refused or len(refused) == len(scene.clauses):
        return scene.words
    without = {word for each in refused for word in each.words}
    return [each for each in scene.words if each not in without]


def is_agreed(
    scene: Scene, read: Read, asked: set[str], opinion: Opinion, weights: Weights
) -> bool:
    """Whether the second reader finds likely enough what the rules have found."""
    plain = is_plain(read)
    if asked - {"read"} or (plain and len(done(scene)) > 1):
        likely = likelihood(asked, scene, opinion, weights, plain=plain)
        return likely >= (PLAIN if plain else DELETED if "delete" in asked else AGREED)
    bare = not is_asked(scene) and not begins_with_noun(scene)
    if plain and not worded_changes(scene) and not (bare and opinion.changes >= PROTESTED):
        return True
    return not is_far_fetched(read) and opinion.of("read") >= READ


def is_plain(read: Read) -> bool:
    """Whether the rules have accounted for every word, with nothing left to ask."""
    return read.doubt is None and read.understood


def done(scene: Scene) -> list[Clause]:
    """The clauses that are not negated."""
    return [each for each in scene.clauses if not each.negated]


def likelihood(
    asked: set[str], scene: Scene, opinion: Opinion, weights: Weights, *, plain: bool
) -> float:
    """How likely the second reader finds what the rules have found, 0 to 1.

    Where they account for every word, each thing that is asked for is likely by itself: `show the
    one, move the other`.
    """
    clauses = done(scene)
    if not plain or len(clauses) < 2:
        return opinion.of(*alike(asked - {"read"} or asked, scene.clauses, plain=plain))
    opinions = [opinion]
    for each in clauses:
        own = asked & asked_with(each) or asked
        opinions.append(second_opinion(each.words, scene, weights, signs_of_clause(each, own)))
    return min(
        max(each.of(*alike({one}, clauses, plain=True)) for each in opinions) for one in asked
    )


def asked_with(clause: Clause) -> frozenset[str]:
    """What the verb of a clause can come to."""
    if clause.act is Act.CANCEL:
        return ENDING
    return frozenset({NAMES[VERBS[clause.act or Act.READ]]})


def alike(asked: set[str], clauses: list[Clause], *, plain: bool) -> set[str]:
    """*asked*, and what else the second reader may call it."""
    called = set(asked)
    if called & ENDING and any(each.act is Act.CANCEL for each in clauses):
        called |= ENDING
    if plain and called & WRITING:
        called |= WRITING
    return called


def begins_with_noun(scene: Scene) -> bool:
    """Whether it begins with what the descriptors name, where a verb would stand: `open invoices`.

    Of `format the calendar` the first word may be a verb that nobody here knows.
    """
    words = scene.words
    first = next((at for at in range(len(words)) if not is_passed_over(scene, at)), None)
    return first is not None and is_known(scene, words, first)


def is_passed_over(scene: Scene, place: int) -> bool:
    word = scene.words[place]
    meant = scene.lexicon.markers.at(scene.words, place)[1]
    return word.is_mark or any(each in PASSED_OVER for each in meant)


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
        named = told(scene, read_as(scene, Act.READ), best, weights)
        return as_sure_as(better(read, named), opinion.of(best))
    if best == "delete" or is_refused(scene):
        return read  # removing needs a verb that the rules know
    if opinion.of(best) < (NAMED if is_worded(scene, best) else UNWORDED):
        return read
    named = read_as(scene, ACTS[best])
    if any(each.operation.max_affected > 1 for each in found_in(named)):
        return read
    likely = min(CAREFUL, opinion.of(best))
    return as_sure_as(better(read, told(scene, named, best, weights)), likely)


def is_worded(scene: Scene, asked: str) -> bool:
    """Whether some word allows it, and it is all that is asked for."""
    words = {NAMES[each] for each in worded_changes(scene)}
    return asked in words and len(without_asides(scene)) == 1


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


def better(read: Read, other: Read) -> Read:
    """*other*, unless it has understood nothing either."""
    return other if found_in(other) or other.doubt is None else read


def as_sure_as(read: Read, likely: float) -> Read:
    """*read*, of which nothing is surer than it is likely; what only one names is confirmed."""
    for each in read.operations:
        each.confidence = min(each.confidence, likely)
    return read


def is_asked(scene: Scene) -> bool:
    """Whether a verb asks to read, or a question does: did I set an alarm?"""
    return any(each.act is Act.READ or each.asked for each in scene.clauses)


def is_refused(scene: Scene) -> bool:
    """Whether the words themselves speak against doing anything."""
    leads = {lead for each in scene.clauses for lead in each.front.leads}
    return bool(leads & {Lead.NEGATION, Lead.HOW, Lead.IF})
