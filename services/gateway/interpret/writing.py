"""The values that a clause gives to fields."""

import re
from datetime import date, datetime
from typing import Any

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.dates import When, combined, moments
from services.gateway.interpret.drafting import Doubt, Draft, ManyTimes, Unclear
from services.gateway.interpret.lexicon import Act, Part
from services.gateway.interpret.text import words_within
from services.gateway.interpret.values import amount

NAMING = (Part.NAME, Part.NUMBER, Part.ID, Part.QUOTED, Part.PRONOUN, Part.ENTITY)
ANSWERS = {Part.YES: True, Part.NO: False, Part.NOT: False}


def write(draft: Draft) -> None:
    """Take every value that the clause writes. Raises Unclear, ManyTimes."""
    if draft.creates:
        write_named(draft)
        write_after_fields(draft)
        write_saying(draft)
        return
    write_turned(draft)
    write_values(draft)
    write_new_time(draft)
    write_new_name(draft)
    write_saying(draft)


# create


def write_named(draft: Draft) -> None:
    """`named X`: what comes after it is the name, with or without capitals."""
    name = draft.kind.name_field
    for index in draft.free(Part.NAMED):
        end = text_ends(draft, index + 1)
        if name is None or end <= index + 1:
            continue
        write_text(draft, name, index + 1, end)
        draft.used.add(index)


def write_after_fields(draft: Draft) -> None:
    """`with phone 555`, `amount 150`: a field and its value right after it."""
    for index in draft.free(Part.FIELD):
        for name in draft.mentions[index].meaning:
            if not draft.kind.is_writable(name) or name in draft.operation.fields:
                continue
            if write_value(draft, name, index + 1, value_ends(draft, name, index)):
                draft.take(index, f"field:{name}")
                break


def value_ends(draft: Draft, name: str, index: int) -> int:
    if draft.kind.is_text(name):
        return text_ends(draft, index + 1)
    return next_field(draft, index + 1)


def next_field(draft: Draft, index: int) -> int:
    """Where the next field is named, from *index* on; else the end."""
    fields = [each for each in draft.free(Part.FIELD, Part.SAYING) if each >= index]
    return fields[0] if fields else len(draft.mentions)


def text_ends(draft: Draft, first: int) -> int:
    """One past a text that begins at a mention: before what cannot belong to it."""
    if draft.part(draft.after(first - 1)) is Part.QUOTED:
        return draft.after(first - 1) + 1
    end = first
    stops = (Part.FIELD, Part.WHEN, Part.SAYING, Part.VALUE, Part.VERB, Part.QUOTED)
    while end < len(draft.mentions) and draft.mentions[end].part not in stops:
        if end > first and ends_text(draft, end):
            break
        end += 1
    trailing = (*(set(Part) - {Part.NAME, Part.WORD, Part.NUMBER, Part.QUOTED, Part.OTHER_ENTITY}),)
    while end > first and draft.mentions[end - 1].part in trailing:
        end -= 1
    return end


def is_comma(draft: Draft, index: int) -> bool:
    return draft.clause.words[draft.mentions[index].first].folded == ","


def ends_text(draft: Draft, index: int) -> bool:
    named = draft.part(index) is Part.ENTITY
    return named or is_comma(draft, index) or names_another(draft, index)


def names_another(draft: Draft, index: int) -> bool:
    """Whether a preposition leads away from a text to a name: 555-1234 for Ana."""
    following = draft.part(draft.after(index))
    return draft.part(index) in (Part.OF, Part.TO) and following in (Part.NAME, Part.QUOTED)


# update


def write_turned(draft: Draft) -> None:
    """`the phone of Ana to 555 and the email to a@b.c`: fields, and what they turn into."""
    fields = draft.free(Part.FIELD)
    for place, index in enumerate(fields):
        end = fields[place + 1] if place + 1 < len(fields) else len(draft.mentions)
        turn = turn_within(draft, index, end)
        whose = draft.part(draft.after(index)) is Part.OF  # the phone of Ana: no value yet
        if turn is None and (whose or draft.free(Part.TO)):
            continue
        first = index if turn is None else turn
        for name in draft.mentions[index].meaning:
            if draft.kind.is_writable(name) and write_value(draft, name, first + 1, end):
                draft.take(index, f"field:{name}")
                if turn is not None:
                    draft.used.add(turn)
                break


