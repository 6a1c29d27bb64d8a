"""From clauses to operations, by rules that anyone can follow (GAT-3, GAT-4). Waits for nothing.

An instruction is cut into clauses (clauses), the kind of record that each is about is found
(kinds), every word is told what it is (mentions), and an operation is drafted of them (drafting,
writing, selecting). What is in doubt is asked, never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.checking import violations
from services.gateway.interpret.clauses import Clause, Front
from services.gateway.interpret.drafting import (
    Choice,
    Doubt,
    Draft,
    ManyTimes,
    Unclear,
    add_condition,
)
from services.gateway.interpret.kinds import Named, kinds_of
from services.gateway.interpret.lexicon import Act, Lead, Part
from services.gateway.interpret.mentions import Mention, Reader
from services.gateway.interpret.scene import Scene, is_known
from services.gateway.interpret.selecting import select
from services.gateway.interpret.vocabulary import Kind
from services.gateway.interpret.writing import write

SURE = 0.95
# No verb says that it is to be read, or one word is not accounted for.
LIKELY = 0.85
# Understood, and to be confirmed: a plural that may mean many, or a part of a name.
CAREFUL = 0.75
# Words are left that nothing accounts for.
DOUBTFUL = 0.6
EVERYTHING = 10_000
# Which operation it is, and on what, is understood; the rest is asked for.
OF_VALUES = (pb.AMBIGUITY_MISSING_VALUE, pb.AMBIGUITY_DATE, pb.AMBIGUITY_TARGET)
LONGEST_REQUEST = 20
# Of more kinds than these, what each would come to is not worked out.
MOST_CHOICES = 5
LONGEST_CLAUSE = 200
VERBS = {
    Act.READ: domain_pb2.VERB_READ,
    Act.CREATE: domain_pb2.VERB_CREATE,
    Act.UPDATE: domain_pb2.VERB_UPDATE,
    Act.MARK: domain_pb2.VERB_UPDATE,
    Act.MOVE: domain_pb2.VERB_UPDATE,
    Act.CANCEL: domain_pb2.VERB_UPDATE,
    Act.DELETE: domain_pb2.VERB_DELETE,
}
ADDED = (Part.FIELD, Part.NUMBER, Part.WORD, Part.NAME, Part.QUOTED, Part.VALUE)
WHOSE = (Part.NAME, Part.NUMBER, Part.ID, Part.QUOTED)
MEANINGFUL = (
    *(Part.WORD, Part.NAME, Part.NUMBER, Part.QUOTED, Part.OTHER_ENTITY, Part.WHEN, Part.ID),
    *(Part.EXCEPT, Part.NOT, Part.WITHOUT, Part.MORE, Part.LESS, Part.VALUE, Part.SAYING),
    Part.LATEST,
)


@dataclass(frozen=True)
class Read:
    """What the rules make of an instruction: operations, or the first doubt."""

    operations: list[pb.InterpretedOperation]
    doubt: Doubt | None = None
    # Every word was accounted for: a model would not know better.
    understood: bool = True

    @property
    def confidence(self) -> float:
        if self.doubt is not None or not self.operations:
            return 0.0
        return min(each.confidence for each in self.operations)


def read_by_rules(scene: Scene) -> Read:
    """Understand an instruction, or say what is in doubt. Raises InvalidInput for what is no text.

    One doubt leaves the whole undone: half of what was meant is not what was meant.
    """
    clauses = without_asides(scene)
    longest = max((len(each.words) for each in clauses), default=0)
    if len(clauses) > LONGEST_REQUEST or longest > LONGEST_CLAUSE:
        return Read([], Doubt(pb.AMBIGUITY_OPERATION))  # no plain request
    drafts: list[Draft] = []
    try:
        for place, clause in enumerate(clauses):
            check_asked(clauses, place)
            if clause.negated:
                continue  # what is not to be done is not done
            drafts += drafted(scene, clause, drafts[-1] if drafts else None)
    except Unclear as unclear:
        return Read([], with_whole(unclear.doubt, clauses, drafts))
    if len(clauses) < len(scene.clauses):
        for draft in drafts:
            draft.cautious = True
    return read_of(drafts)


def without_asides(scene: Scene) -> list[Clause]:
    """The clauses that ask for something, where one does with a verb.

    What is told besides (`I am new here.`, `hey Olly,`) asks for nothing, unless it is negated, a
    condition, somebody else's words, or has a verb of change.
    """
    clauses = scene.clauses
    if not any(each.act for each in clauses):
        return clauses
    return [
        each
        for each, following in zip(clauses, [*clauses[1:], None], strict=True)
        if each.act or is_joined_to(each, following, scene) or not is_aside(scene, each)
    ]


def is_joined_to(clause: Clause, following: Clause | None, scene: Scene) -> bool:
    """`ignore that and delete …`: what is joined is asked for too."""
    joins = scene.lexicon.joins
    return clause.joined_by in joins or (following is not None and following.joined_by in joins)


def is_aside(scene: Scene, clause: Clause) -> bool:
    if clause.front.leads - {Lead.POLITE, Lead.REQUEST} or is_told(scene, clause):
        return False
    return not kinds_of(clause, scene.vocabulary, scene.lexicon).kinds


def read_as(scene: Scene, act: Act) -> Read:
    """Understand an instruction as one request whose verb is another's to say."""
    clause = whole_clause(scene, act)
    try:
        drafts = drafted(scene, clause, None)
    except Unclear as unclear:
        return Read([], unclear.doubt)
    return read_of(drafts)


