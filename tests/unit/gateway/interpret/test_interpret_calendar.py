"""Words for days at every kind of date and in every kind of zone (ALL-6, GAT-3).

The kind: months and years counted as 30 and 365 days, days as 24 hours, and times of day added to a
midnight that is not there.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from dateutil.relativedelta import relativedelta
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.dates import found_in, moments, start_of
from services.gateway.interpret.languages import lexicon_of
from services.gateway.interpret.text import words_within
from tests.moments import MOMENTS, Moment
from tests.unit.gateway.interpret.aids import operations, read, value_of
from tests.zones import ZONES

DAY, INSTANT = timedelta(days=1), timedelta(microseconds=1)
# Every date of 14 months with a 29 February and a 28 February of another year in them.
DATES = [date(2027, 1, 20) + timedelta(days=day) for day in range(420)]


def spans(today: date) -> dict[tuple[str, str], tuple[date, date]]:
    """What each text means on a day, up to and without its end, reckoned by another library."""
    monday = today + relativedelta(weekday=0) - (7 * DAY if today.weekday() else timedelta(0))
    first, year = today.replace(day=1), today.replace(month=1, day=1)

    def months(count: int) -> date:
        return first + relativedelta(months=count)

    def one(day: date) -> tuple[date, date]:
        return day, day + DAY

    return {
        ("en-US", "today"): one(today),
        ("en-US", "tomorrow"): one(today + DAY),
        ("en-US", "yesterday"): one(today - DAY),
        ("en-US", "this week"): (monday, monday + 7 * DAY),
        ("en-US", "the next week"): (monday + 7 * DAY, monday + 14 * DAY),
        ("en-US", "last week"): (monday - 7 * DAY, monday),
        ("en-US", "this month"): (months(0), months(1)),
        ("en-US", "next month"): (months(1), months(2)),
        ("en-US", "last month"): (months(-1), months(0)),
        ("en-US", "this year"): (year, year + relativedelta(years=1)),
        ("en-US", "last year"): (year - relativedelta(years=1), year),
        ("en-US", "the last 7 days"): (today - 6 * DAY, today + DAY),
        ("en-US", "in 3 days"): one(today + 3 * DAY),
        ("en-US", "2 weeks ago"): one(today - 14 * DAY),
        ("en-US", "in 1 month"): one(today + relativedelta(months=1)),
        ("en-US", "3 months ago"): one(today - relativedelta(months=3)),
        ("en-US", "in 1 year"): one(today + relativedelta(years=1)),
        ("en-US", "2 years ago"): one(today - relativedelta(years=2)),
        ("en-US", "the next 2 months"): (today, today + relativedelta(months=2)),
        ("en-US", "the last 3 months"): (today - relativedelta(months=3) + DAY, today + DAY),
        # As plans count a year (ENT-1), whether or not a 29 February is in it.
        ("en-US", "the last 12 months"): (today - 364 * DAY, today + DAY),
        ("en-US", "the last 1 year"): (today - 364 * DAY, today + DAY),
        ("pt-BR", "amanhã"): one(today + DAY),
        ("pt-BR", "semana que vem"): (monday + 7 * DAY, monday + 14 * DAY),
        ("pt-BR", "mês passado"): (months(-1), months(0)),
        ("pt-BR", "há 2 meses"): one(today - relativedelta(months=2)),
        ("es-ES", "pasado mañana"): one(today + 2 * DAY),
        ("es-ES", "la próxima semana"): (monday + 7 * DAY, monday + 14 * DAY),
        ("es-ES", "el mes que viene"): (months(1), months(2)),
        ("es-ES", "dentro de 1 mes"): one(today + relativedelta(months=1)),
    }


@pytest.mark.parametrize(("locale", "text"), spans(DATES[0]))
def test_words_for_days_are_those_of_the_calendar_on_every_date(locale: str, text: str) -> None:
    """ALL-6, GAT-3: the ends of months and years, and 29 February, among them."""
    words, lexicon = words_within(text), lexicon_of(locale)
    for today in DATES:
        (found,) = found_in(words, lexicon, today)
        assert (found.when.start, found.when.end) == spans(today)[locale, text], today


def bounds(text: str, moment: Moment) -> list[datetime]:
    """The moments between which *text* reads, in UTC, when it is said at *moment*."""
    now = moment.at.astimezone(UTC)
    (shown,) = read(text, zone=moment.zone, now=now).operations
    values = [each.value.string_value for each in shown.operation.selector.conditions.conditions]
    return sorted(datetime.fromisoformat(each).astimezone(UTC) for each in values)


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_tomorrow_is_the_whole_of_the_zones_next_day(moment: Moment) -> None:
    """ALL-6: of 23, 24 or 25 hours, and at 7 it is 7 by its clock."""
    zone = ZoneInfo(moment.zone)
    tomorrow = moment.at.date() + DAY
    start, end = bounds("show the appointments of tomorrow", moment)
    assert (start - INSTANT).astimezone(zone).date() == tomorrow - DAY
    assert start.astimezone(zone).date() == (end - INSTANT).astimezone(zone).date() == tomorrow
    assert end.astimezone(zone).date() == tomorrow + DAY
    noon, evening = bounds("show the appointments of tomorrow afternoon", moment)
    assert [each.astimezone(zone).time() for each in (noon, evening)] == [time(12), time(18)]
    assert bounds("show the appointments of tomorrow morning", moment) == [start, noon]
    assert bounds("show the appointments of tomorrow evening", moment) == [evening, end]
    at_seven = value_of(datetime.combine(tomorrow, time(7), zone).isoformat())
    now = moment.at.astimezone(UTC)
    words = "book an appointment for Ana Souza tomorrow at 7 am"
    booked = operations(words, zone=moment.zone, now=now)
    assert booked == [f"CREATE appointment: client_name=Ana Souza, starts_at={at_seven}"]


@given(
    day=st.dates(date(2000, 1, 1), date(2037, 12, 31)),
    at=st.times().map(lambda each: each.replace(second=0, microsecond=0)),
    name=st.sampled_from(ZONES),
)
def test_a_time_of_a_day_is_what_clocks_show_or_what_is_around_it(
    day: date, at: time, name: str
) -> None:
    """ALL-6, GAT-4: one moment, or two where clocks are put back, or those around a gap."""
    found = moments(day, at, ZoneInfo(name))
    said = datetime.combine(day, at)
    for each in found:
        assert each.astimezone(UTC).astimezone(each.tzinfo).isoformat() == each.isoformat()
    shown = [each.replace(tzinfo=None, fold=0) == said for each in found]
    assert shown in ([True], [True, True], [False, False])
    if shown == [False, False]:
        assert found[0].replace(tzinfo=None) < said < found[1].replace(tzinfo=None)
    assert [each.astimezone(UTC) for each in found] == sorted(
        {each.astimezone(UTC) for each in found}
    )


@given(day=st.dates(date(2000, 1, 1), date(2037, 12, 31)), name=st.sampled_from(ZONES))
def test_a_day_begins_with_its_first_moment(day: date, name: str) -> None:
    """ALL-6: also where its midnight is skipped, or comes twice."""
    zone = ZoneInfo(name)
    start = start_of(day, zone)
    assert start.astimezone(UTC).astimezone(zone).isoformat() == start.isoformat()
    before = (start.astimezone(UTC) - INSTANT).astimezone(zone)
    assert before.date() < day <= start.date()