def turn_within(draft: Draft, first: int, end: int) -> int | None:
    """The `to` that a new value follows: the first after what names the record.

    In Portuguese and Spanish the same word may also lead to whose it is: para Ana para 555.
    """
    found = [index for index in draft.free(Part.TO) if first < index < end]
    for turn in found:
        if any(each.part in NAMING for each in draft.mentions[:turn]):
            return turn
    return found[-1] if found else None


def write_values(draft: Draft) -> None:
    """`as paid`, `as disputed`; with a verb of marking also without `as`."""
    marks = draft.clause.act is Act.MARK
    turned = [index for index in draft.free(Part.TO) if index < len(draft.mentions) - 1]
    last = [each for each in draft.free(Part.VALUE) if names_whom_before(draft, each)][-1:]
    for index in [draft.after(each) for each in turned] or (last if marks else []):
        if index in draft.used:
            continue
        if draft.part(index) is Part.VALUE:
            value = draft.mentions[index].meaning[0]
            if draft.kind.is_writable(value.field):
                draft.set(value.field, value.value)
                draft.take(index, f"field:{value.field}")
        elif draft.part(index) in (Part.FIELD, Part.NOT):
            write_flag(draft, index)


def names_whom_before(draft: Draft, index: int) -> bool:
    return any(each.part in NAMING for each in draft.mentions[:index])


def write_flag(draft: Draft, index: int) -> None:
    """`as disputed`, `as not disputed`."""
    negated = draft.part(index) is Part.NOT
    found = draft.field_at(draft.after(index) if negated else index, draft.kind.is_flag)
    if found is None or not draft.kind.is_writable(found[1]):
        return
    draft.set(found[1], not negated)
    draft.take(found[0], f"field:{found[1]}")
    if negated:
        draft.take(index, "negation")


def write_new_time(draft: Draft) -> None:
    """The time that something moves to."""
    name = draft.kind.date_field
    whens = draft.free(Part.WHEN)
    turned = [index for index in whens if is_turned_to(draft, index)]
    moves = draft.clause.act is Act.MOVE
    if name is None or not draft.kind.is_writable(name) or name in draft.operation.fields:
        return
    if not turned and moves and len(whens) == 1:
        # `move it tomorrow` says either when to, or which one.
        turned, draft.cautious = whens, True
    if not turned:
        return
    index = turned[0]
    when = draft.mentions[index].meaning
    if when.start is None and when.at is not None:
        when = on_same_day(draft, when, [each for each in whens if each < index])
    draft.set(name, written_time(draft, name, index, when))
    draft.take(index, "date")


def on_same_day(draft: Draft, when: When, selecting: list[int]) -> When:
    """A new time alone is on the day that the record was found by."""
    for index in selecting:
        day: When = draft.mentions[index].meaning
        if day.is_day and not day.others:
            return combined(When(day.start, day.end), when)
    return when


def is_turned_to(draft: Draft, index: int) -> bool:
    before = draft.before(index)
    if draft.part(before) is Part.TO:
        return True
    # Some words for a time begin with it: às 15h, a las 3.
    to = draft.lexicon.parts[Part.TO]
    first = draft.clause.words[draft.mentions[index].first].folded
    named = any(each.part in NAMING for each in draft.mentions[:index])
    return draft.clause.act in (Act.MOVE, Act.UPDATE) and first in to and named


def write_new_name(draft: Draft) -> None:
    """`rename Ana Souza to Ana Lima`."""
    name = draft.kind.label
    if name is None or not draft.kind.is_text(name) or len(draft.operation.fields):
        return
    for turn in draft.free(Part.TO):
        index = draft.after(turn)
        named = any(each.part is Part.NAME for each in draft.mentions[:turn])
        if named and draft.part(index) in (Part.NAME, Part.QUOTED):
            write_text(draft, name, index, index + 1)
            draft.used.add(turn)
            draft.cautious = True
            return


def write_saying(draft: Draft) -> None:
    """`saying …`: the sentences that a record holds."""
    name = draft.kind.prose_field
    for index in draft.free(Part.SAYING):
        text = draft.after(index)
        if name is not None and draft.part(text) is Part.QUOTED:
            draft.take(index, f"field:{name}")
            write_text(draft, name, text, text + 1)