def whole_clause(scene: Scene, act: Act) -> Clause:
    """All of an instruction as one clause; its verb is the first that could ask for *act*."""
    words = tuple(scene.words)
    verb = next(
        (
            (place, end)
            for place in range(len(words))
            if not words[place].quoted
            for end, found in [scene.lexicon.licences.at(words, place)]
            if any(each is None or VERBS[each] == VERBS[act] for each in found)
        ),
        (0, 0),
    )
    return Clause(words, Front(act, verb, frozenset()), 0, "", asked=False)


def read_of(drafts: Sequence[Draft]) -> Read:
    operations = [each for draft in drafts for each in finished(draft)]
    if not operations or len(operations) > LONGEST_REQUEST:
        return Read([], Doubt(pb.AMBIGUITY_OPERATION))
    understood = not any(draft.guessed or left_of(draft) for draft in drafts)
    return Read(operations, None, understood)


def check_asked(clauses: Sequence[Clause], place: int) -> None:
    """Raises Unclear where it is not clear that a change is asked for at all (GAT-4)."""
    clause = clauses[place]
    asks = Doubt(pb.AMBIGUITY_OPERATION)
    if clause.is_question:
        raise Unclear(asks)
    if clause.negated and clause.act is None:
        raise Unclear(asks)  # `don't`: whatever went before, it may be that
    before = clauses[place - 1] if place else None
    if before is None or not before.negated or before.sentence != clause.sentence:
        return
    if clause.changes and not clause.negated and clause.joined_by in ("and", "e", "y", "or", ","):
        raise Unclear(asks)  # `don't cancel it and delete her`: the negation may go on


def with_whole(doubt: Doubt, clauses: Sequence[Clause], drafts: Sequence[Draft]) -> Doubt:
    """*doubt*; an answer to it carries operations only where they are all that was asked."""
    if len(clauses) == 1:
        return doubt
    before = [each for draft in drafts for each in finished(draft)] if doubt.so_far else []
    return replace(
        doubt,
        choices=tuple(replace(each, operations=()) for each in doubt.choices),
        so_far=(*before, *doubt.so_far),
    )


# one clause


