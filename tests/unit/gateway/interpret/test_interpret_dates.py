"""Days and times in words, in the clinic's zone (GAT-3, GAT-4)."""

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.dates import When, found_in
from services.gateway.interpret.languages import lexicon_of
from services.gateway.interpret.text import words_within
from tests.unit.gateway.interpret.aids import LOCALES, choices, day, doubt, operations

TODAY = date(2026, 11, 23)  # a Monday


def whens(text: str, locale: str, *, ahead: bool = False) -> list[When]:
    found = found_in(words_within(text), lexicon_of(locale), TODAY, ahead=ahead)
    return [each.when for each in found]


def spans(text: str, locale: str) -> list[tuple[str, str]]:
    return [
        (str(each.start) if each.start else "", str(each.end) if each.end else "")
        for each in whens(text, locale)
    ]


DAYS = [
    ("en-US", "today", "2026-11-23", "2026-11-24"),
    ("en-US", "the day after tomorrow", "2026-11-25", "2026-11-26"),
    ("en-US", "next Tuesday", "2026-11-24", "2026-11-25"),
    ("en-US", "last Friday", "2026-11-20", "2026-11-21"),
    ("en-US", "Friday, November 27", "2026-11-27", "2026-11-28"),
    ("en-US", "Tuesday of next week", "2026-12-01", "2026-12-02"),
    ("en-US", "this week", "2026-11-23", "2026-11-30"),
    ("en-US", "this month", "2026-11-01", "2026-12-01"),
    ("en-US", "the last 7 days", "2026-11-17", "2026-11-24"),
    ("en-US", "in 3 days", "2026-11-26", "2026-11-27"),
    ("en-US", "2 weeks ago", "2026-11-09", "2026-11-10"),
    ("en-US", "12/10", "2026-12-10", "2026-12-11"),
    ("en-US", "12/10/2025", "2025-12-10", "2025-12-11"),
    ("en-US", "March 3rd, 2027", "2027-03-03", "2027-03-04"),
    ("en-US", "in March", "2027-03-01", "2027-04-01"),
    ("en-US", "in 2025", "2025-01-01", "2026-01-01"),
    ("en-US", "between March 3 and March 10", "2027-03-03", "2027-03-11"),
    ("en-US", "from the 3rd to the 10th of December", "2026-12-03", "2026-12-11"),
    ("en-US", "between 2026-12-01 and 2026-12-15", "2026-12-01", "2026-12-16"),
    ("en-US", "before December 1", "", "2026-12-01"),
    ("en-US", "until December 1", "", "2026-12-02"),
    ("en-US", "since 2026-11-01", "2026-11-01", ""),
    ("en-US", "after today", "2026-11-24", ""),
    ("en-US", "from Friday", "2026-11-27", "2026-11-28"),
    ("pt-BR", "amanhã", "2026-11-24", "2026-11-25"),
    ("pt-BR", "depois de amanhã", "2026-11-25", "2026-11-26"),
    ("pt-BR", "próxima terça", "2026-11-24", "2026-11-25"),
    ("pt-BR", "sexta que vem", "2026-11-27", "2026-11-28"),
    ("pt-BR", "sexta-feira passada", "2026-11-20", "2026-11-21"),
    ("pt-BR", "semana que vem", "2026-11-30", "2026-12-07"),
    ("pt-BR", "mês passado", "2026-10-01", "2026-11-01"),
    ("pt-BR", "últimos 7 dias", "2026-11-17", "2026-11-24"),
    ("pt-BR", "daqui a 3 dias", "2026-11-26", "2026-11-27"),
    ("pt-BR", "há 3 dias", "2026-11-20", "2026-11-21"),
    ("pt-BR", "10/12", "2026-12-10", "2026-12-11"),
    ("pt-BR", "3 de março de 2027", "2027-03-03", "2027-03-04"),
    ("pt-BR", "dia 25", "2026-11-25", "2026-11-26"),
    ("pt-BR", "entre 1 e 15 de dezembro", "2026-12-01", "2026-12-16"),
    ("pt-BR", "de 3 a 10 de dezembro", "2026-12-03", "2026-12-11"),
    ("pt-BR", "a partir de hoje", "2026-11-23", ""),
    ("es-ES", "mañana", "2026-11-24", "2026-11-25"),
    ("es-ES", "pasado mañana", "2026-11-25", "2026-11-26"),
    ("es-ES", "el martes que viene", "2026-11-24", "2026-11-25"),
    ("es-ES", "el viernes pasado", "2026-11-20", "2026-11-21"),
    ("es-ES", "la próxima semana", "2026-11-30", "2026-12-07"),
    ("es-ES", "este mes", "2026-11-01", "2026-12-01"),
    ("es-ES", "hace 3 días", "2026-11-20", "2026-11-21"),
    ("es-ES", "10/12/2026", "2026-12-10", "2026-12-11"),
    ("es-ES", "el 25 de noviembre", "2026-11-25", "2026-11-26"),
    ("es-ES", "entre el 3 y el 10 de diciembre", "2026-12-03", "2026-12-11"),
    ("es-ES", "del 3 al 10 de diciembre", "2026-12-03", "2026-12-11"),
]

