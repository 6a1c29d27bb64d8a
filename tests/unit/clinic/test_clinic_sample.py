"""The sample holds what the demo, the README and the tests say of it, on every date (ALL-6).

The kind: records that reach a fixed number of days ahead, asked for in words that follow the
calendar: "the next week" ends 13 days after a Monday, "next month" 61 days after its first day.
"""

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from examples.clinic import sample
from examples.clinic.cli import DEMO_CLINIC
from services.gateway.interpret.dates import found_in
from services.gateway.interpret.languages import lexicon_of
from services.gateway.interpret.text import words_within

ZONE = ZoneInfo("America/Sao_Paulo")
# Every date of 14 months with a 29 February in them.
DATES = [date(2027, 12, 20) + timedelta(days=day) for day in range(430)]
WORDS = ("today", "tomorrow", "this week", "the next week", "next month", "the last 60 days")
# More of them in one instruction ask for confirmation (GAT-5).
UNCONFIRMED = 5


@pytest.fixture(scope="module")
def made() -> dict[date, sample.Sample]:
    return {
        each: sample.make(1, DEMO_CLINIC, datetime.combine(each, time(23, 55), ZONE), ZONE)
        for each in DATES
    }


@pytest.mark.parametrize("words", WORDS)
def test_every_day_that_words_reach_has_appointments(
    made: dict[date, sample.Sample], words: str
) -> None:
    """ALL-6: whichever day of the week and of the month it is."""
    for today, each in made.items():
        (found,) = found_in(words_within(words), lexicon_of("en-US"), today)
        assert found.when.start is not None
        assert found.when.end is not None
        count = (found.when.end - found.when.start).days
        wanted = {found.when.start + timedelta(days=at) for at in range(count)}
        booked = {row["starts_at"].date() for row in each.appointments}
        assert wanted <= booked, (today, sorted(wanted - booked))


def test_the_next_week_always_asks_for_confirmation(made: dict[date, sample.Sample]) -> None:
    """ALL-6, GAT-5: more than five appointments can be cancelled in it."""
    for today, each in made.items():
        (found,) = found_in(words_within("the next week"), lexicon_of("en-US"), today)
        assert found.when.start is not None
        assert found.when.end is not None
        scheduled = [
            row
            for row in each.appointments
            if row["status"] == "scheduled"
            and found.when.start <= row["starts_at"].date() < found.when.end
        ]
        assert len(scheduled) > UNCONFIRMED, today


def test_ana_souza_has_one_appointment_ahead_and_it_is_tomorrows(
    made: dict[date, sample.Sample],
) -> None:
    """ALL-6: the one that the demo cancels."""
    for today, each in made.items():
        (ana,) = [row["id"] for row in each.clients if row["name"] == "Ana Souza"]
        now = datetime.combine(today, time(23, 55), ZONE)
        (ahead,) = [
            row
            for row in each.appointments
            if row["client_id"] == ana and row["starts_at"] > now and row["status"] == "scheduled"
        ]
        assert ahead["starts_at"].date() == today + timedelta(days=1)


def test_every_record_has_an_id_of_its_own(made: dict[date, sample.Sample]) -> None:
    """DOM-2: none is lost among those that are there already."""
    for each in made.values():
        for rows in (each.clients, each.appointments, each.invoices):
            assert len({row["id"] for row in rows}) == len(rows)
            assert len({row["source_id"] for row in rows if "source_id" in row}) in (0, len(rows))


def test_data_kept_from_yesterday_still_has_what_the_demo_asks_for(
    made: dict[date, sample.Sample],
) -> None:
    """ALL-6: a suite started again on the next day adds Ana Souza's appointment of tomorrow."""
    for today, each in made.items():
        if (kept := made.get(today - timedelta(days=1))) is None:
            continue
        known = {row["id"] for row in kept.appointments}
        (ana,) = [row["id"] for row in each.clients if row["name"] == "Ana Souza"]
        tomorrow = today + timedelta(days=1)
        assert [
            row
            for row in each.appointments
            if row["id"] not in known
            and row["client_id"] == ana
            and row["starts_at"].date() == tomorrow
        ]
