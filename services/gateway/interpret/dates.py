"""Days and times in words, in the clinic's zone (GAT-3). Waits for nothing."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo

from services.gateway.interpret.lexicon import Calendar, Lexicon
from services.gateway.interpret.text import Phrases, Word

ISO = re.compile(r"(\d{4}-\d{2}-\d{2})(?:t(\d{2}:\d{2}))?")
NUMERIC = re.compile(
    r"(\d{1,2})/(\d{1,2})(?:/(\d{4}|\d{2}))?|(\d{1,2})[.-](\d{1,2})[.-](\d{4}|\d{2})"
)
CLOCK = re.compile(r"(\d{1,2})(?::(\d{2})|h(\d{2})?|\.(\d{2}))?(am|pm|hs?|hrs)?")
DAY_NUMBER = re.compile(r"(\d{1,2})(?:st|nd|rd|th|º|o|ª)?")
YEAR = re.compile(r"(?:19|20)\d\d")
# A bare hour up to this one may be of the night or of the afternoon.
LAST_UNCLEAR_HOUR = 6
LONGEST_SPAN = 3650
# From one day to another.
MOVES_BETWEEN = 2
DAY = timedelta(days=1)
DAYS_OF = {"day": 1, "week": 7}
MONTHS_OF = {"month": 1, "year": 12}


@dataclass(frozen=True)
class When:
    """What words say of time: days from *start* up to and without *end*, and a time of day.

    None is open. *others* are what the words may mean as well; *impossible* are words for a day or
    a time that does not exist.
    """

    start: date | None = None
    end: date | None = None
    at: time | None = None
    # Hours of the day, for a part of it.
    part: tuple[int, int] | None = None
    # Set where the clocks leave a choice: this very moment.
    exact: datetime | None = None
    others: tuple["When", ...] = ()
    impossible: bool = False

    @property
    def is_day(self) -> bool:
        return self.start is not None and self.end == self.start + DAY

    @property
    def readings(self) -> tuple["When", ...]:
        """Everything that it may mean, each for itself."""
        return (replace(self, others=()), *self.others)


@dataclass(frozen=True)
class Found:
    """When, and which words say so."""

    first: int
    end: int
    when: When
    # Only the number of the day is said: the 25th.
    bare: bool = False


IMPOSSIBLE = When(impossible=True)
Recogniser = Callable[["Reader", int], Found | None]


def day(value: date) -> When:
    return When(value, value + DAY)


def found_in(
    words: Sequence[Word],
    lexicon: Lexicon,
    today: date,
    *,
    ahead: bool = False,
    moves: bool = False,
) -> list[Found]:
    """Everything that *words* say of time, in their order.

    A day without its year is the nearest one, or with *ahead* the next. Where something *moves*
    from a day to another, the two are not the days between them.
    """
    reader = Reader(words, lexicon.calendar, today, ahead)
    # `mañana por la mañana`: what is a part of the day is no day.
    parts = places_of(reader.scan((part_of_day,)))
    days = reader.scan(DAYS, parts)
    days = days if moves and len(days) == MOVES_BETWEEN else ranged(reader, days)
    times = reader.scan(TIMES, places_of(days))
    return joined(reader, sorted([*days, *times], key=lambda each: each.first))


def places_of(found: Sequence[Found]) -> frozenset[int]:
    return frozenset(place for each in found for place in range(each.first, each.end))


@dataclass(frozen=True)
class Reader:
    """Words, and what is needed to read days in them."""

    words: Sequence[Word]
    calendar: Calendar
    today: date
    ahead: bool

    @cached_property
    def known(self) -> "Known":
        return known_of(self.calendar)

    def scan(
        self, recognisers: Sequence[Recogniser], taken: frozenset[int] = frozenset()
    ) -> list[Found]:
        """What is recognised, from left to right, without the places in *taken*."""
        found: list[Found] = []
        place = 0
        while place < len(self.words):
            each = self.first_of(recognisers, place) if place not in taken else None
            if each is not None and taken.intersection(range(each.first, each.end)):
                each = None
            if each is not None:
                found.append(each)
            place = each.end if each is not None else place + 1
        return found

    def first_of(self, recognisers: Sequence[Recogniser], place: int) -> Found | None:
        if self.words[place].quoted:
            return None
        for recognise in recognisers:
            try:
                found = recognise(self, place)
            except (ValueError, OverflowError):
                return Found(place, place + 1, IMPOSSIBLE)
            if found is not None:
                return found
        return None

    def folded(self, place: int) -> str:
        return self.words[place].folded if 0 <= place < len(self.words) else ""

    def skip(self, phrases: Phrases[bool], place: int) -> int:
        """One past the phrase at *place*, or *place*."""
        return phrases.at(self.words, place)[0] if place < len(self.words) else place

    def before(self, phrases: Phrases[bool], place: int) -> int | None:
        """Where a phrase begins that ends right before *place*."""
        return next(
            (at for at in range(max(0, place - 4), place) if self.skip(phrases, at) == place), None
        )

    def in_year(self, month: int, number: int) -> date:
        """The day of the year that is nearest, or next. Raises ValueError for none."""
        candidates = [
            each
            for year in (self.today.year - 1, self.today.year, self.today.year + 1)
            if (each := date_or_none(year, month, number)) is not None
        ]
        if self.ahead:
            candidates = [each for each in candidates if each >= self.today]
        if not candidates:
            raise ValueError("there is no such day")
        return min(candidates, key=lambda each: abs(each - self.today))


class Known:
    """A calendar's phrases, made to be recognised."""

    def __init__(self, calendar: Calendar) -> None:
        def one(*groups: Sequence[str]) -> Phrases[bool]:
            return Phrases([(each, True) for group in groups for each in group])

        self.days = Phrases(list(calendar.days.items()))
        self.weekdays = Phrases(
            [(each, index) for index, forms in enumerate(calendar.weekdays) for each in forms]
        )
        self.months = Phrases([(each, index) for index, each in enumerate(calendar.months, 1)])
        self.units = Phrases([(e, unit) for unit, forms in calendar.units.items() for e in forms])
        self.shift_before = Phrases(
            [
                *((each, 0) for each in calendar.this),
                *((each, 1) for each in calendar.next_before),
                *((each, -1) for each in calendar.last_before),
            ]
        )
        self.shift_after = Phrases(
            [
                *((each, 1) for each in calendar.next_after),
                *((each, -1) for each in calendar.last_after),
            ]
        )
        self.in_before, self.ago_before = one(calendar.in_before), one(calendar.ago_before)
        self.ago_after, self.within = one(calendar.ago_after), one(calendar.within)
        self.on_the, self.glue = one(calendar.on_the), one(calendar.glue)
        self.between, self.from_ = one(calendar.between), one(calendar.from_)
        self.up_to, self.at = one(calendar.up_to), one(calendar.at)
        self.hours, self.half_past = one(calendar.hours), one(calendar.half_past)
        self.named_times = Phrases(list(calendar.named_times.items()))
        self.parts = Phrases(list(calendar.parts.items()))
        self.edges = one(calendar.before, calendar.until, calendar.since, calendar.after)
        self.bounds = Phrases(
            [
                *((each, "before") for each in calendar.before),
                *((each, "until") for each in calendar.until),
                *((each, "since") for each in calendar.since),
                *((each, "after") for each in calendar.after),
            ]
        )