TIMES = [
    ("en-US", "at 10", time(10)),
    ("en-US", "at 10:30", time(10, 30)),
    ("en-US", "3pm", time(15)),
    ("en-US", "3:15 p.m.", time(15, 15)),
    ("en-US", "at 12 am", time(0)),
    ("en-US", "at noon", time(12)),
    ("en-US", "at 3 in the afternoon", time(15)),
    ("pt-BR", "às 10", time(10)),
    ("pt-BR", "às 10h30", time(10, 30)),
    ("pt-BR", "15h", time(15)),
    ("pt-BR", "às 3 da tarde", time(15)),
    ("pt-BR", "ao meio-dia", time(12)),
    ("es-ES", "a las 10", time(10)),
    ("es-ES", "a las 10 y media", time(10, 30)),
    ("es-ES", "a las 3 de la tarde", time(15)),
    ("es-ES", "a las 16:00", time(16)),
]


@pytest.mark.parametrize(("locale", "text", "start", "end"), DAYS)
def test_words_for_days_are_read_as_people_mean_them(
    locale: str, text: str, start: str, end: str
) -> None:
    """GAT-3: from the first day up to and without the last."""
    assert spans(text, locale) == [(start, end)]


@pytest.mark.parametrize(("locale", "text", "at"), TIMES)
def test_words_for_times_are_read_as_people_mean_them(locale: str, text: str, at: time) -> None:
    """GAT-3."""
    (when,) = whens(text, locale)
    assert when.at == at
    assert not when.others


@pytest.mark.parametrize(
    ("locale", "text"), [("en-US", "at 3"), ("pt-BR", "às 3"), ("es-ES", "a las 3")]
)
def test_a_bare_early_hour_may_be_of_the_night_or_the_afternoon(locale: str, text: str) -> None:
    """GAT-4."""
    (when,) = whens(text, locale)
    assert [each.at for each in when.readings] == [time(3), time(15)]


@pytest.mark.parametrize(
    "text", ["February 30", "2026-13-01", "Friday, November 28", "at 25:10", "31/31"]
)
def test_a_day_or_time_that_does_not_exist_is_told_apart(text: str) -> None:
    """GAT-4: a wrong date is asked about, never moved to a near one."""
    assert [each.impossible for each in whens(text, "en-US")] == [True]


def test_an_hour_that_may_mean_two_is_asked_with_both() -> None:
    """GAT-4."""
    text = "book an appointment for Ana Souza tomorrow at 3"
    assert doubt(text) == "DATE"
    assert choices(text) == [
        "Tuesday, November 24, 2026 3:00 AM"
        " / CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T03:00",
        "Tuesday, November 24, 2026 3:00 PM"
        " / CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T15:00",
    ]


def test_a_weekday_said_on_itself_is_asked_with_both() -> None:
    """GAT-4: on a Monday, Monday is today or in a week."""
    assert doubt("cancel Ana Souza's appointment on Monday") == "DATE"
    assert len(choices("cancel Ana Souza's appointment on Monday")) == 2


def test_a_numeric_date_that_fits_only_the_other_order_is_asked() -> None:
    """GAT-4."""
    text = "book an appointment for Ana Souza on 13/05 at 10am"
    assert doubt(text) == "DATE"
    assert choices(text) == [
        "Thursday, May 13, 2027 10:00 AM"
        " / CREATE appointment: client_name=Ana Souza, starts_at=2027-05-13T10:00"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "book an appointment for Ana Souza tomorrow",
        "book an appointment for Ana Souza at 10am",
        "book an appointment for Ana Souza on February 30 at 10am",
        "move Ana Souza's appointment to Friday",
        "reschedule Ana Souza's appointment",
    ],
)
def test_half_a_time_or_an_impossible_one_is_asked(text: str) -> None:
    """GAT-4."""
    assert doubt(text) == "DATE"