def drafted(scene: Scene, clause: Clause, last: Draft | None) -> list[Draft]:
    """What a clause comes to. Raises Unclear."""
    if clause.act is None and is_told(scene, clause):
        raise Unclear(Doubt(pb.AMBIGUITY_OPERATION))
    named = kinds_of(clause, scene.vocabulary, scene.lexicon)
    if not named.kinds and last is not None and refers_back(scene, clause):
        named = Named((last.kind,))
    if len(named.kinds) != 1:
        raise Unclear(which_kind(scene, clause, named))
    return [draft_of(scene, clause, named.kinds[0], last)]


def is_told(scene: Scene, clause: Clause) -> bool:
    """Whether somebody else's words are told, or a verb of change that is not asked for."""
    if any(not word.quoted and word.folded in scene.lexicon.reports for word in clause.words):
        return True
    return any(
        act is None or act.changes
        for place, word in enumerate(clause.words)
        if not word.quoted and not is_known(scene, clause.words, place)
        for act in scene.lexicon.licences.at(clause.words, place)[1]
    )


def refers_back(scene: Scene, clause: Clause) -> bool:
    """Whether a clause names nothing itself, and so speaks of what went before."""
    if clause.act is None or not clause.act.changes:
        return False
    rest = clause.words[clause.front.verb[1] :]
    first = clause.words[clause.front.verb[0]].folded
    said = not scene.lexicon.acts.at(clause.words, clause.front.verb[0])[1]  # cancélala
    pronoun = any(
        Part.PRONOUN in scene.lexicon.markers.at(rest, place)[1]
        for place, word in enumerate(rest)
        if not word.quoted
    )
    return bool(first) and (said or pronoun)


def which_kind(scene: Scene, clause: Clause, named: Named) -> Doubt:
    """Asks what it is about, with what each answer would come to."""
    kinds = named.kinds or scene.vocabulary.kinds
    ready = len(kinds) <= MOST_CHOICES
    choices = [
        Choice(kind.words[0], meant_by(scene, clause, kind) if ready else ()) for kind in kinds
    ]
    return Doubt(pb.AMBIGUITY_DOMAIN, choices=tuple(choices))


def meant_by(scene: Scene, clause: Clause, kind: Kind) -> tuple[pb.Operation, ...]:
    """What a clause comes to when it is about *kind*; nothing where words are left over."""
    try:
        draft = draft_of(scene, clause, kind, None)
    except Unclear:
        return ()
    return () if left_of(draft) else tuple(operations_of(draft))


def draft_of(scene: Scene, clause: Clause, kind: Kind, last: Draft | None) -> Draft:
    """The operation that a clause means, about *kind*. Raises Unclear.

    Where a time may be one of several, each is an answer to the question.
    """
    mentions = Reader(clause, kind, scene.vocabulary, scene.lexicon, scene.today).mentions()
    try:
        return made(scene, clause, kind, mentions, last)
    except ManyTimes as many:
        choices = []
        for when in many.readings:
            if when.impossible:
                continue
            taken = list(mentions)
            taken[many.index] = replace(mentions[many.index], meaning=when)
            choices.append(Choice(when, tried(scene, clause, kind, taken, last)))
        draft = begun(scene, clause, kind, mentions)
        doubt = Doubt(pb.AMBIGUITY_DATE, choices=tuple(choices), so_far=(so_far(draft),))
        raise Unclear(doubt) from None


def tried(
    scene: Scene, clause: Clause, kind: Kind, mentions: list[Mention], last: Draft | None
) -> tuple[pb.Operation, ...]:
    """What one reading of a time comes to; nothing where there is still something to ask."""
    try:
        draft = made(scene, clause, kind, mentions, last)
    except (Unclear, ManyTimes):
        return ()
    return tuple(each.operation for each in finished(draft))