_KNOWN: dict[int, Known] = {}


def known_of(calendar: Calendar) -> Known:
    # There are as many calendars as languages, and they live as long as the program.
    if id(calendar) not in _KNOWN:
        _KNOWN[id(calendar)] = Known(calendar)
    return _KNOWN[id(calendar)]


@lru_cache(maxsize=512)
def date_or_none(year: int, month: int, number: int) -> date | None:
    try:
        return date(year, month, number)
    except ValueError:
        return None


# days


def named_day(reader: Reader, place: int) -> Found | None:
    """today, tomorrow"""
    found = reader.known.days.meant(reader.words, place)
    if found is None:
        return None
    return Found(place, found[0], day(reader.today + found[1] * DAY))


def iso_day(reader: Reader, place: int) -> Found | None:
    """2026-11-23"""
    found = ISO.fullmatch(reader.folded(place))
    if found is None:
        return None
    when = day(date.fromisoformat(found[1]))
    if found[2]:
        when = replace(when, at=time.fromisoformat(found[2]))
    return Found(place, place + 1, when)


def numeric_day(reader: Reader, place: int) -> Found | None:
    """3/4, in the order that the language has; what fits only the other order is asked about."""
    found = NUMERIC.fullmatch(reader.folded(place))
    if found is None:
        return None
    one, two = int(found[1] or found[4]), int(found[2] or found[5])
    year = found[3] or found[6]
    number, month = (two, one) if reader.calendar.month_first else (one, two)
    try:
        return Found(place, place + 1, day(on(reader, year, month, number)))
    except ValueError:
        other = day(on(reader, year, number, month))
        return Found(place, place + 1, replace(other, others=(other,), impossible=True))


