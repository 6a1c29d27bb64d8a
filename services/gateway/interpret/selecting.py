"""The conditions that say which records a clause is about."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.dates import When, combined, complement, start_of
from services.gateway.interpret.drafting import SKIPPED, Doubt, Draft, ManyTimes, Unclear
from services.gateway.interpret.lexicon import Part
from services.gateway.interpret.values import is_money
from services.gateway.interpret.writing import moment, number, typed, written_time

EQUAL = domain_pb2.COMPARISON_EQUAL
NOT_EQUAL = domain_pb2.COMPARISON_NOT_EQUAL
FROM = domain_pb2.COMPARISON_GREATER_OR_EQUAL
BELOW = domain_pb2.COMPARISON_LESS
NEGATING = (Part.NOT, Part.WITHOUT)
LONGEST_LIST = 20
# What leads to the words that a record is named by, what ends them, and what they end with.
LEADING = (Part.FILLER, Part.MARK, Part.TO, Part.OF, Part.WITH)
ENDS_SAID = (Part.ENTITY, Part.FIELD, Part.WHEN, Part.QUOTED, Part.SAYING, Part.VALUE)
SAYS = (Part.WORD, Part.NAME, Part.NUMBER, Part.OTHER_ENTITY)


def select(draft: Draft) -> None:
    """Take everything that says which records; for a new record, its values instead.

    Raises Unclear, ManyTimes.
    """
    take_ids(draft)
    take_times(draft)
    take_flags(draft)
    take_values(draft)
    take_numbers(draft)
    take_names(draft)
    take_words(draft)
    take_first(draft)


def take_ids(draft: Draft) -> None:
    found = draft.free(Part.ID)
    if len(found) == 1 and not draft.creates:
        mention = draft.mentions[found[0]]
        draft.operation.selector.id = draft.clause.words[mention.first].folded
        draft.take(found[0], "selector")


# times


def take_times(draft: Draft) -> None:
    """Days and times; one said here and one there belong together: tomorrow with Ana at 10."""
    found = draft.free(Part.WHEN)
    if not found or take_hours(draft, found):
        return
    index, when = found[0], draft.mentions[found[0]].meaning
    taken = [index]
    if len(found) > 1 and complement(when, draft.mentions[found[1]].meaning):
        when = combined(when, draft.mentions[found[1]].meaning)
        taken = found[:2]
    fields = [draft.field_before(at, draft.kind.is_dated) for at in taken]
    named = next((each for each in fields if each is not None), None)
    name = named[1] if named else draft.kind.date_field
    if name is None:
        return
    if draft.creates:
        if name not in draft.operation.fields and draft.kind.is_writable(name):
            draft.set(name, written_time(draft, name, index, when))
        else:
            return
    else:
        select_time(draft, name, index, when)
    for each in taken:
        draft.take(each, "date")
    if named:
        draft.take(named[0], "selector")


def take_hours(draft: Draft, found: list[int]) -> bool:
    """`tomorrow from 10am to 2pm`: two times of a day, with no more than `to` between them."""
    name = draft.kind.date_field
    if draft.creates or len(found) < 2 or name is None or not draft.kind.is_time(name):
        return False
    first, last = found[:2]
    one, two = draft.mentions[first].meaning, draft.mentions[last].meaning
    if len(found) > 2 and complement(one, two):
        one, last = combined(one, two), found[2]
        first, two = found[1], draft.mentions[found[2]].meaning
    days = [each for each in (one, two) if each.start is not None or each.end is not None]
    clear = all(each.at and not each.others and not each.impossible for each in (one, two))
    between = {each.part for each in draft.mentions[first + 1 : last]}
    if len(days) != 1 or not days[0].is_day or not clear or between - {*SKIPPED, Part.TO, Part.OF}:
        return False
    if one.at >= two.at:
        return False
    draft.where(name, moment(draft, first, one, days[0].start).isoformat(), FROM)
    draft.where(name, moment(draft, last, two, days[0].start).isoformat(), BELOW)
    for index in range(found[0], last + 1):
        if index in found or index > first:
            draft.take(index, "date")
    return True


def select_time(draft: Draft, name: str, index: int, when: When) -> None:
    if when.exact is not None:
        draft.where(name, when.exact.isoformat(), EQUAL)
        return
    if when.others:
        raise ManyTimes(index, when.readings)
    if when.impossible or (when.start is None and when.end is None):
        raise Unclear(Doubt(pb.AMBIGUITY_DATE))
    if not draft.kind.is_time(name):
        select_days(draft, name, when)
    elif when.at is not None and when.is_day and when.start is not None:
        draft.where(name, moment(draft, index, when, when.start).isoformat(), EQUAL)
    else:
        select_moments(draft, name, when)


def select_days(draft: Draft, name: str, when: When) -> None:
    if when.is_day and when.start is not None:
        draft.where(name, when.start.isoformat(), EQUAL)
        return
    if when.start is not None:
        draft.where(name, when.start.isoformat(), FROM)
    if when.end is not None:
        draft.where(name, when.end.isoformat(), BELOW)


def select_moments(draft: Draft, name: str, when: When) -> None:
    def begins(day: date) -> datetime:
        return start_of(day, draft.reading.time_zone)

    start = begins(when.start) if when.start is not None else None
    end = begins(when.end) if when.end is not None else None
    if when.part is not None and when.is_day and start is not None:
        first, last = when.part
        start, end = later(start, first), later(start, last) if last < 24 else end
    if start is not None:
        draft.where(name, start.isoformat(), FROM)
    if end is not None:
        draft.where(name, end.isoformat(), BELOW)


def later(midnight: datetime, hours: int) -> datetime:
    """So many hours by the clock, which may have been changed meanwhile."""
    there = midnight.replace(hour=0) + timedelta(hours=hours)
    return there.astimezone(UTC).astimezone(midnight.tzinfo)


def take_first(draft: Draft) -> None:
    """`the next appointment`, `her last invoice`: the one that a day or time puts first.

    What is next is still to come, and what has a time was last when that is over.
    """
    found = [each for each in draft.free(Part.NEXT, Part.LATEST) if is_of_kind(draft, each)]
    name = draft.kind.date_field
    by_id = draft.operation.selector.WhichOneof("target") == "id"
    if len(found) != 1 or name is None or draft.creates or by_id or draft.free(Part.EVERY):
        return
    comes = draft.part(found[0]) is Part.NEXT
    selector = draft.operation.selector
    is_dated = any(each.field == name for each in selector.conditions.conditions)
    now = draft.reading.now.astimezone(draft.reading.time_zone).replace(microsecond=0)
    if not is_dated and draft.kind.is_time(name):
        draft.where(name, now.isoformat(), FROM if comes else BELOW)
    elif not is_dated and comes:
        draft.where(name, now.date().isoformat(), FROM)
    ended = draft.kind.value_called(draft.lexicon.ended, draft.kind.is_selectable)
    told = {each.field for each in selector.conditions.conditions}
    if comes and ended is not None and ended[0] not in told:
        draft.where(*ended, NOT_EQUAL)  # what is cancelled does not come
    selector.conditions.SetInParent()
    if draft.reads or not is_part_of_name(draft):
        selector.first.by_field, selector.first.descending = name, not comes
    draft.take(found[0], "selector")
    # What is changed is shown first: `last` may mean the last that is still to come.
    draft.cautious |= not draft.reads


def is_part_of_name(draft: Draft) -> bool:
    """Whether several people may be meant: of Ana and of Ana, the next is asked for, not taken."""
    contains = domain_pb2.COMPARISON_CONTAINS
    told = [comparison for _, _, comparison in draft.targets]
    told += [each.comparison for each in draft.operation.selector.conditions.conditions]
    return contains in told


def is_of_kind(draft: Draft, index: int) -> bool:
    """Whether a word stands right beside the kind, in the singular: próxima consulta."""
    for beside in (draft.after(index), draft.before(index)):
        found = draft.mentions[beside] if 0 <= beside < len(draft.mentions) else None
        if found is None:
            continue
        if found.part is Part.FIELD and draft.kind.date_field in found.meaning:
            return True  # o próximo horário
        if found.part is Part.ENTITY:
            words = draft.clause.words[found.first : found.end]
            return " ".join(word.folded for word in words) not in draft.kind.plurals
    return False


# flags and values


def take_flags(draft: Draft) -> None:
    """`disputed invoices`, `clients without consent`, `with consent no`."""
    kind = draft.kind
    for place in draft.free(Part.FIELD):
        found = draft.field_at(place, kind.is_flag)
        asked = draft.part(draft.after(place)) is Part.OF
        if found is None or asked or found[1] in draft.operation.fields:
            continue
        name = found[1]
        before, answered = draft.before(place), draft.after(place)
        holds = True
        if draft.part(before) in NEGATING:
            holds = False
            draft.take(before, "negation")
        elif draft.part(answered) in (Part.YES, Part.NO):
            holds = draft.part(answered) is Part.YES
            draft.take(answered, "selector")
        if draft.creates and kind.is_writable(name):
            draft.set(name, holds)
            draft.take(place, f"field:{name}")
        elif not draft.creates and kind.is_selectable(name):
            draft.where(name, holds, EQUAL)
            draft.take(place, "selector")


def take_values(draft: Draft) -> None:
    """Values with words of their own: overdue, not paid, open or overdue."""
    wanted: dict[str, list[str]] = {}
    for index in draft.free(Part.VALUE):
        value = draft.mentions[index].meaning[0]
        before = draft.before(index)
        if draft.creates:
            if draft.kind.is_writable(value.field) and value.field not in draft.operation.fields:
                draft.set(value.field, value.value)
                draft.take(index, f"field:{value.field}")
        elif not draft.kind.is_selectable(value.field):
            continue
        elif draft.part(before) in (*NEGATING, Part.EXCEPT):
            draft.where(value.field, value.value, NOT_EQUAL)
            draft.take(before, "negation")
            draft.take(index, "selector")
        else:
            wanted.setdefault(value.field, []).append(value.value)
            draft.take(index, "selector")
    for name, values in wanted.items():
        several = len(set(values)) > 1
        draft.where(
            name,
            list(dict.fromkeys(values)) if several else values[0],
            domain_pb2.COMPARISON_IN if several else EQUAL,
        )


# numbers


def take_numbers(draft: Draft) -> None:
    for index in draft.free(Part.NUMBER):
        if index in draft.used:
            continue
        any(
            take(draft, index)
            for take in (numbered_field, compared_number, limit, money, code, numbered_label)
        )


def numbered_field(draft: Draft, index: int) -> bool:
    """A field and its number: phone 555-1234, number 1042."""
    found = draft.field_before(index, draft.kind.is_selectable)
    if found is None or draft.creates or draft.kind.is_dated(found[1]):
        return False
    name = found[1]
    end = index + 1
    if draft.kind.is_text(name):
        while draft.part(end) in (Part.NUMBER, Part.MARK) and not is_comma(draft, end):
            end += 1
        while draft.part(end - 1) is Part.MARK:
            end -= 1
        value: object = draft.text(index, end)
    else:
        value = typed_or_none(draft, name, index)
    if value is None:
        return False
    if draft.kind.is_code(name):
        draft.targets.append((name, str(value), EQUAL))
    else:
        draft.where(name, value, EQUAL)
    draft.take(found[0], "selector")
    for each in range(index, end):
        draft.take(each, "selector")
    return True


def is_comma(draft: Draft, index: int) -> bool:
    return draft.clause.words[draft.mentions[index].first].folded == ","


def typed_or_none(draft: Draft, name: str, index: int) -> object:
    if draft.kind.is_number(name) or draft.kind.is_code(name):
        return typed(draft, name, index)
    return None


def compared_number(draft: Draft, index: int) -> bool:
    """`over 500`, `less than 20`."""
    before = draft.before(index)
    name = numeric_field(draft)
    value = number(draft, index)
    if draft.creates or name is None or value is None:
        return False
    if draft.part(before) not in (Part.MORE, Part.LESS):
        return False
    more = draft.part(before) is Part.MORE
    draft.where(name, value, domain_pb2.COMPARISON_GREATER if more else BELOW)
    draft.take(before, "selector")
    draft.take(index, "selector")
    for each in draft.free(Part.FIELD):
        if name in draft.mentions[each].meaning:
            draft.take(each, "selector")
    return True


def numeric_field(draft: Draft) -> str | None:
    """The number that is named in the clause, else the only one there is."""
    named = [
        name
        for index in draft.free(Part.FIELD)
        for name in draft.mentions[index].meaning
        if draft.kind.is_number(name) and draft.kind.is_selectable(name)
    ]
    return named[0] if named else draft.kind.number_field


def limit(draft: Draft, index: int) -> bool:
    """`show 10 invoices`."""
    text = draft.text(index, index + 1)
    if not draft.reads or not text.isdecimal() or not 0 < int(text) <= 500:
        return False
    if draft.part(draft.after(index)) is not Part.ENTITY:
        return False
    draft.operation.limit = int(text)
    draft.take(index, "selector")
    return True


def money(draft: Draft, index: int) -> bool:
    """A sum that no field is named for, where the record has but one."""
    name, value = draft.kind.number_field, number(draft, index)
    text = draft.text(index, index + 1)
    sums = is_money(text) or not follows_entity(draft, index) or draft.kind.code_field is None
    if name is None or value is None or not sums or not text[0].isdecimal():
        return False
    if draft.creates and name not in draft.operation.fields and draft.kind.is_writable(name):
        draft.set(name, value)
        draft.take(index, f"field:{name}")
        return True
    if draft.creates or not is_money(text) or not draft.kind.is_selectable(name):
        return False
    draft.where(name, value, EQUAL)
    draft.take(index, "selector")
    return True


def follows_entity(draft: Draft, index: int) -> bool:
    return draft.part(draft.before(index)) in (Part.ENTITY, Part.FIELD)


def code(draft: Draft, index: int) -> bool:
    """What a record is known by: invoice 1042, INV-1002."""
    name = draft.kind.code_field
    leads = draft.part(draft.before(index)) in (Part.OF, Part.WITH, Part.MORE, Part.LESS)
    if name is None or typed(draft, name, index) is None:
        return False
    if leads and draft.text(index, index + 1).isdecimal():
        return False  # invoices of 500: a sum, or something else
    return take_target(draft, name, index, index + 1, EQUAL)


def numbered_label(draft: Draft, index: int) -> bool:
    """`room 12`: a number right after the kind, where records have names and no codes."""
    name = draft.kind.name_field
    if name is None or draft.creates or draft.part(draft.before(index)) is not Part.ENTITY:
        return False
    return take_target(draft, name, index, index + 1, EQUAL)


# names


def take_names(draft: Draft) -> None:
    """Who or what: words written with capitals, or in quotation marks."""
    for index in draft.free(Part.NAME, Part.QUOTED):
        if index in draft.used or not draft.text(index, index + 1).strip():
            continue
        found = draft.field_before(index, draft.kind.is_text)
        if found and usable(draft, found[1]):
            take_named(draft, found[0], found[1], index)
        elif draft.kind.name_field is not None:
            several = " " in draft.text(index, index + 1) or draft.part(index) is Part.QUOTED
            take_target(
                draft,
                draft.kind.name_field,
                index,
                index + 1,
                EQUAL if several else domain_pb2.COMPARISON_CONTAINS,
            )


def usable(draft: Draft, name: str) -> bool:
    if draft.creates:
        return draft.kind.is_writable(name) and name not in draft.operation.fields
    return draft.kind.is_selectable(name)


def take_named(draft: Draft, named: int, name: str, index: int) -> None:
    """A name right after its field: neighbourhood Centro, client Ana."""
    if name == draft.kind.name_field:
        # `the invoices of Ana and the client Bruno` may also mean the client.
        draft.cautious |= bool(draft.targets) and not draft.reads
        several = " " in draft.text(index, index + 1)
        comparison = EQUAL if several else domain_pb2.COMPARISON_CONTAINS
        take_target(draft, name, index, index + 1, comparison)
    elif draft.creates:
        draft.set(name, draft.text(index, index + 1))
        draft.take(index, f"field:{name}")
    else:
        draft.where(name, draft.text(index, index + 1), EQUAL)
        draft.take(index, "selector")
    draft.take(named, "selector")


def take_target(
    draft: Draft,
    name: str,
    first: int,
    end: int,
    comparison: domain_pb2.Comparison.ValueType,
) -> bool:
    """One of the names or numbers that records are told by; several must be joined.

    A part of a name may be that of somebody else: what changes is shown first.
    """
    if draft.creates and (name in draft.operation.fields or not draft.kind.is_writable(name)):
        return False
    text = draft.text(first, end)
    if draft.targets and draft.targets[-1][0] != name:
        add_to_target(draft, name, text, comparison)
    elif draft.targets and not (is_joined(draft, first) and len(draft.targets) < LONGEST_LIST):
        return False
    else:
        draft.targets.append((name, text, comparison))
    for index in range(first, end):
        draft.take(index, f"field:{name}" if draft.creates else "selector")
    if comparison == domain_pb2.COMPARISON_CONTAINS and not draft.creates and not draft.reads:
        draft.cautious = True
    return True


def add_to_target(
    draft: Draft, name: str, text: str, comparison: domain_pb2.Comparison.ValueType
) -> None:
    """Invoice 1042 of Ana: what is known of one record besides."""
    if draft.creates:
        draft.set(name, text)
    else:
        draft.where(name, text, comparison)


def is_joined(draft: Draft, index: int) -> bool:
    before = index - 1
    skipped = (Part.FILLER, Part.OF, Part.FIELD, Part.ENTITY)
    while before >= 0 and draft.mentions[before].part in skipped:
        before -= 1
    return before >= 0 and (draft.part(before) is Part.JOIN or is_comma(draft, before))


def take_words(draft: Draft) -> None:
    """Names without capitals: unknown words after `of`, or after the kind or a field."""
    leading: tuple[Callable[[int], bool], ...] = (
        lambda at: draft.part(at) in (Part.OF, Part.ENTITY, Part.NAMED),
        lambda at: draft.field_at(at, draft.kind.is_text) is not None,
    )
    name = draft.kind.name_field
    verbs = [each for each, found in enumerate(draft.mentions) if found.part is Part.VERB]
    for index in verbs[:1]:
        if draft.creates:
            take_added(draft, index + 1)
        else:
            take_removed(draft, index + 1)
    for index in draft.free(Part.WORD):
        before = draft.before(index)
        if name is None or index in draft.used or not any(each(before) for each in leading):
            continue
        end = words_end(draft, index)
        several = end - index > 1
        comparison = EQUAL if several else domain_pb2.COMPARISON_CONTAINS
        if take_target(draft, name, index, end, comparison):
            draft.cautious = draft.guessed = True


def take_added(draft: Draft, first: int) -> None:
    """`add milk and eggs to my list`, `remind me to call mom`: what a new record is named by."""
    name = draft.kind.name_field
    first = first_said(draft, first)
    if name is None or name in draft.operation.fields or draft.targets:
        return
    if not draft.kind.is_writable(name) or draft.part(first) is not Part.WORD:
        return
    end = last_said(draft, first)
    draft.set(name, draft.text(first, end))
    for index in range(first, end):
        draft.take(index, f"field:{name}")
    draft.cautious = draft.guessed = True


def take_removed(draft: Draft, first: int) -> None:
    """`take milk off my list`: what a record is named by, where the kind is said after it."""
    name = draft.kind.name_field
    first = first_said(draft, first)
    if name is None or draft.reads or draft.targets or draft.part(first) is not Part.WORD:
        return
    end = last_said(draft, first)
    if draft.part(draft.after(end - 1, LEADING)) is Part.ENTITY:
        take_target(draft, name, first, end, domain_pb2.COMPARISON_CONTAINS)
        draft.cautious = draft.guessed = True


def first_said(draft: Draft, first: int) -> int:
    while draft.part(first) in LEADING:
        first += 1
    return first


def last_said(draft: Draft, first: int) -> int:
    """One past a run of words from *first*, before the kind, a field, a day."""
    end = first
    while end < len(draft.mentions) and draft.mentions[end].part not in ENDS_SAID:
        end += 1
    while draft.mentions[end - 1].part not in SAYS:
        end -= 1
    return end


def words_end(draft: Draft, index: int) -> int:
    """One past a run of unknown words, with what stands within names."""
    end = index + 1
    while draft.part(end) is Part.WORD or (
        draft.part(end) is Part.OF
        and draft.part(end + 1) is Part.WORD
        and draft.clause.words[draft.mentions[end].first].folded in draft.lexicon.in_names
    ):
        end += 1
    return end