def made(
    scene: Scene, clause: Clause, kind: Kind, mentions: list[Mention], last: Draft | None
) -> Draft:
    draft = begun(scene, clause, kind, mentions)
    try:
        complete(draft, last)
    except Unclear as unclear:
        if unclear.doubt.ambiguity not in OF_VALUES:
            raise
        raise Unclear(replace(unclear.doubt, so_far=(so_far(draft),))) from None
    if any(violations(each, scene.descriptors) for each in operations_of(draft)):
        raise Unclear(Doubt(pb.AMBIGUITY_OPERATION))
    return draft


def begun(scene: Scene, clause: Clause, kind: Kind, mentions: list[Mention]) -> Draft:
    """What is to be done, and to what kind of record. Raises Unclear."""
    draft = Draft(clause, kind, mentions, scene.instruction, scene.lexicon, scene.reading)
    draft.operation.domain, draft.operation.entity = kind.domain, kind.name
    decide_verb(draft)
    return draft


def so_far(draft: Draft) -> pb.InterpretedOperation:
    """What is understood of an operation that lacks something."""
    name_parts(draft)
    evidence = sorted(draft.evidence, key=lambda one: (one.start, one.end))
    return pb.InterpretedOperation(
        operation=draft.operation, confidence=DOUBTFUL, evidence=evidence
    )


def complete(draft: Draft, last: Draft | None) -> None:
    """Give the operation its values and its records. Raises Unclear, ManyTimes."""
    writes = draft.verb in (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE)
    if writes and draft.clause.act is not Act.CANCEL:
        write(draft)
    select(draft)
    refer_back(draft, last)
    refer_to_person(draft, last)
    name_parts(draft)
    check_fields_only(draft)
    check_whole(draft)


def decide_verb(draft: Draft) -> None:
    """Set the verb; reading where none is named. Raises Unclear where it is not offered."""
    act = draft.clause.act or Act.READ
    if draft.clause.act is None:
        draft.guessed = Lead.REQUEST in draft.clause.front.leads
    draft.operation.verb = VERBS[act]
    if act is Act.CREATE and adds_to_existing(draft):
        draft.operation.verb = domain_pb2.VERB_UPDATE
    if act is Act.CANCEL:
        end(draft)
    if draft.verb not in draft.kind.verbs:
        raise Unclear(Doubt(pb.AMBIGUITY_OPERATION))


def adds_to_existing(draft: Draft) -> bool:
    """`add the phone 555 to the client Ana`: `to` leads to the kind, and something goes before.

    `add milk to my list` says neither which field nor whose, and adds a record.
    """
    entities = draft.free(Part.ENTITY)
    if not entities or not any(index < entities[0] for index in draft.free(*ADDED)):
        return False
    fields = any(index < entities[0] for index in draft.free(Part.FIELD, Part.VALUE))
    whose = any(index > entities[0] for index in draft.free(*WHOSE))
    # One article may stand between: to the client.
    leading = draft.clause.words[: draft.mentions[entities[0]].first][-2:]
    led = any(word.folded in draft.lexicon.adding_to for word in leading)
    # `to my contacts` adds another contact, whatever of it is said.
    return led and (whose or (fields and not is_plural(draft, entities[0])))


def end(draft: Draft) -> None:
    """Cancel: set the value that says so; delete where there is none."""
    found = draft.kind.value_called(draft.lexicon.ended, draft.kind.is_writable)
    if found is not None:
        draft.set(*found)
    else:
        draft.operation.verb = domain_pb2.VERB_DELETE


def refer_back(draft: Draft, last: Draft | None) -> None:
    """`and cancel it`: the records of the clause before."""
    if last is None or draft.selects or draft.creates or draft.reads or draft.free(Part.ENTITY):
        return
    if last.kind != draft.kind:
        return
    for interpreted in finished(last)[:1]:
        if len(last.targets) <= 1 and not last.creates:
            draft.operation.selector.CopyFrom(interpreted.operation.selector)
            draft.several = is_bulk(last)
            draft.referred = True
    draft.cautious = True