def on(reader: Reader, year: str | None, month: int, number: int) -> date:
    if year is None:
        return reader.in_year(month, number)
    return date(int(year) + (2000 if len(year) == 2 else 0), month, number)


def weekday(reader: Reader, place: int) -> Found | None:
    """friday, next friday, sexta que vem; with its date where one follows"""
    known = reader.known
    shifted = known.shift_before.meant(reader.words, place)
    start = shifted[0] if shifted else place
    found = known.weekdays.meant(reader.words, start) if start < len(reader.words) else None
    if found is None:
        return None
    end, index = found
    after = known.shift_after.meant(reader.words, end) if end < len(reader.words) else None
    shift = shifted[1] if shifted else (after[1] if after else None)
    if shift is None:
        dated = date_after(reader, end, index) or week_after(reader, end, index)
        if dated is not None:
            return replace(dated, first=place)
    return Found(place, after[0] if after else end, weekday_from(reader.today, index, shift))


def weekday_from(today: date, index: int, shift: int | None) -> When:
    """That weekday: the last one, or the next. On the day itself a bare name may mean either."""
    if shift is not None and shift < 0:
        return day(today - ((today.weekday() - index) % 7 or 7) * DAY)
    ahead = (index - today.weekday()) % 7
    if ahead == 0 and shift is None:
        return replace(day(today), others=(day(today + 7 * DAY),))
    return day(today + (ahead or (0 if shift == 0 else 7)) * DAY)


def date_after(reader: Reader, place: int, index: int) -> Found | None:
    """The date after a weekday: friday, march 6; impossible when it is another weekday."""
    start = place + 1 if reader.folded(place) == "," else place
    start = reader.skip(reader.known.on_the, start)
    if start >= len(reader.words):
        return None
    found = reader.first_of((iso_day, numeric_day, month_day), start)
    if found is None or found.when.start is None:
        return found
    return found if found.when.start.weekday() == index else replace(found, when=IMPOSSIBLE)


def week_after(reader: Reader, place: int, index: int) -> Found | None:
    """tuesday of next week"""
    start = reader.skip(reader.known.within, place)
    found = span(reader, start) if start < len(reader.words) else None
    if found is None or found.when.start is None or found.when.end is None:
        return None
    if found.when.end - found.when.start != 7 * DAY:
        return None
    return replace(found, when=day(found.when.start + index * DAY))


def span(reader: Reader, place: int) -> Found | None:
    """this week, mês passado, the last 7 days"""
    known = reader.known
    before = known.shift_before.meant(reader.words, place)
    start = before[0] if before else place
    if start >= len(reader.words):
        return None
    if before and reader.folded(start).isdecimal():
        return counted_span(reader, place, start, before[1])
    unit = known.units.meant(reader.words, start)
    if unit is None or unit[1] == "day":
        return None
    after = known.shift_after.meant(reader.words, unit[0]) if unit[0] < len(reader.words) else None
    if before is None and after is None:
        return None
    shift = before[1] if before else after[1] if after else 0
    end = unit[0] if before else after[0] if after else unit[0]
    return Found(place, end, When(*unit_from(reader.today, unit[1], shift)))