# one value


def write_value(draft: Draft, name: str, first: int, end: int) -> bool:
    """Write what the mentions from *first* to *end* say as the value of a field, if they can."""
    kind = draft.kind
    if kind.is_text(name):
        end = min(end, text_ends(draft, first))
        first = first_of_text(draft, first, end)
        return write_text(draft, name, first, end) if first < end else False
    wanted = wanted_parts(draft, name)
    for index in range(first, end):
        if index in draft.used or draft.mentions[index].part not in wanted:
            continue
        value = typed(draft, name, index)
        if value is not None:
            draft.set(name, value)
            draft.take(index, "date" if kind.is_dated(name) else f"field:{name}")
            return True
    return False


def first_of_text(draft: Draft, first: int, end: int) -> int:
    """Past what only leads to a text: `of`, `is`, a colon."""
    leading = (*(Part.FILLER, Part.MARK, Part.TO, Part.OF, Part.JOIN),)
    while first < end and draft.mentions[first].part in leading:
        first += 1
    return first


def wanted_parts(draft: Draft, name: str) -> tuple[Part, ...]:
    kind = draft.kind
    if kind.is_dated(name):
        return (Part.WHEN,)
    if kind.is_number(name):
        return (Part.NUMBER,)
    if kind.is_flag(name):
        return (Part.YES, Part.NO, Part.NOT)
    if kind.is_code(name):
        return (Part.NUMBER, Part.NAME, Part.WORD, Part.QUOTED)
    return (Part.VALUE, Part.QUOTED)


def typed(draft: Draft, name: str, index: int) -> Any:
    """A mention as a field's value, or None where it cannot be one."""
    kind, mention = draft.kind, draft.mentions[index]
    if kind.is_dated(name):
        return written_time(draft, name, index, mention.meaning)
    if kind.is_number(name):
        return number(draft, index)
    if kind.is_flag(name):
        return ANSWERS[mention.part]
    text = draft.text(index, index + 1)
    if kind.is_code(name):
        return text if re.search(kind.properties[name]["pattern"], text) else None
    if mention.part is Part.VALUE:
        return next((each.value for each in mention.meaning if each.field == name), None)
    return text if text in kind.properties[name].get("enum", ()) else None


def number(draft: Draft, index: int) -> float | None:
    month_first = draft.lexicon.calendar.month_first  # the languages that do also write 1,000.00
    return amount(draft.text(index, index + 1), comma_is_decimal=not month_first)


def write_text(draft: Draft, name: str, first: int, end: int) -> bool:
    text = draft.text(first, end).strip()
    if not text:
        return False
    draft.set(name, text)
    for index in range(first, end):
        draft.take(index, f"field:{name}")
    words = draft.clause.words[draft.mentions[first].first : draft.mentions[end - 1].end]
    if name == draft.kind.name_field and all(word.written.islower() for word in words):
        # Without capitals it cannot be told where a name ends.
        draft.cautious = True
    if any(word.quoted and asks_for_change(draft, word.written) for word in words):
        draft.cautious = True
    return True


def asks_for_change(draft: Draft, text: str) -> bool:
    """Whether a text that was given as a value could also have been meant as a request."""
    words = words_within(text)
    return any(
        act.changes for place in range(len(words)) for act in draft.lexicon.acts.at(words, place)[1]
    )


def written_time(draft: Draft, name: str, index: int, when: When) -> str:
    """A day or moment to be written. Raises Unclear where it is not one, ManyTimes for several."""
    if when.exact is not None:
        return when.exact.isoformat()
    if when.others:
        raise ManyTimes(index, when.readings)
    timed = draft.kind.is_time(name)
    if when.impossible or not when.is_day or when.start is None or (timed and when.at is None):
        raise Unclear(Doubt(pb.AMBIGUITY_DATE))
    if not timed:
        return when.start.isoformat()
    return moment(draft, index, when, when.start).isoformat()


def moment(draft: Draft, index: int, when: When, day: date) -> datetime:
    """Raises ManyTimes where clocks are changed at that time."""
    assert when.at is not None
    found = moments(day, when.at, draft.reading.time_zone)
    if len(found) > 1:
        choices = [When(each.date(), None, each.time(), exact=each) for each in found]
        raise ManyTimes(index, choices)
    return found[0]