def refer_to_person(draft: Draft, last: Draft | None) -> None:
    """`cancel Ana Souza's appointment and send her a reminder`: whoever went before."""
    if last is None or not draft.creates:
        return
    name, text = person_in(last, draft.kind)
    pronouns = draft.free(Part.PRONOUN, Part.THEIRS)
    verb = draft.clause.front.verb[0]
    with_clitic = not draft.lexicon.acts.at(draft.clause.words, verb)[1]  # envíale
    if (
        name is None
        or name in draft.operation.fields
        or draft.targets
        or not (pronouns or with_clitic)
    ):
        return
    if draft.kind.is_writable(name):
        draft.set(name, text)
        draft.cautious = True
        for index in pronouns[:1]:
            draft.take(index, f"field:{name}")


def person_in(last: Draft, kind: Kind) -> tuple[str | None, str]:
    """The field of *kind* that holds whom *last* is about, and that one's name.

    Who is created is one too: `create a client Maria Lopes and book an appointment for her`.
    """
    name = kind.name_field
    if name is None or len(last.targets) != 1:
        return None, ""
    field, text, comparison = last.targets[0]
    is_meant = field == name
    if last.creates and field == last.kind.name_field:
        called = {*last.kind.words, last.kind.name}
        is_meant = bool(called.intersection(kind.words_of(name)))
    return (name, text) if is_meant and comparison == domain_pb2.COMPARISON_EQUAL else (None, "")


def name_parts(draft: Draft) -> None:
    """The evidence of the verb, the kind, and the fields that a reading only names."""
    for index, each in enumerate(draft.mentions):
        if index in draft.used:
            continue
        if each.part is Part.VERB:
            draft.take(index, "verb")
        elif each.part is Part.ENTITY:
            draft.take(index, "entity")
        elif each.part is Part.FIELD and draft.reads:
            draft.take(index, f"field:{each.meaning[0]}")


def check_fields_only(draft: Draft) -> None:
    """`delete the phone of Ana` must not delete Ana. Raises Unclear."""
    deletes = draft.verb == domain_pb2.VERB_DELETE or draft.clause.act is Act.CANCEL
    # `my bed time alarm` is an alarm: only what stands right before the kind describes it.
    named = [each for each in draft.free(Part.FIELD) if draft.part(each + 1) is not Part.ENTITY]
    if deletes and named:
        kind = is_object(draft)
        raise Unclear(Doubt(pb.AMBIGUITY_TARGET if kind else pb.AMBIGUITY_OPERATION))


def is_object(draft: Draft) -> bool:
    """Whether the kind itself stands right after the verb: `delete the appointment at that time`.

    Of `delete the client phone` it is the field that does.
    """
    skipped = (Part.FILLER, Part.EVERY, Part.THEIRS, Part.OF)
    verbs = [index for index, each in enumerate(draft.mentions) if each.part is Part.VERB]
    if not verbs:
        return False
    at = draft.after(verbs[0], skipped)
    return draft.part(at) is Part.ENTITY and draft.part(at + 1) is not Part.FIELD


def check_whole(draft: Draft) -> None:
    """Raises Unclear for what a change lacks; sets how many records it may touch."""
    if draft.reads:
        return
    check_values(draft)
    if not draft.creates:
        check_target(draft)


def check_values(draft: Draft) -> None:
    for index in draft.free(Part.FIELD):
        if says_nothing_of(draft, index):
            raise Unclear(missing(draft.kind, draft.mentions[index].meaning[0]))
    if draft.verb == domain_pb2.VERB_UPDATE and not len(draft.operation.fields):
        raise Unclear(nothing_to_write(draft))
    given = {*draft.operation.fields, *(name for name, _, _ in draft.targets)}
    for name in draft.kind.required if draft.creates else ():
        if name not in given:
            raise Unclear(missing(draft.kind, name))