def counted_span(reader: Reader, place: int, start: int, shift: int) -> Found | None:
    """the last 7 days, today included; the next 2 weeks, from today on

    Whole years back have 365 days each, as plans count them: so many a user of Premium may see.
    """
    if start + 1 >= len(reader.words):
        return None
    unit = reader.known.units.meant(reader.words, start + 1)
    if unit is None or shift == 0:
        return None
    today, count = reader.today, int(reader.folded(start))
    if shift > 0:
        return Found(place, unit[0], When(today, moved(today, unit[1], count)))
    years, rest = divmod(count * MONTHS_OF.get(unit[1], 0), 12)
    start_day = moved(today, "day", -365 * years) if years and not rest else None
    start_day = start_day or moved(today, unit[1], -count)
    return Found(place, unit[0], When(start_day + DAY, today + DAY))


def moved(day: date, unit: str, count: int) -> date:
    """The day so many units later, or earlier; at most LONGEST_SPAN days.

    A month later is the same day of it, or its last where it has none such: 31 January to 28
    February.
    """
    count = max(min(count, LONGEST_SPAN), -LONGEST_SPAN)
    if unit in MONTHS_OF:
        first = first_of_month(day, count * MONTHS_OF[unit])
        last = (first_of_month(first, 1) - DAY).day
        there = first.replace(day=min(day.day, last))
    else:
        there = day + count * DAYS_OF[unit] * DAY
    return max(min(there, day + LONGEST_SPAN * DAY), day - LONGEST_SPAN * DAY)


def unit_from(today: date, unit: str, shift: int) -> tuple[date, date]:
    """The first day of a week, month or year, and the first after it."""
    if unit == "week":
        monday = today - today.weekday() * DAY + shift * 7 * DAY
        return monday, monday + 7 * DAY
    if unit == "year":
        return date(today.year + shift, 1, 1), date(today.year + shift + 1, 1, 1)
    return first_of_month(today, shift), first_of_month(today, shift + 1)


