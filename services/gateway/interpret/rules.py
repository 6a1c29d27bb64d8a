"""From clauses to operations, by rules that anyone can follow (GAT-3, GAT-4). Waits for nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, EntityDescriptor, Synonyms
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format

from services.gateway.interpret import dates
from services.gateway.interpret.checking import Descriptors, properties_of, required_of
from services.gateway.interpret.clauses import Act, Clause, clauses_of
from services.gateway.interpret.lexicon import Lexicon, lexicon_of
from services.gateway.interpret.text import Word, find, fold, words_of
from services.gateway.reading import Reading

SURE = 0.95
LIKELY = 0.85
DOUBTFUL = 0.6
EVERYTHING = 10_000
NUMBER = re.compile(r"#?[0-9]{2,}[0-9A-Za-z-]*")
MONEY = re.compile(r"\d+(?:[.,]\d{3})*(?:[.,]\d{2})?")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
CONNECTORS = ("da", "de", "do", "dos", "das", "del", "e")
VERBS = {
    Act.READ: domain_pb2.VERB_READ,
    Act.CREATE: domain_pb2.VERB_CREATE,
    Act.SEND: domain_pb2.VERB_CREATE,
    Act.DELETE: domain_pb2.VERB_DELETE,
    Act.UPDATE: domain_pb2.VERB_UPDATE,
    Act.MARK: domain_pb2.VERB_UPDATE,
    Act.MOVE: domain_pb2.VERB_UPDATE,
    Act.CANCEL: domain_pb2.VERB_UPDATE,
}


@dataclass(frozen=True)
class Doubt:
    """Why a clause is not carried out as it stands."""

    ambiguity: pb.Ambiguity.ValueType
    # What an option could be, as words for the user.
    options: tuple[str, ...] = ()
    # The field that lacks a value.
    field: str = ""


@dataclass
class Draft:
    """An operation in the making, and the words that led to it."""

    clause: Clause
    descriptor: DomainDescriptor
    entity: EntityDescriptor
    locale: str
    properties: dict[str, dict[str, Any]]
    operation: pb.Operation = field(default_factory=pb.Operation)
    evidence: list[pb.Evidence] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    guesses: int = 0

    def use(self, place: tuple[int, int], part: str) -> None:
        words = self.clause.words[place[0] : place[1]]
        self.used.update(range(*place))
        self.evidence.append(pb.Evidence(start=words[0].start, end=words[-1].end, part=part))

    def free(self, place: tuple[int, int]) -> bool:
        return not self.used.intersection(range(*place))

    def where(self, name: str, value: Any, comparison: domain_pb2.Comparison.ValueType) -> None:
        condition = self.operation.selector.conditions.conditions.add(
            field=name, comparison=comparison
        )
        json_format.ParseDict(value, condition.value)

    def set(self, name: str, value: Any) -> None:
        self.operation.fields.update({name: value})


@dataclass(frozen=True)
class Read:
    """What the rules make of an instruction: operations, or the first doubt."""

    operations: list[pb.InterpretedOperation]
    doubt: Doubt | None

    @property
    def confidence(self) -> float:
        if self.doubt is not None or not self.operations:
            return 0.0
        return min(each.confidence for each in self.operations)


def read_by_rules(instruction: str, descriptors: Descriptors, reading: Reading) -> Read:
    """Understand *instruction*, or say what is in doubt. Raises InvalidInput for what is no text.

    One doubt leaves the whole undone: half of what was meant is not what was meant.
    """
    lexicon = lexicon_of(reading.locale)
    clauses = clauses_of(words_of(instruction), lexicon)
    operations: list[pb.InterpretedOperation] = []
    last: Draft | None = None
    for clause in clauses:
        if clause.negated and clause.changes:
            continue  # what is not to be done is not done
        if clause.asks_how and clause.act is not Act.READ:
            return Read(operations, Doubt(pb.AMBIGUITY_OPERATION))
        drafted = drafted_from(clause, descriptors, reading, lexicon, last)
        if isinstance(drafted, Doubt):
            return Read(operations, drafted)
        operations.append(finished(drafted, lexicon))
        last = drafted
    if not operations:
        return Read([], Doubt(pb.AMBIGUITY_OPERATION))
    return Read(operations, None)


def drafted_from(
    clause: Clause,
    descriptors: Descriptors,
    reading: Reading,
    lexicon: Lexicon,
    last: Draft | None,
) -> Draft | Doubt:
    found = entity_in(clause, descriptors, reading.locale)
    if found is None:
        return Doubt(pb.AMBIGUITY_DOMAIN, tuple(descriptors))
    descriptor, entity, place = found
    draft = Draft(clause, descriptor, entity, reading.locale, properties_of(entity))
    draft.operation.domain, draft.operation.entity = descriptor.name, entity.name
    if place is not None:
        draft.use(place, "entity")
    if clause.verb is not None:
        draft.use(clause.verb, "verb")
    doubt = decide_verb(draft)
    if doubt is not None:
        return doubt
    try:
        for step in (take_ids, take_values, take_when, take_names, take_numbers, take_fields):
            step(draft, lexicon, reading)
    except ValueError:
        return Doubt(pb.AMBIGUITY_DATE)
    return complete(draft, lexicon)


def entity_in(
    clause: Clause, descriptors: Descriptors, locale: str
) -> tuple[DomainDescriptor, EntityDescriptor, tuple[int, int] | None] | None:
    """The kind of record that a clause is about: the first that it names after its verb."""
    start = clause.verb[1] if clause.verb else 0
    if clause.act is Act.READ and clause.verb and clause.verb[0] > 0:
        start = 0
    named: list[tuple[int, int, DomainDescriptor, EntityDescriptor]] = []
    for descriptor in descriptors.values():
        for entity in descriptor.entities:
            phrases = [entity.name, *words_for(entity.synonyms, locale)]
            if entity is descriptor.entities[0]:
                phrases += words_for(descriptor.synonyms, locale)
            for phrase in phrases:
                place = find(clause.words, phrase, start)
                if place is not None:
                    named.append((place[0], -place[1], descriptor, entity))
    if named:
        first, last, descriptor, entity = min(named, key=lambda each: each[:2])
        return descriptor, entity, (first, -last)
    return None


def words_for(synonyms: Sequence[Synonyms], locale: str) -> list[str]:
    """What people of a language call it; the other languages' words where it has none."""
    own = [word for each in synonyms if each.locale == locale for word in each.words]
    return own or [word for each in synonyms for word in each.words]