def test_a_new_time_alone_keeps_the_day_that_was_named() -> None:
    """GAT-3."""
    assert operations("move tomorrow's appointment of Ana Souza to 4pm") == [
        "UPDATE appointment client_name=Ana Souza starts_at<2026-11-25T00:00"
        " starts_at>=2026-11-24T00:00: starts_at=2026-11-24T16:00"
    ]


def test_a_part_of_the_day_narrows_it() -> None:
    """GAT-3."""
    for locale, text in (
        ("en-US", "appointments tomorrow morning"),
        ("pt-BR", "consultas de amanhã de manhã"),
        ("es-ES", "citas de mañana por la mañana"),
    ):
        assert operations(text, locale) == [
            "READ appointment starts_at<2026-11-24T12:00 starts_at>=2026-11-24T00:00"
        ]


def test_a_time_that_the_clocks_skip_is_asked_with_those_around_it() -> None:
    """GAT-4: in New York there is no 2:30 on 14 March 2027."""
    text = "book an appointment for Ana Souza on March 14 at 2:30 am"
    assert doubt(text, zone="America/New_York") == "DATE"
    assert [each.rsplit("=", 1)[1] for each in choices(text, zone="America/New_York")] == [
        "2027-03-14T01:30:00-05:00",
        "2027-03-14T03:30:00-04:00",
    ]


def test_a_time_that_the_clocks_have_twice_is_asked_with_both() -> None:
    """GAT-4: in Madrid 2:30 comes twice on 25 October 2026."""
    now = datetime(2026, 10, 20, 10, tzinfo=UTC)
    text = "agenda una cita para Ana Souza el 25 de octubre a las 02:30"
    made = choices(text, "es-ES", zone="Europe/Madrid", now=now)
    assert [each.rsplit("=", 1)[1] for each in made] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
    ]


def test_a_day_begins_where_its_midnight_is_skipped() -> None:
    """GAT-3: in São Paulo 4 November 2018 began at one o'clock."""
    now = datetime(2018, 11, 3, 15, tzinfo=UTC)
    assert operations("show tomorrow's appointments", now=now) == [
        "READ appointment starts_at<2018-11-05T00:00:00-02:00 starts_at>=2018-11-04T01:00:00-02:00"
    ]


def test_today_is_the_clinics_today() -> None:
    """GAT-3: late in the evening it is tomorrow in UTC."""
    now = datetime(2026, 11, 24, 1, tzinfo=UTC)
    assert operations("show today's appointments", now=now) == [
        "READ appointment starts_at<2026-11-24T00:00 starts_at>=2026-11-23T00:00"
    ]


@pytest.mark.parametrize("locale", LOCALES)
@given(day=st.dates(date(2026, 1, 1), date(2027, 12, 31)))
def test_a_whole_date_is_that_day_in_every_language(locale: str, day: date) -> None:
    """GAT-3."""
    numeric = f"{day:%m/%d/%Y}" if locale == "en-US" else f"{day:%d/%m/%Y}"
    for text in (day.isoformat(), numeric):
        assert spans(text, locale)[0][0] == str(day)


@given(st.text(max_size=60), st.sampled_from(LOCALES))
def test_no_text_breaks_the_reading_of_dates(text: str, locale: str) -> None:
    """GAT-3."""
    for each in found_in(words_within(text), lexicon_of(locale), TODAY):
        assert 0 <= each.first < each.end
        assert each.when.impossible or not (
            each.when.start and each.when.end and each.when.start >= each.when.end
        )


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "show appointments tomorrow from 10am to 2pm"),
        ("en-US", "show appointments from 10am to 2pm tomorrow"),
        ("pt-BR", "mostre as consultas de amanhã das 10h às 14h"),
        ("es-ES", "muestra las citas de mañana de las 10:00 a las 14:00"),
    ],
)
def test_hours_of_a_day_are_a_span(locale: str, text: str) -> None:
    """GAT-3."""
    span = "starts_at<2026-11-24T14:00 starts_at>=2026-11-24T10:00"
    assert operations(text, locale) == [f"READ appointment {span}"]