def check_target(draft: Draft) -> None:
    if draft.free(Part.EXCEPT):
        raise Unclear(Doubt(pb.AMBIGUITY_TARGET))
    if draft.free(Part.PRONOUN, Part.THEIRS) and not is_named(draft):
        raise Unclear(Doubt(pb.AMBIGUITY_TARGET))  # all of her appointments, but whose?
    many = draft.several or is_bulk(draft)
    if not draft.selects and not draft.free(Part.EVERY):
        raise Unclear(Doubt(pb.AMBIGUITY_TARGET))
    if many:
        # Where many are plainly asked for, the gateway confirms by how many they turn out to be.
        draft.cautious |= not draft.selects or not draft.free(Part.EVERY)
        draft.operation.max_affected = EVERYTHING
        draft.operation.selector.conditions.SetInParent()


def is_named(draft: Draft) -> bool:
    """Whether one record is told from the others, so that a pronoun can only mean it."""
    by_id = draft.operation.selector.WhichOneof("target") == "id"
    return by_id or bool(draft.targets) or draft.referred


def says_nothing_of(draft: Draft, index: int) -> bool:
    """Whether a field is named last, or with a colon, and has no value: message:"""
    following = draft.mentions[index].end
    words = draft.clause.words
    return following == len(words) or words[following].folded == ":"


def missing(kind: Kind, name: str) -> Doubt:
    return Doubt(pb.AMBIGUITY_MISSING_VALUE, lacking=kind.words_of(name)[0])


def nothing_to_write(draft: Draft) -> Doubt:
    """What an update lacks: the value of the field that it names, the time that it moves to."""
    for index in draft.free(Part.FIELD):
        return missing(draft.kind, draft.mentions[index].meaning[0])
    if draft.clause.act is Act.MOVE and draft.kind.date_field is not None:
        return Doubt(pb.AMBIGUITY_DATE)
    return Doubt(pb.AMBIGUITY_MISSING_VALUE)


def is_bulk(draft: Draft) -> bool:
    """Whether many are meant: all, or a plural that no names or numbers make single."""
    if draft.operation.selector.WhichOneof("target") == "id":
        return False
    if draft.free(Part.EVERY):
        return True
    plural = any(
        is_plural(draft, index)
        for index, each in enumerate(draft.mentions)
        if each.part is Part.ENTITY
    )
    codes = any(name == draft.kind.code_field for name, _, _ in draft.targets)
    return plural and not codes and len(draft.targets) <= 1


def is_plural(draft: Draft, index: int) -> bool:
    """Whether a word for the kind means several."""
    found = draft.mentions[index]
    words = draft.clause.words[found.first : found.end]
    return " ".join(word.folded for word in words) in draft.kind.plurals


# how sure


def finished(draft: Draft) -> list[pb.InterpretedOperation]:
    """The draft's operations, one for each name or number, with their confidence."""
    return [
        pb.InterpretedOperation(
            operation=each,
            confidence=confidence_of(draft),
            evidence=sorted(draft.evidence, key=lambda one: (one.start, one.end)),
        )
        for each in operations_of(draft)
    ]


def operations_of(draft: Draft) -> list[pb.Operation]:
    if not draft.targets:
        return [draft.operation]
    operations = []
    for name, text, comparison in draft.targets:
        operation = pb.Operation()
        operation.CopyFrom(draft.operation)
        if draft.creates:
            operation.fields.update({name: text})
        else:
            add_condition(operation, name, text, comparison)
        operations.append(operation)
    return operations


def left_of(draft: Draft) -> list[int]:
    """The mentions that mean something, and that nothing was made of."""
    return draft.free(*MEANINGFUL)


def confidence_of(draft: Draft) -> float:
    left = len(left_of(draft))
    if draft.reads:
        left += bool(draft.free(Part.THEIRS)) and not is_named(draft)
        if left > 1 or draft.guessed or (left and draft.clause.act is None):
            return DOUBTFUL
        return LIKELY if left or draft.clause.act is None else SURE
    if left or draft.guessed:
        return DOUBTFUL
    return CAREFUL if draft.cautious else SURE