def decide_verb(draft: Draft) -> Doubt | None:
    """Set the verb; reading where none is named. Says so where it is not offered."""
    act = draft.clause.act or Act.READ
    if draft.clause.act is None:
        draft.guesses += 1
    verb = VERBS[act]
    if act is Act.CANCEL:
        status = draft.properties.get("status", {})
        if "cancelled" in status.get("enum", ()):
            draft.set("status", "cancelled")
        else:
            verb = domain_pb2.VERB_DELETE
    draft.operation.verb = verb
    if verb not in draft.entity.operations:
        return Doubt(pb.AMBIGUITY_OPERATION)
    return None


# what follows takes one kind of word each


def take_ids(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    for place, word in enumerate(draft.clause.words):
        if UUID.fullmatch(word.folded) and draft.operation.verb != domain_pb2.VERB_CREATE:
            draft.operation.selector.id = word.folded
            draft.use((place, place + 1), "selector")


def take_values(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    """Values that have words of their own: a status, for instance."""
    marks = draft.clause.act in (Act.MARK, Act.UPDATE)
    for name, described in draft.properties.items():
        for value, by_locale in described.get("x-values", {}).items():
            for phrase in by_locale.get(draft.locale, [value]):
                place = find(draft.clause.words, phrase)
                if place is None or not draft.free(place):
                    continue
                if marks and is_assigned(draft.clause.words, place[0], lexicon):
                    draft.set(name, value)
                    draft.use(place, f"field:{name}")
                elif draft.operation.verb != domain_pb2.VERB_CREATE:
                    draft.where(name, value, domain_pb2.COMPARISON_EQUAL)
                    draft.use(place, "selector")
                break


def is_assigned(words: Sequence[Word], place: int, lexicon: Lexicon) -> bool:
    """Whether a value is what something is to become: `as paid`, `to paid`."""
    assigned = {fold(each) for each in (*lexicon.as_, *lexicon.to)}
    return place > 0 and words[place - 1].folded in assigned


def take_when(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    words = draft.clause.words
    when = dates.when_in(words, lexicon, reading)
    at = dates.time_in(words, lexicon)
    name = date_field(draft, words)
    if name is None or (when is None and at is None):
        return
    for place in (when.words if when else None, at[1] if at else None):
        if place is not None and draft.free(place):
            draft.use(place, "date")
    moves = draft.clause.act is Act.MOVE
    if draft.operation.verb == domain_pb2.VERB_CREATE or moves:
        write_when(draft, name, when, at[0] if at else None, reading)
    elif when is not None:
        select_when(draft, name, when, reading)


def date_field(draft: Draft, words: Sequence[Word]) -> str | None:
    """The field that a day is about: one that is named, else the first that can be selected by."""
    found = [
        name
        for name, described in draft.properties.items()
        if described.get("format") in ("date", "date-time") and described.get("x-selectable")
    ]
    for name in found:
        for phrase in field_words(draft, name):
            if find(words, phrase) is not None:
                return name
    timed = [name for name in found if draft.properties[name]["format"] == "date-time"]
    due = [name for name in found if name.startswith("due")]
    return next(iter([*timed, *due, *found]), None)


def write_when(
    draft: Draft, name: str, when: dates.When | None, at: time | None, reading: Reading
) -> None:
    if when is None or when.start is None:
        return
    if draft.properties[name]["format"] == "date":
        draft.set(name, when.start.isoformat())
    elif at is not None:
        draft.set(name, dates.moment(when.start, at, reading))


def select_when(draft: Draft, name: str, when: dates.When, reading: Reading) -> None:
    timed = draft.properties[name]["format"] == "date-time"

    def bound(day: Any) -> str:
        return dates.moment(day, time.min, reading) if timed else str(day.isoformat())

    if not timed and when.is_day and when.start is not None:
        draft.where(name, bound(when.start), domain_pb2.COMPARISON_EQUAL)
        return
    if when.start is not None:
        draft.where(name, bound(when.start), domain_pb2.COMPARISON_GREATER_OR_EQUAL)
    if when.end is not None:
        draft.where(name, bound(when.end), domain_pb2.COMPARISON_LESS)


def take_names(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    """People: words written with capitals, or in quotation marks."""
    target = name_field(draft)
    if target is None:
        return
    for place in names_in(draft, lexicon):
        name = written(draft.clause.words, place)
        draft.use(place, "selector")
        if draft.operation.verb == domain_pb2.VERB_CREATE:
            draft.set(target, name)
        elif place[1] - place[0] > 1:
            draft.where(target, name, domain_pb2.COMPARISON_EQUAL)
        else:
            draft.where(target, name, domain_pb2.COMPARISON_CONTAINS)
        return


def name_field(draft: Draft) -> str | None:
    return next((name for name in ("client_name", "name") if name in draft.properties), None)


def names_in(draft: Draft, lexicon: Lexicon) -> list[tuple[int, int]]:
    words, found, place = draft.clause.words, list[tuple[int, int]](), 0
    while place < len(words):
        if not is_person(draft, place, lexicon):
            place += 1
            continue
        end = place + 1
        while end < len(words) and (
            is_person(draft, end, lexicon)
            or (
                words[end].folded in CONNECTORS
                and end + 1 < len(words)
                and is_person(draft, end + 1, lexicon)
                and words[end].folded != "e"
            )
        ):
            end += 1
        found.append((place, end))
        place = end
    return sorted(found, key=lambda each: each[0] - each[1])


def is_person(draft: Draft, place: int, lexicon: Lexicon) -> bool:
    word = draft.clause.words[place]
    weekdays = {form for forms in lexicon.weekdays for form in forms}
    known = weekdays | set(lexicon.months) | lexicon.fillers
    first = place == 0 and draft.clause.act is None
    return (
        word.is_name
        and place not in draft.used
        and word.folded.split("'")[0].split("’")[0] not in known
        and not (first and not draft.clause.words[0].folded.isalpha())
    )


def written(words: Sequence[Word], place: tuple[int, int]) -> str:
    text = " ".join(word.written for word in words[place[0] : place[1]])
    return re.sub(r"['’]s$", "", text)


def take_numbers(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    """The number that a record is known by."""
    if "number" not in draft.properties:
        return
    for place, word in enumerate(draft.clause.words):
        if place in draft.used or not NUMBER.fullmatch(word.folded):
            continue
        after_amount = place > 0 and is_field_word(draft, "amount", place - 1)
        if after_amount:
            continue
        number = word.written.lstrip("#")
        if draft.operation.verb == domain_pb2.VERB_CREATE:
            draft.set("number", number)
        else:
            draft.where("number", number, domain_pb2.COMPARISON_EQUAL)
        draft.use((place, place + 1), "selector")
        return


def is_field_word(draft: Draft, name: str, place: int) -> bool:
    near = draft.clause.words[max(0, place - 1) : place + 1]
    return any(find(near, phrase) is not None for phrase in field_words(draft, name))


def take_fields(draft: Draft, lexicon: Lexicon, reading: Reading) -> None:
    """Fields that are named with a value: `change the phone of Ana to 555`, `amount 150`."""
    words = draft.clause.words
    writes = draft.operation.verb in (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE)
    if not writes:
        return
    for name, described in draft.properties.items():
        place = first_of(words, field_words(draft, name))
        if place is None or described.get("readOnly") or name in draft.operation.fields:
            continue
        value_place = value_after(draft, place[1], lexicon)
        if value_place is None or not draft.free(value_place):
            continue
        value = typed(described, written(words, value_place))
        if value is None:
            continue
        draft.set(name, value)
        draft.use(place, f"field:{name}")
        draft.use(value_place, f"field:{name}")


def first_of(words: Sequence[Word], phrases: Sequence[str]) -> tuple[int, int] | None:
    found = [place for phrase in phrases if (place := find(words, phrase)) is not None]
    return min(found) if found else None


def value_after(draft: Draft, place: int, lexicon: Lexicon) -> tuple[int, int] | None:
    """Where the value of a field stands: after `to`, else right after the field's own word."""
    words = draft.clause.words
    tos = [
        index
        for index in range(place, len(words))
        if words[index].folded in {fold(each) for each in lexicon.to}
    ]
    start = tos[-1] + 1 if tos and draft.operation.verb == domain_pb2.VERB_UPDATE else place
    while start < len(words) and words[start].folded in ("of", "de", ":", "is"):
        start += 1
    if start >= len(words):
        return None
    end = start + 1
    if draft.operation.verb == domain_pb2.VERB_UPDATE and tos:
        while end < len(words) and not words[end].is_mark:
            end += 1
    return start, end


def typed(described: Mapping[str, Any], text: str) -> Any:
    """A word as a property's value, or None where it cannot be one."""
    kind = described.get("type")
    kind = next(iter(kind), "string") if isinstance(kind, list) else kind
    if kind == "number":
        return amount(text)
    if kind == "boolean":
        answers = {"yes": True, "true": True, "sim": True, "si": True, "no": False, "nao": False}
        return answers.get(fold(text), {"false": False}.get(fold(text)))
    if "enum" in described:
        return text if text in described["enum"] else None
    return text


def amount(text: str) -> float | None:
    found = MONEY.search(text)
    if found is None:
        return None
    digits = found.group()
    if re.search(r"[.,]\d{2}$", digits):
        return float(re.sub(r"[.,]", "", digits[:-3]) + "." + digits[-2:])
    return float(re.sub(r"[.,]", "", digits))


def field_words(draft: Draft, name: str) -> list[str]:
    described = draft.properties.get(name, {})
    own: list[str] = described.get("x-synonyms", {}).get(draft.locale, [])
    return [*own, name.replace("_", " ")]


# what is missing, and how sure


def complete(draft: Draft, lexicon: Lexicon) -> Draft | Doubt:
    """The draft with its bounds, or what it lacks."""
    operation = draft.operation
    place = first_of(draft.clause.words, lexicon.every)
    if place is not None:
        draft.used.update(range(*place))
    if operation.verb == domain_pb2.VERB_CREATE:
        for name in required_of(draft.entity):
            if name not in operation.fields:
                return Doubt(pb.AMBIGUITY_MISSING_VALUE, field=name)
        return draft
    if operation.verb == domain_pb2.VERB_READ:
        return draft
    if operation.verb == domain_pb2.VERB_UPDATE and not operation.fields:
        moved = draft.clause.act is Act.MOVE
        return Doubt(pb.AMBIGUITY_DATE if moved else pb.AMBIGUITY_MISSING_VALUE)
    if place is not None:
        operation.max_affected = EVERYTHING
        if operation.selector.WhichOneof("target") is None:
            operation.selector.conditions.SetInParent()
            draft.guesses += 2
        return draft
    if operation.selector.WhichOneof("target") is None:
        return Doubt(pb.AMBIGUITY_TARGET)
    return draft


def finished(draft: Draft, lexicon: Lexicon) -> pb.InterpretedOperation:
    """The operation with its confidence: words that nothing accounts for make it doubtful."""
    left = [
        word
        for place, word in enumerate(draft.clause.words)
        if place not in draft.used
        and not word.is_mark
        and word.folded not in lexicon.fillers
        and word.folded not in lexicon.every
        and not is_known(draft, word, lexicon)
    ]
    reads = draft.operation.verb == domain_pb2.VERB_READ
    confidence = SURE if not left else (LIKELY if reads and len(left) == 1 else DOUBTFUL)
    confidence -= 0.1 * draft.guesses if reads else 0.2 * draft.guesses
    evidence = sorted(draft.evidence, key=lambda each: each.start)
    return pb.InterpretedOperation(
        operation=draft.operation, confidence=round(max(confidence, 0.1), 2), evidence=evidence
    )


def is_known(draft: Draft, word: Word, lexicon: Lexicon) -> bool:
    """Words that say what a thing is without adding anything: a field's name, a connective."""
    connectives = (
        *lexicon.before,
        *lexicon.after,
        *lexicon.between,
        *lexicon.at,
        *lexicon.as_,
        *lexicon.to,
        *lexicon.joins,
    )
    known = {part for phrase in connectives for part in fold(phrase).split()}
    fields = {
        fold(part)
        for name in draft.properties
        for phrase in field_words(draft, name)
        for part in phrase.split()
    }
    synonyms = {
        fold(part)
        for phrase in (
            *words_for(draft.entity.synonyms, draft.locale),
            *words_for(draft.descriptor.synonyms, draft.locale),
        )
        for part in phrase.split()
    }
    return word.folded in known | fields | synonyms