@pytest.mark.parametrize(
    ("locale", "text", "expected"),
    [
        (
            "en-US",
            "show the appointments of the 9th of this month",
            day("2026-11-09", "2026-11-10"),
        ),
        (
            "en-US",
            "show the appointments on the 9th of next month",
            day("2026-12-09", "2026-12-10"),
        ),
        ("pt-BR", "mostre as consultas do dia 9 deste mês", day("2026-11-09", "2026-11-10")),
        ("pt-BR", "mostre as consultas do dia 9 do mês que vem", day("2026-12-09", "2026-12-10")),
        ("es-ES", "muestra las citas del día 9 de este mes", day("2026-11-09", "2026-11-10")),
        ("es-ES", "muestra las citas del 9 del mes que viene", day("2026-12-09", "2026-12-10")),
    ],
)
def test_a_number_of_a_day_is_of_the_month_that_is_said(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3."""
    assert operations(text, locale) == [f"READ appointment {expected}"]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "move Ana Souza's appointment from tomorrow to Friday at 3pm"),
        ("en-US", "change Ana Souza's appointment from tomorrow to Friday at 3pm"),
        ("pt-BR", "passe a consulta de Ana Souza de amanhã para sexta às 15h"),
        ("pt-BR", "remarque a consulta de Ana Souza de amanhã para sexta às 15h"),
        ("es-ES", "mueve la cita de Ana Souza de mañana al viernes a las 15h"),
        ("es-ES", "cambia la cita de Ana Souza de mañana al viernes a las 15h"),
    ],
)
def test_what_moves_from_a_day_to_another_does_not_last_from_one_to_the_other(
    locale: str, text: str
) -> None:
    """GAT-3: the first day says which, the second when to."""
    assert operations(text, locale) == [
        "UPDATE appointment client_name=Ana Souza starts_at<2026-11-25T00:00"
        " starts_at>=2026-11-24T00:00: starts_at=2026-11-27T15:00"
    ]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "move Ana Souza's appointment tomorrow from 10am to 2pm"),
        ("pt-BR", "mude a consulta de Ana Souza de amanhã das 10h para as 14h"),
        ("es-ES", "mueve la cita de Ana Souza de mañana de las 10h a las 14h"),
    ],
)
def test_what_moves_from_an_hour_to_another_stays_on_its_day(locale: str, text: str) -> None:
    """GAT-3."""
    assert operations(text, locale) == [
        "UPDATE appointment client_name=Ana Souza starts_at=2026-11-24T10:00:"
        " starts_at=2026-11-24T14:00"
    ]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "cancel the appointments from the 3rd to the 10th of December"),
        ("en-US", "show the appointments from the 3rd to the 10th of December"),
        ("pt-BR", "mostre as consultas de 3 a 10 de dezembro"),
        ("es-ES", "muestra las citas del 3 al 10 de diciembre"),
    ],
)
def test_elsewhere_from_one_day_to_another_are_the_days_between(locale: str, text: str) -> None:
    """GAT-3."""
    (told,) = operations(text, locale)
    assert "starts_at<2026-12-11T00:00 starts_at>=2026-12-03T00:00" in told


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "change Ana Souza's appointment to the 9th at 11am"),
        ("pt-BR", "passe a consulta de Ana Souza para o dia 9 às 11h"),
        ("es-ES", "cambia la cita de Ana Souza al 9 a las 11h"),
    ],
)
def test_nothing_is_moved_into_the_past(locale: str, text: str) -> None:
    """GAT-4: the 9th is the next one, where this month's is over."""
    (told,) = operations(text, locale)
    assert told.endswith(": starts_at=2026-12-09T11:00")


@pytest.mark.parametrize(
    ("locale", "text", "at", "part"),
    [
        ("en-US", "this evening", None, (18, 24)),
        ("en-US", "at 6 this evening", time(18), None),
        ("en-US", "this morning", None, (0, 12)),
        ("pt-BR", "esta tarde", None, (12, 18)),
        ("es-ES", "esta mañana", None, (0, 12)),
        ("es-ES", "a las 9 esta noche", time(21), None),
    ],
)
def test_a_part_of_this_day_is_today(
    locale: str, text: str, at: time | None, part: tuple[int, int] | None
) -> None:
    """GAT-4: no day is asked for, since one is said."""
    (when,) = whens(text, locale)
    assert (when.start, when.end) == (TODAY, date(2026, 11, 24))
    assert (when.at, when.part) == (at, part)
    assert not when.others
