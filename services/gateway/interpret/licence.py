"""What the words of an instruction allow to be changed, whoever reads them (GAT-4)."""

from gatehouse.domain.v1 import domain_pb2

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.lexicon import Act, Lead
from services.gateway.interpret.scene import Scene, is_known

ANY_CHANGE = frozenset({domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE})
ALLOWED: dict[Act | None, frozenset[domain_pb2.Verb.ValueType]] = {
    Act.READ: frozenset(),
    Act.CREATE: frozenset({domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE}),
    # `set an alarm` makes one.
    Act.UPDATE: frozenset({domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE}),
    Act.MARK: frozenset({domain_pb2.VERB_UPDATE}),
    Act.MOVE: frozenset({domain_pb2.VERB_UPDATE}),
    Act.CANCEL: frozenset({domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE}),
    # `remove 5 minutes from the timer` leaves it.
    Act.DELETE: frozenset({domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE}),
    # A verb of change that the rules cannot read: pay, close. It removes nothing.
    None: frozenset({domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE}),
}


def allowed_changes(scene: Scene) -> frozenset[domain_pb2.Verb.ValueType]:
    """The changes that a verb in the user's own words asks for.

    None where anything is negated or only asked about. What is quoted, given as a value, told of
    somebody, or stands in a request to read, asks for nothing.
    """
    clauses = scene.clauses
    if any(each.negated or each.is_question for each in clauses):
        return frozenset()
    return frozenset(verb for each in clauses for verb in allowed_by(scene, each))


def allowed_by(scene: Scene, clause: Clause) -> frozenset[domain_pb2.Verb.ValueType]:
    if clause.act is not None:
        return ALLOWED[clause.act]
    if any(not word.quoted and word.folded in scene.lexicon.reports for word in clause.words):
        return frozenset()
    if any(forbids(scene, clause, place) for place in range(len(clause.words))):
        return frozenset()
    return frozenset(
        verb
        for place, word in enumerate(clause.words)
        if not word.quoted and not is_known(scene, clause.words, place)
        for act in scene.lexicon.licences.at(clause.words, place)[1]
        for verb in ALLOWED[act]
    )


def worded_changes(scene: Scene) -> frozenset[domain_pb2.Verb.ValueType]:
    """The changes that any word could ask for, wherever it stands; none of what others said."""
    if any(not word.quoted and word.folded in scene.lexicon.reports for word in scene.words):
        return frozenset()
    words = scene.words
    named = [bool(scene.vocabulary.entities.at(words, place)[1]) for place in range(len(words))]
    asked = frozenset(
        verb
        for place, word in enumerate(words)
        # `today's schedule` schedules nothing: no other noun follows.
        if not word.quoted and (not named[place] or any(named[place + 1 :]))
        # `is it cancelled` cancels nothing.
        if not scene.vocabulary.values.at(words, place)[1]
        for act in scene.lexicon.licences.at(words, place)[1]
        for verb in ALLOWED[act]
    )
    return asked.union(*(ALLOWED[each.act] for each in scene.clauses if each.act))


def forbids(scene: Scene, clause: Clause, place: int) -> bool:
    """Whether a negation, a question or a condition stands at a place: I would rather not pay."""
    if clause.words[place].quoted:
        return False
    found = scene.lexicon.front.at(clause.words, place)[1]
    return any(each in (Lead.NEGATION, Lead.HOW, Lead.MAY, Lead.IF) for each in found)
