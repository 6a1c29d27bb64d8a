"""Time zones that differ: of those that behave alike over the years of tests there is one."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

FIRST, LAST = date(2026, 1, 1), date(2030, 12, 31)


def distinct() -> list[str]:
    known: dict[tuple[timedelta | None, ...], str] = {}
    # Whoever has the same offset every tenth day changes clocks on the same days.
    days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=10 * n) for n in range(180)]
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        known.setdefault(tuple(each.astimezone(zone).utcoffset() for each in days), name)
    return sorted(known.values())


def changes(name: str) -> list[date]:
    """The days of a zone, from FIRST to LAST, on which or beside which clocks are changed."""
    zone = ZoneInfo(name)
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days)]
    offsets = [
        datetime(each.year, each.month, each.day, 12, tzinfo=zone).utcoffset() for each in days
    ]
    return [
        day + timedelta(days=beside)
        for day, one, two in zip(days[1:], offsets, offsets[1:], strict=False)
        if one != two
        for beside in (-1, 0, 1)
    ]


ZONES = distinct()