def first_of_month(today: date, shift: int) -> date:
    index = today.year * 12 + today.month - 1 + shift
    return date(index // 12, index % 12 + 1, 1)


def distance(reader: Reader, place: int) -> Found | None:
    """in 3 days, 2 weeks ago, há 3 dias"""
    known = reader.known
    ahead, back = reader.skip(known.in_before, place), reader.skip(known.ago_before, place)
    start = max(ahead, back)
    if not reader.folded(start).isdecimal() or start + 1 >= len(reader.words):
        return None
    unit = known.units.meant(reader.words, start + 1)
    if unit is None:
        return None
    after = reader.skip(known.ago_after, unit[0])
    if start == place and after == unit[0]:
        return None
    count = int(reader.folded(start))
    ago = back > place or after > unit[0]
    return Found(place, after, day(moved(reader.today, unit[1], -count if ago else count)))


def month_day(reader: Reader, place: int) -> Found | None:
    """March 3, 3 de março de 2026, 3rd of March; a month alone after a preposition"""
    known = reader.known
    number = DAY_NUMBER.fullmatch(reader.folded(place))
    if number is not None:
        start = reader.skip(known.glue, place + 1)
        month = known.months.meant(reader.words, start) if start < len(reader.words) else None
        if month is None:
            return None
        return with_year(reader, place, month[0], month[1], int(number[1]))
    month = known.months.meant(reader.words, place)
    if month is None:
        return None
    start = reader.skip(known.on_the, month[0])
    number = DAY_NUMBER.fullmatch(reader.folded(start)) if reader.calendar.month_first else None
    if number is not None:
        return with_year(reader, place, start + 1, month[1], int(number[1]))
    return whole_month(reader, place, *month)


def with_year(reader: Reader, place: int, end: int, month: int, number: int) -> Found:
    start = reader.skip(reader.known.glue, end)
    if YEAR.fullmatch(reader.folded(start)):
        return Found(place, start + 1, day(date(int(reader.folded(start)), month, number)))
    return Found(place, end, day(reader.in_year(month, number)))


def whole_month(reader: Reader, place: int, end: int, month: int) -> Found | None:
    start = reader.skip(reader.known.glue, end)
    if YEAR.fullmatch(reader.folded(start)):
        first = date(int(reader.folded(start)), month, 1)
        return Found(place, start + 1, When(first, first_of_month(first, 1)))
    if reader.before(reader.known.within, place) is None:
        return None  # `may` alone is seldom a month
    first = reader.in_year(month, 1)
    return Found(place, end, When(first, first_of_month(first, 1)))


def whole_year(reader: Reader, place: int) -> Found | None:
    """in 2026"""
    if not YEAR.fullmatch(reader.folded(place)):
        return None
    known = reader.known
    if all(reader.before(each, place) is None for each in (known.within, known.from_, known.edges)):
        return None
    year = int(reader.folded(place))
    return Found(place, place + 1, When(date(year, 1, 1), date(year + 1, 1, 1)))


def day_of_month(reader: Reader, place: int) -> Found | None:
    """the 25th, dia 25: of this month, or of the next when it is over and meant to come"""
    start = reader.skip(reader.known.on_the, place)
    number = DAY_NUMBER.fullmatch(reader.folded(start))
    if start == place or number is None:
        return None
    if reader.folded(start).isdecimal() and reader.calendar.month_first:
        return None  # `the 25`
    named = month_day(reader, start)
    if named is not None:
        return replace(named, first=place)
    today, wanted = reader.today, int(number[1])
    said = month_said(reader, start + 1)
    if said is not None:
        first = first_of_month(today, said[1])
        return Found(place, said[0], day(date(first.year, first.month, wanted)))
    here = date_or_none(today.year, today.month, wanted)
    later = first_of_month(today, 1)
    if here is None or (reader.ahead and here < today):
        here = date(later.year, later.month, wanted)
    return Found(place, start + 1, day(here), bare=True)


def month_said(reader: Reader, place: int) -> tuple[int, int] | None:
    """One past `of this month`, `del mes que viene`, and how many months from now it is."""
    known = reader.known
    start = reader.skip(known.glue, place)
    if start >= len(reader.words):
        return None
    before = known.shift_before.meant(reader.words, start)
    start = before[0] if before else start
    unit = known.units.meant(reader.words, start) if start < len(reader.words) else None
    if unit is None or unit[1] != "month":
        return None
    after = known.shift_after.meant(reader.words, unit[0]) if unit[0] < len(reader.words) else None
    if before is None and after is None:
        return None
    return (after[0], after[1]) if after else (unit[0], before[1] if before else 0)


DAYS: Sequence[Recogniser] = (
    named_day,
    iso_day,
    numeric_day,
    weekday,
    span,
    distance,
    month_day,
    whole_year,
    day_of_month,
)


# ranges and bounds


def ranged(reader: Reader, days: list[Found]) -> list[Found]:
    """*days* with `between … and …`, `from … to …`, `before …` taken into them."""
    made: list[Found] = []
    index = 0
    while index < len(days):
        here = days[index]
        following = days[index + 1] if index + 1 < len(days) else None
        both = between(reader, here, following) or half_named(reader, here)
        made.append(both or bounded(reader, here))
        index += 2 if both and following and both.end == following.end else 1
    return made


def between(reader: Reader, one: Found, two: Found | None) -> Found | None:
    if two is None or reader.skip(reader.known.up_to, one.end) not in (two.first, two.first + 1):
        return None
    begins = range_begins(reader, one.first)
    start, last, end = one.when.start, two.when.start, two.when.end
    if begins is None or start is None or last is None or end is None:
        return None
    if one.bare and not two.bare:
        first = date_or_none(last.year, last.month, start.day)  # entre el 3 y el 10 de marzo
        return Found(begins, two.end, range_of(first, end))
    return Found(begins, two.end, range_of(start, end))


def range_begins(reader: Reader, place: int) -> int | None:
    if reader.skip(reader.known.from_, place) > place:
        return place  # del 3 al 10
    start = reader.before(reader.known.between, place)
    return start if start is not None else reader.before(reader.known.from_, place)


def range_of(start: date | None, end: date) -> When:
    return When(start, end) if start is not None and start < end else IMPOSSIBLE


def half_named(reader: Reader, last: Found) -> Found | None:
    """entre 3 e 10 de março: the first day has only its number."""
    for phrase_at in range(max(0, last.first - 3), last.first):
        if reader.skip(reader.known.up_to, phrase_at) != last.first:
            continue
        number = DAY_NUMBER.fullmatch(reader.folded(phrase_at - 1))
        begins = range_begins(reader, phrase_at - 1)
        if number is None or begins is None or not last.when.is_day or last.when.start is None:
            return None
        start = date_or_none(last.when.start.year, last.when.start.month, int(number[1]))
        return Found(begins, last.end, range_of(start, last.when.start + DAY))
    return None


def bounded(reader: Reader, found: Found) -> Found:
    """*found* with the word before it: before, until, since, after."""
    start, end = found.when.start, found.when.end
    if start is None or end is None:
        return found
    for place in range(max(0, found.first - 3), found.first):
        bound = reader.known.bounds.meant(reader.words, place)
        if bound is None or bound[0] != found.first:
            continue
        if bound[1] == "since" and is_from(reader, place) and not is_dated(reader, found):
            return replace(found, first=place)  # `from friday` is that friday's
        whens = {
            "before": When(None, start),
            "until": When(None, end),
            "since": When(start, None),
            "after": When(end, None),
        }
        return Found(place, found.end, whens[bound[1]])
    return found


def is_from(reader: Reader, place: int) -> bool:
    return reader.skip(reader.known.from_, place) > place


def is_dated(reader: Reader, found: Found) -> bool:
    """Whether a day is given by its date: since then, where `from last month` is that month's."""
    return found.when.is_day and any(
        reader.folded(place)[:1].isdecimal() for place in range(found.first, found.end)
    )


# times of day


def clock(reader: Reader, place: int) -> Found | None:
    """10:30, 10h, 3pm, at 10, a las 3 de la tarde"""
    start = reader.skip(reader.known.at, place)
    found = CLOCK.fullmatch(reader.folded(start))
    if found is None:
        return None
    said_at, marked = start > place, bool(found[2] or found[5] or "h" in found.group())
    hour, minute = int(found[1]), int(found[2] or found[3] or found[4] or 0)
    end = start + 1
    if found[4] and not (found[5] or said_at):
        return None  # an amount
    half = reader.skip(reader.known.half_past, end)
    if said_at and half > end:
        minute, end = 30, half
    numbered = end
    end, suffix = suffixed(reader, end, found[5] or "")
    if not (marked or suffix or (said_at and is_said_as_time(reader, place, end))):
        return None
    when = time_of(hour, minute, suffix, clear=is_clear(found, suffix))
    if is_this(reader, numbered, end) and not when.impossible:
        when = combined(when, day(reader.today))
    return Found(place, end, when)


def suffixed(reader: Reader, place: int, suffix: str) -> tuple[int, str]:
    """What follows a number and makes a time of it: pm, o'clock, de la tarde."""
    if suffix in ("am", "pm"):
        return place, suffix
    if reader.folded(place) in ("am", "pm"):
        return place + 1, reader.folded(place)
    after_hours = reader.skip(reader.known.hours, place)
    said = "h" if after_hours > place or suffix else ""
    if after_hours < len(reader.words):
        part = reader.known.parts.meant(reader.words, after_hours)
        if part is not None:
            return part[0], "pm" if part[1][0] >= 12 else "am"
    return after_hours, said


def is_said_as_time(reader: Reader, place: int, end: int) -> bool:
    """Whether `at` before a bare number can mean nothing else.

    Unaccented, the Portuguese `às 10` and `a 10` may also be an article or `to`; then a time must
    be the end of what is said.
    """
    word = reader.words[place]
    if word.folded not in ("a", "as", "das", "las") or reader.words[place + 1].folded in (
        "la",
        "las",
    ):
        return True
    return "à" in word.written.lower() or end >= len(reader.words) or reader.words[end].is_mark


def is_clear(found: re.Match[str], suffix: str) -> bool:
    """Whether a time says itself which half of the day it is in."""
    return bool(suffix) or "h" in found.group() or found[1].startswith("0")


def time_of(hour: int, minute: int, suffix: str, *, clear: bool) -> When:
    if suffix in ("am", "pm") and 1 <= hour <= 12:
        hour = hour % 12 + (12 if suffix == "pm" else 0)
    if hour > 23 or minute > 59:
        return IMPOSSIBLE
    at = time(hour, minute)
    if clear or not 1 <= hour <= LAST_UNCLEAR_HOUR:
        return When(at=at)
    return When(at=at, others=(When(at=time(hour + 12, minute)),))


def named_time(reader: Reader, place: int) -> Found | None:
    """noon"""
    start = reader.skip(reader.known.at, place)
    if start >= len(reader.words):
        return None
    found = reader.known.named_times.meant(reader.words, start)
    return Found(place, found[0], When(at=time(found[1]))) if found else None


def part_of_day(reader: Reader, place: int) -> Found | None:
    """in the morning; this morning, which is today's"""
    found = reader.known.parts.meant(reader.words, place)
    if found is None:
        return None
    when = When(part=found[1])
    if is_this(reader, place, found[0]):
        when = combined(when, day(reader.today))
    return Found(place, found[0], when)


def is_this(reader: Reader, first: int, end: int) -> bool:
    """Whether a part of the day is said to be that of today: 6 this evening, esta tarde."""
    return first < end and reader.folded(first) in reader.calendar.this


TIMES: Sequence[Recogniser] = (named_time, clock, part_of_day)


# a day and its time


def joined(reader: Reader, found: list[Found]) -> list[Found]:
    """*found* with a time and the day next to it made one."""
    made: list[Found] = []
    for each in found:
        last = made[-1] if made else None
        if last is not None and are_next(reader, last, each):
            made[-1] = Found(last.first, each.end, combined(last.when, each.when))
        else:
            made.append(each)
    return made


def are_next(reader: Reader, one: Found, two: Found) -> bool:
    if not complement(one.when, two.when) or two.first - one.end > 1:
        return False
    return two.first == one.end or is_glue(reader, one.end)


def is_glue(reader: Reader, place: int) -> bool:
    word = reader.words[place]
    at_or_on = reader.skip(reader.known.glue, place) + reader.skip(reader.known.on_the, place)
    return word.folded == "," or at_or_on > 2 * place or word.folded in ("on", "at", "em", "en")


def complement(one: When, two: When) -> bool:
    """Whether one says the day and the other the time."""
    day_and_time = [each.start is not None or each.end is not None for each in (one, two)]
    timed = [each.at is not None or each.part is not None for each in (one, two)]
    return (day_and_time[0] and not timed[0] and not day_and_time[1] and timed[1]) or (
        day_and_time[1] and not timed[1] and not day_and_time[0] and timed[0]
    )


def combined(one: When, two: When) -> When:
    first, *rest = [merged(a, b) for a in one.readings for b in two.readings]
    return replace(first, others=tuple(rest), impossible=one.impossible or two.impossible)


def merged(one: When, two: When) -> When:
    dated, timed = (one, two) if one.start is not None or one.end is not None else (two, one)
    return replace(dated, at=timed.at, part=timed.part, others=())


# into the clinic's zone


def moments(of: date, at: time, zone: ZoneInfo) -> list[datetime]:
    """The moments that a time of a day means in *zone*: one; two where clocks are put back.

    Where they are put forward there is none, and those before and after the gap are given, both
    unlike what was said.
    """
    early = datetime.combine(of, at, zone)
    late = early.replace(fold=1)
    if early.utcoffset() == late.utcoffset():
        return [early]
    return sorted([real(early), real(late)], key=lambda each: each.astimezone(UTC))


def real(moment: datetime) -> datetime:
    return moment.astimezone(UTC).astimezone(moment.tzinfo)


def start_of(of: date, zone: ZoneInfo) -> datetime:
    """The first moment of a day; in some zones clocks are put forward at midnight."""
    return real(datetime.combine(of, time.min, zone))
