"""Days and times in words, in the clinic's zone (GAT-3). Waits for nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from services.gateway.interpret.lexicon import Lexicon
from services.gateway.interpret.text import Word, find, find_any, fold
from services.gateway.reading import Reading

NUMERIC = re.compile(r"(\d{1,2})[/.-](\d{1,2})(?:[/.-](\d{2,4}))?")
CLOCK = re.compile(r"(\d{1,2})(?:[:h.](\d{2}))?h?")
HALF_DAY = re.compile(r"(\d{1,2})(?::(\d{2}))?(am|pm)")


@dataclass(frozen=True)
class When:
    """Days that words mean: from *start*, up to and without *end*; None is open."""

    start: date | None
    end: date | None
    words: tuple[int, int]

    @property
    def is_day(self) -> bool:
        return bool(self.start and self.end and self.end - self.start == timedelta(days=1))


def when_in(words: Sequence[Word], lexicon: Lexicon, reading: Reading) -> When | None:
    """The days that *words* name, or None. Raises ValueError for a day that does not exist."""
    today = reading.now.astimezone(reading.time_zone).date()
    span = span_in(words, lexicon, today)
    if span is not None:
        return span
    days = days_in(words, lexicon, reading.locale, today)
    if not days:
        return None
    first, place = days[0]
    if len(days) > 1 and find_any(words[: place[0]], lexicon.between):
        second, last = days[1]
        return When(first, second + timedelta(days=1), (place[0], last[1]))
    if said_just_before(words, lexicon.before, place[0]):
        return When(None, first, place)
    if said_just_before(words, lexicon.after, place[0]) and not is_weekly(words, place, lexicon):
        return When(first, None, place)
    return When(first, first + timedelta(days=1), place)


def is_weekly(words: Sequence[Word], place: tuple[int, int], lexicon: Lexicon) -> bool:
    """`from friday` is that friday; `from 2026-01-01` is since then."""
    return words[place[0]].folded in {form for forms in lexicon.weekdays for form in forms}


def said_just_before(words: Sequence[Word], phrases: Sequence[str], place: int) -> bool:
    near = words[max(0, place - 3) : place]
    return find_any(near, phrases) is not None


def span_in(words: Sequence[Word], lexicon: Lexicon, today: date) -> When | None:
    for phrase in sorted(lexicon.spans, key=len, reverse=True):
        place = find(words, phrase)
        if place is not None:
            unit, offset = lexicon.spans[phrase]
            start, end = week(today, offset) if unit == "week" else month(today, offset)
            return When(start, end, place)
    for index, word in enumerate(words[:-1]):
        if word.folded in lexicon.last_days and words[index + 1].folded.isdigit():
            count = min(int(words[index + 1].folded), 3650)
            start = today - timedelta(days=count - 1)
            return When(start, today + timedelta(days=1), (index, min(index + 3, len(words))))
    return None


def week(today: date, offset: int) -> tuple[date, date]:
    monday = today - timedelta(days=today.weekday()) + timedelta(weeks=offset)
    return monday, monday + timedelta(weeks=1)


def month(today: date, offset: int) -> tuple[date, date]:
    def first(shift: int) -> date:
        index = today.year * 12 + today.month - 1 + shift
        return date(index // 12, index % 12 + 1, 1)

    return first(offset), first(offset + 1)


def days_in(
    words: Sequence[Word], lexicon: Lexicon, locale: str, today: date
) -> list[tuple[date, tuple[int, int]]]:
    """Every single day that *words* name, in their order."""
    found: list[tuple[date, tuple[int, int]]] = []
    place = 0
    while place < len(words):
        day, used = day_at(words, place, lexicon, locale, today)
        if day is not None:
            found.append((day, (place, place + used)))
        place += max(used, 1)
    return found


def day_at(
    words: Sequence[Word], place: int, lexicon: Lexicon, locale: str, today: date
) -> tuple[date | None, int]:
    """The day that is named at *place*, and how many words name it."""
    for phrase in sorted(lexicon.days, key=len, reverse=True):
        at = find(words, phrase, place)
        if at is not None and at[0] == place:
            return today + timedelta(days=lexicon.days[phrase]), at[1] - at[0]
    folded = words[place].folded
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", folded):
        return date.fromisoformat(folded), 1
    if numeric := NUMERIC.fullmatch(folded):
        return numeric_day(numeric, locale, today), 1
    for index, forms in enumerate(lexicon.weekdays):
        if folded in forms:
            return today + timedelta(days=(index - today.weekday()) % 7 or 7), 1
    return named_day(words, place, lexicon, today)


def numeric_day(found: re.Match[str], locale: str, today: date) -> date | None:
    one, two, year = int(found[1]), int(found[2]), found[3]
    day, of_month = (two, one) if locale == "en-US" else (one, two)
    if not 1 <= of_month <= 12:
        raise ValueError(found.group())
    if year is None:
        return date(today.year, of_month, day)
    return date(int(year) + (2000 if len(year) == 2 else 0), of_month, day)


def named_day(
    words: Sequence[Word], place: int, lexicon: Lexicon, today: date
) -> tuple[date | None, int]:
    """`3 de março`, `March 3`, `3 March 2026`."""
    near = [word.folded for word in words[place : place + 5]]
    plain = [word for word in near if word not in ("de", "del", "do", "of", ",", "the")]
    kept = plain[:3]
    for first, second in ((0, 1), (1, 0)):
        if len(kept) > 1 and kept[first] in lexicon.months and is_day_number(kept[second]):
            year = int(kept[2]) if len(kept) > 2 and re.fullmatch(r"20\d\d", kept[2]) else None
            number = int(re.sub(r"\D", "", kept[second]))
            last = kept[2] if year else kept[1]
            day = date(year or today.year, lexicon.months.index(kept[first]) + 1, number)
            return day, near.index(last) + 1
    return None, 0


def is_day_number(text: str) -> bool:
    return re.fullmatch(r"\d{1,2}(st|nd|rd|th|º|o)?", text) is not None


def time_in(words: Sequence[Word], lexicon: Lexicon) -> tuple[time, tuple[int, int]] | None:
    """The time of day that *words* name, or None. Raises ValueError for one that is none."""
    for place, word in enumerate(words):
        if half := HALF_DAY.fullmatch(word.folded):
            hour = int(half[1]) % 12 + (12 if half[3] == "pm" else 0)
            return time(hour, int(half[2] or 0)), (place, place + 1)
        clock = CLOCK.fullmatch(word.folded)
        if clock and (clock[2] or "h" in word.folded or is_at(words, place, lexicon)):
            hour = int(clock[1])
            used = 1
            if place + 1 < len(words) and words[place + 1].folded in ("am", "pm"):
                hour = hour % 12 + (12 if words[place + 1].folded == "pm" else 0)
                used = 2
            return time(hour, int(clock[2] or 0)), (place, place + used)
    return None


def is_at(words: Sequence[Word], place: int, lexicon: Lexicon) -> bool:
    return any(
        [word.folded for word in words[max(0, place - len(phrase.split())) : place]]
        == fold(phrase).split()
        for phrase in lexicon.at
        if phrase != "a"
    )


def moment(day: date, at: time, reading: Reading) -> str:
    return datetime.combine(day, at, reading.time_zone).isoformat()
